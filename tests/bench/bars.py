"""The rows of the table: what each figure is, and the bar pond has to meet.

The bars are what we want to meet: judged and printed, never asserted, as a busy machine must not
fail a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """The limit for pond's figure: as a multiple of *against*'s, or by itself if that is empty.

    A lower limit where more is better, an upper one where less is.
    """

    limit: float
    against: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. *work* says exactly what is timed."""

    name: str
    work: str
    unit: str
    bar: Bar | None = None
    more_is_better: bool = True

    def bar_text(self) -> str:
        """Return the bar as a reader of the table wants it."""
        if self.bar is None:
            return "report"
        sign = "≥" if self.more_is_better else "≤"
        unit = f"× {self.bar.against}" if self.bar.against else self.unit
        return f"{sign} {self.bar.limit:g} {unit}"

    def is_met(self, figures: Mapping[str, float], judged: str = "pond") -> bool | None:
        """Say whether the figure of *judged* meets the bar; None if there is no telling."""
        if self.bar is None or judged not in figures:
            return None
        limit = self.bar.limit
        if self.bar.against:
            if self.bar.against not in figures:
                return None
            limit *= figures[self.bar.against]
        figure = figures[judged]
        return figure >= limit if self.more_is_better else figure <= limit


_BARE = Bar(0.7, "bare")
_BARE_TIME = Bar(1.5, "bare")


def _rate(name: str, work: str, bar: Bar | None = _BARE, unit: str = "/s") -> Row:
    return Row(name, work, unit, bar)


def _cost(name: str, work: str, unit: str, bar: Bar | None) -> Row:
    return Row(name, work, unit, bar, more_is_better=False)


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        _rate("create", "create + write + close, 4 KiB files"),
        _rate("mkdir", "mkdir"),
        _rate("rename", "rename to a new name, same directory"),
        _rate("unlink", "unlink, files just written"),
        _rate("stat", "stat, first one after writing (asks the daemon)"),
        _rate("stat_again", "stat, second one (kernel's cache)"),
        _rate("open_read", "open + read + close, pages cached"),
        _rate("readdir", "list a directory of 5,000, entries"),
        _rate("negative_lookup", "stat of absent names, all different"),
        _cost("small_write", "100-byte write to an open file", "µs", Bar(3.0)),
        _rate("sequential_write", "write 1 GiB + fsync", Bar(0.35, "ext4"), "MB/s"),
        _rate("sequential_read", "read 1 GiB, cold", Bar(0.7, "ext4"), "MB/s"),
        _cost("random_read", "random 4 KiB read, cold, median", "ms", Bar(0.25)),
        _rate("random_write", "random 4 KiB writes × 3,000 + one fsync", Bar(0.5, "bare")),
        _cost("append_median", "append 4 KiB + fsync × 5,000: median", "ms", Bar(4.0)),
        _cost("append_p99", "… 99th percentile", "ms", Bar(25.0)),
        _cost("append_drift", "… median of the last hundred / the first", "×", Bar(1.2)),
        _cost("copy_tree", "cp -a of 5,000 files + fsync of one", "s", _BARE_TIME),
        _cost("git_clone", "git clone of 3,000 files", "s", _BARE_TIME),
        _cost("rm_rf", "rm -rf of the clone", "s", _BARE_TIME),
        _cost("rss", "daemon's RSS after 100,000 small files", "MB", None),
        _cost("rss_growth", "… of that for 100,000 files", "MB", None),
        _cost("past_build", "make that pond, through the mount", "s", None),
        _cost("past_first_ls", "first `ls -l` in `at/<n>/dir`, daemon just started", "s", Bar(1.0)),
        _cost("past_next_ls", "… another version, same daemon", "s", Bar(1.0)),
        _rate("live_ls", "`ls -l` of directories of the live tree, cold, entries", None),
        _rate("past_ls", "… in `at/<n>` after the first, entries", None),
        _rate("past_ls_ratio", "… of the live tree's rate", Bar(0.5), "×"),
        _cost(
            "live_cold_read",
            "open + read + close of 1 KiB files of the live tree, cold, median",
            "ms",
            None,
        ),
        _cost("past_cat", "… in `at/<n>` after the first", "ms", None),
        _cost("past_cat_ratio", "… of the live tree's time", "×", Bar(2.0)),
        _cost("diff_adjacent", "`pond diff n..n+1`, mounted", "ms", Bar(300.0)),
        _cost("diff_adjacent_unmounted", "… not mounted", "ms", Bar(300.0)),
        _cost("log_20", "`pond log -n 20`", "ms", Bar(300.0)),
        _cost("history", "`pond history FILE`, 100 versions of it", "ms", None),
        _cost(
            "follow_delay", "from an fsync until a `ro,follow` mount shows the new file", "ms", None
        ),
        _cost("restore_1000", "`pond restore` of 1,000 files", "s", None),
        _cost("prune", "`pond prune --keep-last 100`, mounted", "s", None),
        _cost("query_sum", "`SELECT count(*), sum(size) FROM nodes`", "s", Bar(1.5)),
        _cost("query_history", "`SELECT * FROM history('FILE')`", "ms", Bar(500.0)),
        _cost("query_oplog", "`SELECT op, count(*) FROM oplog GROUP BY op`", "s", None),
        _cost("read_ext4", "aggregate 100 MB of Parquet on ext4: DataFusion alone", "s", None),
        _cost("read_unmounted", "… `pond query`, `read()` of it, not mounted", "s", None),
        _cost("read_mounted", "… mounted", "s", None),
        _cost("read_ratio", "… not mounted / ext4", "×", Bar(1.5)),
        _cost("read_mounted_ratio", "… mounted / ext4", "×", Bar(1.5)),
        _rate(
            "pond_cost_create",
            "create, with `.pond/` (hidden) / with `ponddir=off`",
            Bar(0.95),
            "×",
        ),
        _rate("pond_cost_stat", "stat, the same", Bar(0.95), "×"),
        _rate("pond_cost_readdir", "list, the same", Bar(0.95), "×"),
    )
}
