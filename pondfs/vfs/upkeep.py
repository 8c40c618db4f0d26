"""What has to be done now and then so that a pond costs no more the older it gets.

Beside commits, in threads nobody waits for: checkpoints of the log, log entries that are not needed
any more, and data files that a crash or a failed commit left in no version. (Keeping data files few
is `compactor`'s.)
"""

import logging
from typing import TYPE_CHECKING

import trio

from pondfs.errors import CommitFailed, PondError
from pondfs.vfs import offload

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.upkeep")

LOOK_S = 5.0
"""How often it is looked whether the log is long. Under load this, and not the number of entries,
says how often there is a checkpoint: some 20 ms of a thread each time."""

BACKLOG_S = 1.0
"""The same while there is more to do than one look does: a hundred thousand old entries go in four
minutes, 10 ms of a thread each second."""

STRAYS_S = 3600.0
"""How often it is looked for data files in no version: they are a matter of days."""


class Upkeep:
    """Keeps a mounted pond's log short, and its store free of leftovers."""

    def __init__(self, vfs: "Vfs") -> None:
        self._vfs = vfs

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        strays_at = trio.current_time() + STRAYS_S
        wait_s = LOOK_S
        while True:
            await trio.sleep(wait_s)
            wait_s = LOOK_S
            # A disk that takes no commits shall not be asked for more.
            if self._vfs.committer.failure is not None:
                continue
            try:
                if self._vfs.store.has_long_log():
                    await offload.run(self._vfs.store.keep_log)
                    if self._vfs.store.has_long_log():
                        wait_s = BACKLOG_S
                if trio.current_time() >= strays_at:
                    strays_at = trio.current_time() + STRAYS_S
                    await self._remove_strays()
            except CommitFailed:
                continue  # the next look finds the same
            except Exception as error:
                # Whatever it is: ending the mount would lose what is pending.
                known = isinstance(error, OSError | PondError)
                log.warning("upkeep of the store failed: %s", error, exc_info=not known)
                await trio.sleep(STRAYS_S)

    async def _remove_strays(self) -> None:
        store = self._vfs.store
        if await offload.run(store.has_old_strays):
            # Nothing becomes part of the pond meanwhile: what is in no version now may go.
            await self._vfs.committer.between(store.remove_old_strays)
