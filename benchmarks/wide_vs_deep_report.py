"""Table and figure of wide_vs_deep.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ERROR = {"curve": "RMSE on test rows"}
SHARE = "share of test rows misclassified"


def line(row: Row) -> str:
    """Return a row for reading."""
    return (
        f"{row['data']:7} {row['budget']:7,} {row['parameters']:10,} {row['depth']:5} "
        f"{row['hidden'][0]:5} {row['lr']:6g} {row['mean']:8.4f} {row['sd']:7.4f} "
        f"{min(row['errors']):7.4f} {max(row['errors']):7.4f}"
    )


def table(rows: Sequence[Row]) -> str:
    """Return all rows for reading; the smallest mean error of each budget is marked."""
    head = f"{'data':7} {'budget':>7} {'parameters':>10} depth units     lr    error      sd"
    lines = [f"{head}     min     max"]
    for row in rows:
        rivals = [r for r in rows if (r["data"], r["budget"]) == (row["data"], row["budget"])]
        lines += [""] if row is rivals[0] else []
        lines.append(line(row) + " *" * (row["mean"] == min(r["mean"] for r in rivals)))
    return "\n".join([*lines, "", "error: mean over the seeds; * the smallest of its budget"])


def draw(rows: Sequence[Row], file: Path) -> None:
    """Write the figure: means over the seeds, with bars from the best seed to the worst."""
    import matplotlib
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    from gpumlp.plots.style import new_figure, our_style, png

    names = list(dict.fromkeys(row["data"] for row in rows))
    depths = sorted({row["depth"] for row in rows})
    colors = matplotlib.colormaps["viridis_r"]
    with our_style():
        title = "test error of networks with as many parameters"
        figure, panels = new_figure("wide and deep", title, (4.6 * len(names), 4), 1, len(names))
        for name, axes in zip(names, panels, strict=True):
            for i, depth in enumerate(depths):
                own = [row for row in rows if (row["data"], row["depth"]) == (name, depth)]
                bars = [[r["mean"] - min(r["errors"]), max(r["errors"]) - r["mean"]] for r in own]
                axes.errorbar(
                    [row["parameters"] * 1.03 ** (i - 2) for row in own],  # bars side by side
                    [row["mean"] for row in own],
                    list(zip(*bars, strict=True)) or None,
                    fmt="o-",
                    color=colors(0.15 + 0.85 * i / len(depths)),
                    label=f"{depth} hidden layer{'s' * (depth > 1)}",
                    elinewidth=0.8,
                )
            axes.set(xscale="log", yscale="log", title=name, xlabel="parameters")
            axes.set_ylabel(ERROR.get(name, SHARE))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
                axis.set_minor_locator(NullLocator())
        panels[0].legend()
        file.write_bytes(png(figure))
