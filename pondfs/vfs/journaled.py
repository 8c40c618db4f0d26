"""Versions that are durable in the journal and in no table yet: how many, since when, and whether
the next may join them.
"""

import math

from pondfs.oplog import Cut
from pondfs.vfs.pending import COST_PER_CHANGE_BYTES

MOST_BYTES = 40 << 20
"""With this much to write they are published, whatever their age: it is memory, and what an opening
after a crash has to do."""

SOON_BYTES, SOON_S = 4 << 20, 1.5
"""With this much they are published so long after the first: who syncs meanwhile waits for it, so
it shall be little; and more than one Delta commit a second would be a burden of its own."""

LARGE_CUT_BYTES = 8 << 20
"""A version with more content is no smaller in the journal than in the table: it goes there."""

AGAIN_S = 60.0
"""After the journal could not be written, each version is a Delta commit for so long."""

MOMENT_S = 1e-3
"""When a sync takes no longer, by the weighted mean of those before, the next is waited for on the
spot. Through a thread and back takes 150 us to 600, a flash disk syncs in 120 (2026-11). The mean,
as one slow sync in thirty says little of the next; one of 100 ms keeps fifty off the spot."""

MOMENT_BYTES = 256 << 10
"""What that may write at most."""

FIRST_SYNC_S = 8e-3
"""What the mean begins with: some forty quick syncs have to come before one on the spot."""

WEIGHT = 1 / 16
"""Of the newest sync in the mean."""

SLOW_S, THREADED = 4e-3, 8
"""After one sync that took longer, so many go through a thread, whatever the mean says: slow ones
come in bursts, and on the spot everybody on the mount waits for them."""


class Journaled:
    """What is journaled, and the rules for it. On the trio thread only.

    Attributes:
        cuts: the versions, oldest first.
        content_bytes: their content, which stays in memory.
        commit_s: how long they may wait for a commit.
    """

    def __init__(self, *, is_used: bool, commit_s: float) -> None:
        self.commit_s = commit_s
        # Trio time from which on the journal may be used.
        self._usable_at = -math.inf if is_used else math.inf
        self._sync_s = FIRST_SYNC_S
        self._threaded = 0
        self.clear()

    def clear(self) -> None:
        """A commit carries all of them."""
        self.cuts: list[Cut] = []
        self.content_bytes = 0
        self._bytes = 0
        self._since = math.inf

    def __bool__(self) -> bool:
        return bool(self.cuts)

    def takes(self, cut: Cut, now: float) -> bool:
        """Return whether *cut* belongs into the journal."""
        return now >= self._usable_at and not cut.staged and _content_bytes(cut) <= LARGE_CUT_BYTES

    def add(self, cut: Cut, now: float, took_s: float) -> None:
        """Note that *cut* is journaled, and how long that took."""
        size = _content_bytes(cut)
        if not self.cuts:
            self._since = now
        self.cuts.append(cut)
        self.content_bytes += size
        self._bytes += size + COST_PER_CHANGE_BYTES * len(cut.rows)
        self._sync_s += (took_s - self._sync_s) * WEIGHT
        self._threaded = THREADED if took_s > SLOW_S else max(0, self._threaded - 1)

    def failed(self, now: float) -> None:
        """Leave the journal alone for a while."""
        self._usable_at = now + AGAIN_S

    def is_quick(self, size_bytes: int, now: float) -> bool:
        """Return whether the next version, of about that size, is journaled in a moment."""
        return (
            self._sync_s < MOMENT_S
            and not self._threaded
            and size_bytes <= MOMENT_BYTES
            and self._usable_at <= now < self.publish_at()
        )

    def publish_at(self) -> float:
        """Return the trio time at which they shall be published; inf when there are none."""
        if self._bytes >= MOST_BYTES:
            return -math.inf
        wait_s = self.commit_s
        return self._since + (min(SOON_S, wait_s) if self._bytes >= SOON_BYTES else wait_s)


def _content_bytes(cut: Cut) -> int:
    return sum(row.content.length for row in cut.rows if row.content is not None)
