"""What fsspec calls while something is written: files, and transactions."""

import tempfile
from collections.abc import Callable
from contextlib import suppress

from fsspec.transaction import Transaction as FsspecTransaction  # type: ignore[import-untyped]

_SPOOL_BYTES = 16 << 20
"""Up to here a file that is being written is in memory, beyond in a temporary file."""


class Upload(tempfile.SpooledTemporaryFile[bytes]):
    """A file that is being written: it goes into the pond when it is closed."""

    def __init__(self, path: str, store: "Callable[[Upload], None]") -> None:
        """Begin with nothing in it.

        Args:
            path: what it will be.
            store: writes it into the pond; called once, with this, read from its start.
        """
        super().__init__(_SPOOL_BYTES)
        self.path = path
        self._store = store
        self._todo = True

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write it into the pond. Calling it twice is harmless."""
        todo, self._todo = self._todo, False
        try:
            if todo:
                self.seek(0)
                self._store(self)
        finally:
            super().close()

    def commit(self) -> None:
        """Do nothing: it is part of the transaction since it was closed."""

    def discard(self) -> None:
        """Let go of it; what is not in the pond yet does not come there."""
        self._todo = False
        super().close()


class PondTransaction(FsspecTransaction):  # type: ignore[misc]
    """What ``with fs.transaction`` is: one version of the pond, or nothing."""

    def start(self) -> None:
        """Begin it. Raises: as `Pond.transaction`."""
        self._inner = self.fs._writable().transaction("fsspec: transaction")
        self._inner.__enter__()
        super().start()

    def complete(self, commit: bool = True) -> None:
        """Make it a version, or nothing."""
        files = list(self.files)
        self.files.clear()
        try:
            if commit:
                for file in files:
                    file.close()
        except BaseException as error:
            self._inner.__exit__(type(error), error, error.__traceback__)
            raise
        else:
            if commit:
                self._inner.__exit__(None, None, None)
            else:
                with suppress(_Abandoned):
                    abandoned = _Abandoned()
                    self._inner.__exit__(_Abandoned, abandoned, None)
        finally:
            for file in files:
                file.discard()
            super().complete(commit)


class _Abandoned(Exception):
    """Ends a transaction that is not wanted."""
