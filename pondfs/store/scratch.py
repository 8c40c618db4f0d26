"""A pond as a transaction sees it: one version, and what is changed in files nobody refers to."""

import os
from collections.abc import Sequence

from pondfs.errors import NotPermitted
from pondfs.oplog import Cut, Settled
from pondfs.store import table
from pondfs.store.datafile import unlink_quietly
from pondfs.store.delta import DeltaStore
from pondfs.store.lock import WriterLock, find_owner
from pondfs.store.rows import commit_row


class ScratchStore(DeltaStore):
    """A pond open for reading, beside its writer. Implements `interfaces.Store`.

    Rows become data files in the store, as the writer's do, but no log entry: they are for the
    writer to read, by name. `close` removes them; a crash leaves strays.

    Attributes:
        taken: what `commit` took: the names of its files, in order, and its message; else None.
    """

    def __init__(self, path: str, opened: table.Opened, lock: WriterLock | None) -> None:
        super().__init__(path, opened, lock)
        self._owner = find_owner(path)
        self.taken: tuple[list[str], str] | None = None

    def commit(self, cut: Cut, earlier: Sequence[Cut] = ()) -> Settled:
        """Write what is left of *cut*. It is no version; see `taken`.

        Raises: NotPermitted when that was done already.
        """
        if self.taken is not None or earlier:
            raise NotPermitted("a transaction is committed once")
        settled = self.stage(cut.version, cut.first_seq, [*cut.rows, commit_row(cut)])
        names = [*(file.name for file in cut.staged), settled.file.name]
        self.taken = names, cut.summary.message
        return settled

    def close(self) -> None:
        """Remove the files, and let go of the rest."""
        for name in self._staged:
            unlink_quietly(os.path.join(self.path, name))
        self._staged.clear()
        super().close()

    def _check_writable(self) -> None:
        """Nothing here is the pond's."""
