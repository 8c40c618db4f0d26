"""One version of a file as a Python file: random access, read-only, straight from the store."""

import io
import os
from typing import TYPE_CHECKING, Any

from pondfs.extent import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pondfs.extent import Extent
    from pondfs.interfaces import Store


class StoredFile(io.RawIOBase):
    """The bytes that *extents* show, gaps as zeros. Wrap it in `io.BufferedReader` for small reads.

    It needs its store open for as long as it is read, and leaves closing that to whoever opened it.
    `read_at` may be called by several threads at once; the rest moves one position, as any file.

    Attributes:
        size_bytes: where the file ends.
    """

    def __init__(self, store: "Store", extents: "Iterable[Extent]", size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self._store = store
        self._extents = ExtentMap(extents)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, beyond the end if asked to, and return it.

        Raises: ValueError when it would be negative, or *whence* is none of 0, 1, 2.
        """
        self._check_open()
        match whence:
            case os.SEEK_SET:
                at = offset
            case os.SEEK_CUR:
                at = self._at + offset
            case os.SEEK_END:
                at = self.size_bytes + offset
            case _:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; less only at the end. Returns: bytes read.

        Raises: StoreDamaged, OSError.
        """
        with memoryview(buffer) as view, view.cast("B") as target:
            count = self.read_at(self._at, target)
        self._at += count
        return count

    def readall(self) -> bytes:
        """Return everything from the position on. Raises: as `readinto`."""
        return self.read(max(0, self.size_bytes - self._at)) or b""

    def read_buffer(self, size: int) -> memoryview:
        """As `read`, without the copy it takes to make bytes; pyarrow asks for this by its name."""
        target = memoryview(bytearray(max(0, min(size, self.size_bytes - self._at))))
        return target[: self.readinto(target)]

    def read_at(self, offset: int, target: memoryview) -> int:
        """Fill *target* with what lies at *offset*; the position stays.

        Args:
            offset: bytes from the file's start.
            target: bytes, writable; filled whole unless the file ends first.

        Returns: bytes read.
        Raises: StoreDamaged, OSError.
        """
        self._check_open()
        end = min(self.size_bytes, offset + len(target))
        if end <= offset:
            return 0
        at = offset
        for extent in self._extents.find(offset, end - offset):
            start = max(extent.offset, offset)
            stop = min(extent.offset + extent.length, end)
            _fill_zeros(target[at - offset : start - offset])
            skip = extent.skip + start - extent.offset
            self._store.read(extent.content, skip, target[start - offset : stop - offset])
            at = stop
        _fill_zeros(target[at - offset : end - offset])
        return end - offset

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def _fill_zeros(target: memoryview) -> None:
    if target:
        target[:] = bytes(len(target))
