"""The field server's day as a picture, for docs/reference/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

NAME = "field-server"
WINDOW = 6
"""So many hours at the beginning, but for the first, and at the end are held against each other."""
TITLE = "A day of a field server, hour by hour"

_PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("fsync", "ms", (("fsync_p99", "99th percentile"), ("fsync", "median"))),
    ("memory", "MB", (("rss", "RSS"), ("rss_anon", "RssAnon"))),
    ("time to open, by a second mount", "s", (("open", ""),)),
    ("data files in the table", "files", (("files", ""),)),
    ("log directory", "files", (("log", ""),)),
    ("whole store", "MB", (("store", ""),)),
)
_COLOURS = ("#0b6e99", "#d9730d")
# Paper of its own: the page around may be light or dark.
_INK, _GRID, _BAND, _PAPER = "#222222", "#dddddd", "#f1f1ec", "#ffffff"


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
            for first, last in _compared(len(values)):
                axes.axvspan(first, last, color=_BAND, zorder=0)
            if len(lines) == 1:
                continue
            # Beside the title: inside it would lie over a line sooner or later.
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.01, 0.98), ncols=2, frameon=False,
                handlelength=1.2, columnspacing=1.0,
            )  # fmt: skip
        figure.suptitle(caption, fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{NAME}.{kind}" for kind in ("png", "svg")]
        figure.savefig(written[0], dpi=120)
        figure.savefig(written[1], metadata={"Date": None})
        plt.close(figure)
    return written


def _compared(hours: int) -> list[tuple[int, int]]:
    """Return the first and the last hour of what is compared, where that is in a row at all."""
    return [(2, WINDOW + 1), (hours - WINDOW + 1, hours)] if hours > 2 * WINDOW else []
