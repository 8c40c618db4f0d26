"""Reading compressed contents: the frames that are needed, each decoded once while it is kept."""

import os
from collections.abc import Iterator

import pyarrow as pa
from zlib_ng.zlib_ng import crc32

from pondfs.errors import StoreDamaged
from pondfs.store.damage import naming
from pondfs.store.framecache import FrameCache
from pondfs.store.frames import FrameTable

AT_ONCE = 16
"""Frames read and held for one caller beside the cache: 2 MiB."""

_GAP_BYTES = 4 << 10
"""Frames that lie no further apart come by one system call: the headers of pages lie between."""


class OpenFile:
    """A file descriptor.

    Closed when the last user lets go, so a read can never meet a number that meanwhile means
    another file.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class PackedFile:
    """The compressed side of one open data file.

    Attributes:
        name: the file's name: what is kept of it is known by that.
        table: where its frames are.
    """

    __slots__ = ("_cache", "_open", "_path", "name", "table")

    def __init__(
        self, name: str, path: str, file: OpenFile, table: FrameTable, cache: FrameCache
    ) -> None:
        self.name = name
        self.table = table
        self._path = path
        self._open = file
        self._cache = cache

    def copy_cached(self, position: int, skip: int, target: memoryview) -> bool:
        """Fill *target* from *skip* of the content at *position* if all that is in the cache."""
        try:
            first, stop, at = self.table.find(position, skip, len(target), self._path)
        except StoreDamaged:
            return False  # `copy` will tell
        find = self._cache.find
        done = 0
        for number in range(first, stop):
            whole = find((self.name, number))
            if whole is None:
                return False
            part = whole[at : at + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)
            at = 0
        return True

    def copy(self, position: int, skip: int, target: memoryview) -> None:
        """Fill *target* from *skip* of the content at *position*. Raises: StoreDamaged, OSError."""
        first, stop, at = self.table.find(position, skip, len(target), self._path)
        done = 0
        for start in range(first, stop, AT_ONCE):
            for whole in self.frames(start, min(start + AT_ONCE, stop)):
                part = whole[at : at + len(target) - done]
                target[done : done + len(part)] = part
                done += len(part)
                at = 0

    def frames(self, first: int, stop: int) -> list[memoryview]:
        """Return the frames from *first* up to *stop*, decoded. Raises: StoreDamaged, OSError."""
        found: list[memoryview] = []
        cache, name = self._cache, self.name
        while first < stop:
            whole = cache.wait_or_claim((name, first))
            if whole is not None:
                found.append(whole)
                first += 1
                continue
            end = first + 1
            while end < stop and cache.try_claim((name, end)):
                end += 1
            found += self._decode(first, end)
            first = end
        return found

    def advise(self, first: int, stop: int) -> None:
        """Have the disk begin to read these frames, if they are not decoded yet."""
        while first < stop and self._cache.has((self.name, first)):
            first += 1
        if first < stop:
            start = self.table.starts[first]
            end = self.table.starts[stop - 1] + self.table.sizes[stop - 1]
            os.posix_fadvise(self._open.fd, start, end - start, os.POSIX_FADV_WILLNEED)

    def _decode(self, first: int, stop: int) -> list[memoryview]:
        """Decode frames that were claimed, and keep them."""
        found: list[memoryview] = []
        codec = pa.Codec("zstd")
        table, keep, name = self.table, self._cache.keep, self.name
        try:
            for start, end in self._runs(first, stop):
                begin = table.starts[start]
                length = table.starts[end - 1] + table.sizes[end - 1] - begin
                with naming(self._path):
                    data = memoryview(os.pread(self._open.fd, length, begin))
                if len(data) != length:
                    raise self._damaged("shorter than its rows say")
                for number in range(start, end):
                    at = table.starts[number] - begin
                    frame = data[at : at + table.sizes[number]]
                    if crc32(frame) != table.crcs[number]:
                        raise self._damaged(f"damaged (at byte {table.starts[number]})")
                    whole = memoryview(codec.decompress(frame, table.wholes[number])).cast("B")
                    keep((name, number), whole, len(whole))
                    found.append(whole)
        except pa.ArrowException as error:
            raise self._damaged(f"damaged ({error})") from error
        finally:
            for number in range(first + len(found), stop):
                self._cache.give_up((name, number))
        return found

    def _runs(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        starts, sizes = self.table.starts, self.table.sizes
        begin = first
        for number in range(first + 1, stop):
            if starts[number] - starts[number - 1] - sizes[number - 1] > _GAP_BYTES:
                yield begin, number
                begin = number
        yield begin, stop

    def _damaged(self, what: str) -> StoreDamaged:
        return StoreDamaged(f"data file {self._path} is {what}: restore it from a backup")
