"""The field server's day as a picture, for docs/reference/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

NAME = "field-server"
TITLE = "A day of a field server, hour by hour"

_PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("fsync", "ms", (("fsync_p99", "99th percentile"), ("fsync", "median"))),
    ("memory of the daemon", "MB", (("rss", "RSS"), ("rss_anon", "RssAnon"))),
    ("time to open", "s", (("open", "a second mount, read-only"),)),
    ("data files", "files", (("files", "in the table"),)),
    ("log directory", "files", (("log", "entries and checkpoints"),)),
    ("store", "MB", (("store", "all of it"),)),
)
_COLOURS = ("#0b6e99", "#d9730d")
_INK, _GRID, _PAPER = "#222222", "#dddddd", "#ffffff"  # paper of its own: any page may be around it


def draw(curves: Mapping[str, Sequence[float]], folder: Path, caption: str) -> list[Path]:
    """Write the picture as PNG and as SVG; return both."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with mpl.rc_context({"svg.hashsalt": NAME, "font.size": 10, "text.color": _INK}):
        figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained", facecolor=_PAPER)
        for axes, (title, unit, lines) in zip(grid.flat, _PANELS, strict=True):
            top = 0.0
            for (name, label), colour in zip(lines, _COLOURS, strict=False):
                values = curves[name]
                hours = range(1, len(values) + 1)
                axes.plot(hours, values, color=colour, label=label, linewidth=1.8, marker=".")
                top = max(top, *values)
            axes.set_facecolor(_PAPER)
            axes.set_title(title, loc="left", fontweight="bold")
            axes.set_xlabel("hour of the day")
            axes.set_ylabel(unit)
            axes.set_ylim(0, top * 1.25 or 1)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axes.grid(color=_GRID, linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(loc="lower right", frameon=True, facecolor=_PAPER, edgecolor=_GRID)
        figure.suptitle(caption, fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{NAME}.{kind}" for kind in ("png", "svg")]
        figure.savefig(written[0], dpi=120)
        figure.savefig(written[1], metadata={"Date": None})
        plt.close(figure)
    return written
