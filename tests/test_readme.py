"""The README: its commands are the promised ones, its Python runs, what it points to exists."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpumlp import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && "
    ".venv/bin/python -m gpumlp.train --config configs/digits.toml",
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest',
]
FENCE = re.compile(
    r"^(?P<fence>`{3,}) *(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=fence) *$", re.M | re.S
)
FOLDERS = "gpumlp|configs|tests|benchmarks|kernels|\\.ci"


def blocks(text, *languages):
    """The fenced blocks in one of these languages, with their first line's number."""
    return [
        (text[: match.start()].count("\n") + 2, match["code"])
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


def without_blocks(text):
    return FENCE.sub("", text)


PYTHON = blocks(README, "python", "py")
FILES = {  # the configurations that a reader is asked to write, by the name in their first line
    code.partition("\n")[0].lstrip("# "): code
    for _, code in blocks(README, "toml")
    if code.startswith("# ")
}
SHELL = blocks(README, "", "sh", "bash", "console", "shell")
EVERY = [line for _, code in blocks(README, "sh") for line in code.splitlines() if line.strip()]
# their quick forms are run by tests of their own (tests/test_benchmark*.py): minutes, all together
BENCHMARKS = [line for line in EVERY if line.startswith("python benchmarks/")]
LINES = [line for line in EVERY if line not in BENCHMARKS]
HOUSES = "area,rooms,district,garden,price\n" + "".join(
    f"{40 + i},{1 + i % 5},{('north', 'south', 'east')[i % 3]},{('yes', 'no')[i % 2]},"
    f"{1000 * (40 + i) + 20_000 * (i % 3)}\n"
    for i in range(120)
)


def links(text):
    """The targets of Markdown links and images that are no web addresses or anchors."""
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", without_blocks(text))
    return sorted({t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)})


def paths(text):
    """Everything that looks like a file or folder of the repository, in prose and in commands."""
    named = re.findall(rf"(?<![\w./$-])(?:\./)?((?:{FOLDERS})/[\w./-]*\w)", text)
    named += re.findall(r"`([A-Z][A-Z]+(?:\.md)?|[\w-]+\.(?:toml|md))`", without_blocks(text))
    return sorted({name for name in named if not is_of_a_run(name)})


def is_of_a_run(name):
    """Whether a run folder has a file of this name."""
    return name in {"config.input.toml", "config.resolved.toml"}


def exists(name):
    """Whether a path or glob of the repository exists."""
    return (ROOT / name).exists() or (ROOT / "gpumlp" / name).exists()


def test_the_first_two_commands_are_the_promised_ones_verbatim():
    lines = [line for _, code in SHELL for line in code.splitlines() if line.strip()]
    assert lines[:2] == COMMANDS


def test_there_is_python_to_run():
    assert PYTHON
    assert README.count("```python") == len(PYTHON)


# ------------------------------------------------------------------- every command, verbatim


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's reader works, with the files that the README asks for."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "houses.csv").write_text(HOUSES)
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """Each line of the README's sh blocks, run by a shell in their order in one folder."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    for name in ("benchmarks", "configs"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("gpumlp", "-m gpumlp.cli")):
        script = f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = {}
    for line in LINES:
        done[line] = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=os.environ | paths,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=600,
        )
    return done


def test_there_are_commands_to_run():
    assert len(LINES) > 10


@pytest.mark.parametrize("line", [line for line, _ in PYTHON])
def test_each_python_block_runs(line, folder, ran, monkeypatch, capsys):
    """Where the commands have left their files."""
    monkeypatch.chdir(folder)
    code = dict(PYTHON)[line]
    # blank lines in front, so that a traceback has the README's line numbers
    exec(compile("\n" * (line - 1) + code, str(ROOT / "README.md"), "exec"), {"__name__": "readme"})
    if "print(" in code:
        assert capsys.readouterr().out


@pytest.mark.parametrize("line", LINES)
def test_each_command_of_the_readme_works_verbatim(line, ran):
    assert ran[line].returncode == 0, ran[line].stderr
    assert "Traceback" not in ran[line].stderr
    assert ran[line].stdout.strip()


@pytest.mark.parametrize("line", BENCHMARKS)
def test_each_benchmark_of_the_readme_takes_its_options(line, monkeypatch):
    _, script, *options = shlex.split(line)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    parsed = importlib.import_module(Path(script).stem).parse(options)
    assert parsed.quick


def test_the_explanation_in_the_readme_is_what_the_command_prints(ran):
    (line,) = [line for line in LINES if "explain --config xor" in line]
    shown = next(code for _, code in blocks(README, "text") if "∂l/∂z" in code)
    # the last line is an error of rounding, which differs between machines
    assert shown.splitlines()[:-1] == ran[line].stdout.splitlines()[:-1]
    assert shown.splitlines()[-1].startswith("largest relative error")


def test_the_first_command_works_verbatim_from_a_copy_of_the_checkout(tmp_path):
    if shutil.which("bash") is None or not (ROOT / "pyproject.toml").exists():
        pytest.skip("no bash or no checkout here")
    leave = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "runs", "results")
    shutil.copytree(ROOT, tmp_path / "gpumlp", ignore=leave)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash", "-c", COMMANDS[0]],
        cwd=tmp_path / "gpumlp",
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if re.search("No matching distribution|Could not find a version|connection", done.stderr):
        pytest.skip("pip finds no packages here")
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^test .*accuracy (0\.\d+)", done.stdout, re.M)
    assert float(accuracy[1]) > 0.95
    assert "run folder: runs/digits-" in done.stdout


def test_there_are_paths_to_check():
    assert len(paths(README)) > 5


@pytest.mark.parametrize("path", paths(README))
def test_each_path_of_the_readme_exists(path):
    assert exists(path)


def test_links_are_found_in_markdown():
    text = "[a](b.md#c), ![x](y.png), [web](https://z.org), [top](#top)\n```\n[no](no.md)\n```\n"
    assert links(text) == ["b.md", "y.png"]


def test_each_link_into_the_repository_leads_somewhere():
    assert [link for link in links(README) if not (ROOT / link).exists()] == []


def test_each_link_to_a_section_leads_there():
    headings = re.findall(r"^#+ +(.+)$", without_blocks(README), re.M)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
    assert anchors
    assert set(re.findall(r"\]\(#([^)\s]+)\)", README)) <= anchors


CODE_AND_FILE = re.findall(r"`(?:(\w+)\.)?(\w+)` in `(gpumlp/[\w/]+\.py)`", README)


@pytest.mark.parametrize(("owner", "name", "file"), CODE_AND_FILE)
def test_what_the_readme_places_in_a_file_is_defined_there(owner, name, file):
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(def|class) {name}\b", source, re.M)
    assert not owner or re.search(rf"^class {owner}\b", source, re.M)


def options_of(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_the_options_of_the_readme_exist(capsys):
    texts = re.findall(r"gpumlp(?:\.train)? ([^\n`]*)", README)
    texts += re.findall(r"`(--[^`]*)`", without_blocks(README))
    named = set().union(*map(options_of, texts))
    assert {"--config", "--set"} <= named
    known = set()
    for arguments in (["--help"], *([name, "--help"] for name in cli.COMMANDS)):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        known |= options_of(capsys.readouterr().out)
    assert named <= known
