"""The store's figures for whoever asks the daemon: counted in a thread, not more often than pays.

Counting takes milliseconds for a small pond and up to half a second for a large one. However often
somebody asks, it is done `SHARE` of the time at most; in between the last figures are told, with
their age.
"""

import logging
import math
import time
from dataclasses import dataclass

import trio

from pondfs.errors import PondError
from pondfs.figures import Figures
from pondfs.interfaces import Store
from pondfs.vfs import offload

log = logging.getLogger("pondfs.storage")

BUDGET_S = 0.25
"""What one look may take, about. What it leaves out, data files nobody has counted yet, is counted
at the next."""

SHARE = 0.05
"""Part of one processor that counting may take."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the last look found.

    Attributes:
        figures: the figures; None when there are none, as *error* says.
        error: why; "" when there are figures.
        monotonic_s: when that was.
    """

    figures: Figures | None
    error: str
    monotonic_s: float

    @property
    def age_s(self) -> float:
        """How long ago it was."""
        return time.monotonic() - self.monotonic_s


class Storage:
    """Knows what the pond takes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking = trio.Lock()
        self._last: Found | None = None
        self._again_at = 0.0

    async def look(self, *, whole: bool = False) -> Found:
        """Return the figures; *whole*: all of them, of now, however long that takes.

        Yields: while they are counted. Never raises: a pond that is damaged has a status, too.
        """
        async with self._looking:
            last = self._last
            if last is None or whole or time.monotonic() >= self._again_at:
                last = self._last = await self._count(math.inf if whole else BUDGET_S)
                now = time.monotonic()
                self._again_at = now + (now - last.monotonic_s) / SHARE
            return last

    async def _count(self, budget_s: float) -> Found:
        began = time.monotonic()
        try:
            return Found(await offload.run(self._store.measure, budget_s), "", began)
        except (PondError, OSError) as error:
            if self._last is None or self._last.error != str(error):
                log.info("what the pond takes could not be counted: %s", error)
            return Found(None, str(error), began)
