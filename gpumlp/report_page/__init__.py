"""The page of a run: one HTML file that opens offline, with its pictures inside and no script."""

from collections.abc import Mapping

from .. import __version__
from . import sections
from .markup import text
from .run_reading import RunFiles
from .style import CSS

__all__ = ["page"]

# a browser that reads this fetches nothing and runs nothing, whatever the page holds
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(run: RunFiles, plots: Mapping[str, bytes], lacking: str = "") -> str:
    """Return the page of a run as HTML text; the same folder gives the same page.

    Args:
        run: what its folder holds.
        plots: PNG files by name without ending; those with a caption are shown.
        lacking: which plots there are not, and why; or nothing.
    """
    body = [
        sections.head(run),
        sections.problems(run, lacking),
        sections.results(run),
        sections.pictures(run, plots),
        sections.epochs(run),
        sections.network(run),
        sections.usage(run),
        sections.configuration(run),
        sections.environment(run),
        sections.log(run),
        f"<footer>Written by gpumlp {text(__version__)} from {text(run.path)}</footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(run.name)}: {text(run.status)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            *(part for part in body if part),
            "</body>",
            "</html>",
            "",
        ]
    )
