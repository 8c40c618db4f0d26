"""What was done since the mount, counted where it is done; on the trio thread only."""

from pondfs.histogram import BYTE_BOUNDS, COMMIT_BOUNDS_S, ROW_BOUNDS, Histogram


class Totals:
    """Counts of a mount.

    Attributes:
        commit_s: how long commits took, from the cut to durable; of a commit that failed first, the
            try that went well.
        commit_rows: rows of each, those of its stages included; its ``commit`` row is not.
        commit_bytes: new content of each.
        journaled: versions that were made durable in the journal, before their commit.
        commit_failures: tries that failed.
        stages: pieces of content that were written early.
        stage_failures: tries that failed.
        compactions: compactions put in place.
        last_fsync: when a program's fsync was answered last, seconds since 1970; None: never.
    """

    def __init__(self) -> None:
        self.commit_s = Histogram(COMMIT_BOUNDS_S)
        self.commit_rows = Histogram(ROW_BOUNDS)
        self.commit_bytes = Histogram(BYTE_BOUNDS)
        self.journaled = 0
        self.commit_failures = 0
        self.stages = 0
        self.stage_failures = 0
        self.compactions = 0
        self.last_fsync: float | None = None

    def committed(self, seconds: float, rows: int, added_bytes: int) -> None:
        """Count a commit."""
        self.commit_s.note(seconds)
        self.commit_rows.note(rows)
        self.commit_bytes.note(added_bytes)

    def failed(self, what: str) -> None:
        """Count a failed ``commit`` or ``stage``."""
        if what == "stage":
            self.stage_failures += 1
        else:
            self.commit_failures += 1
