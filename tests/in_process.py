"""Call a command in this process, as its users see it."""

from gpumlp import cli


def call(capsys, command, *arguments):
    """Return the exit code, stdout and stderr of `gpumlp COMMAND ...`; no traceback may be seen."""
    capsys.readouterr()
    try:
        code = cli.main([command, *map(str, arguments)])
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err
