"""`gpumlp report`: one HTML page of a run, with its pictures inside, that opens anywhere."""

import argparse
from pathlib import Path

from ..console import show
from ..data.output import check_output
from ..errors import FileError
from ..files import write_atomically
from ..plots import plots_wanted, write_files
from ..report_page import page
from ..report_page.late_plots import draw_late
from ..report_page.run_reading import RunFiles, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report` to a parser."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, finished or not")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a new .html file; default: RUN/report.html"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")


def run(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    read = read_run(options.run)
    out = options.out or options.run / "report.html"
    check_output(out, "--out", options.overwrite, (".html", ".htm"))
    plots, lacking = (read.plots, "") if read.plots else _drawn(read)
    content = page(read, plots, lacking).encode()
    write_atomically(out, content)
    show(str(out))
    return 0


def _drawn(read: RunFiles) -> tuple[dict[str, bytes], str]:
    """Return plots drawn now, and what they lack; those of a run that has ended are kept."""
    if not plots_wanted("auto"):
        return {}, 'there are no plots; pip install "gpumlp[plot]" to have them drawn'
    try:
        plots, lacking = draw_late(read)
    except Exception as error:
        return {}, f"the plots could not be drawn: {error!r}"
    if plots and read.summary is not None:  # those of one under way will be other ones soon
        try:
            write_files(read.path / "plots", plots)
        except FileError as error:
            lacking = "; ".join(filter(None, [lacking, f"plots could not be kept: {error}"]))
    return plots, lacking
