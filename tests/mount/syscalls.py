"""Linux calls the standard library does not offer, through ctypes, raising OSError like ``os``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

AnyPath = os.PathLike[str] | str | bytes

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_long)]


class _Dirent(ctypes.Structure):
    """``struct dirent`` of 64-bit Linux; the name is read past the end of this header."""

    _fields_ = [
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
    ]


def _call(function: Callable[..., int], *args: Any) -> int:
    result = function(*args)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(source: AnyPath, target: AnyPath, flags: int) -> None:
    """Rename with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    _call(_libc.renameat2, AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2) itself; ``os.posix_fallocate`` falls back to writing zeros in libc."""
    _call(_libc.fallocate, fd, mode, offset, length)


def syncfs(fd: int) -> None:
    """Push the dirty pages of the filesystem that holds *fd* to it."""
    _call(_libc.syncfs, fd)


def utimensat(
    path: AnyPath, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0
) -> None:
    """Set times given as (seconds, nanoseconds), where UTIME_NOW and UTIME_OMIT are allowed."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _call(_libc.utimensat, AT_FDCWD, os.fsencode(path), times, flags)


class DirStream:
    """opendir(3) and its seekable stream, which ``os.scandir`` hides."""

    def __init__(self, path: Path) -> None:
        stream = _libc.opendir(os.fsencode(path))
        if stream is None:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        self._stream = ctypes.c_void_p(stream)

    def read_any(self) -> bytes | None:
        """Return the next name; None at the end."""
        entry = _libc.readdir(self._stream)
        return None if entry is None else ctypes.string_at(entry + _Dirent.d_type.offset + 1)

    def read(self) -> bytes | None:
        """Return the next name but ``.`` and ``..``; None at the end."""
        while (name := self.read_any()) in (b".", b".."):
            pass
        return name

    def rest(self) -> list[bytes]:
        """Return every name from here to the end."""
        return list(iter(self.read, None))

    def tell(self) -> int:
        """Return a cookie for the current position."""
        return int(_libc.telldir(self._stream))

    def seek(self, cookie: int) -> None:
        """Go to where :meth:`tell` gave *cookie*."""
        _libc.seekdir(self._stream, ctypes.c_long(cookie))

    def rewind(self) -> None:
        """Start again, seeing the directory as it is now."""
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        """Free the stream."""
        _libc.closedir(self._stream)

    def __enter__(self) -> DirStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _FileHandle(ctypes.Structure):
    """``struct file_handle`` with the most bytes a handle may have."""

    _fields_ = [
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * 128),
    ]


def name_to_handle(path: AnyPath) -> _FileHandle:
    """Return what names the file at *path* beyond its name, as an NFS server keeps it."""
    handle = _FileHandle(handle_bytes=128)
    mount_id = ctypes.c_int()
    _call(_libc.name_to_handle_at, AT_FDCWD, os.fsencode(path), ctypes.byref(handle),
          ctypes.byref(mount_id), 0)  # fmt: skip
    return handle


def open_by_handle(mount_fd: int, handle: _FileHandle, flags: int) -> int:
    """Open the file that *handle* names, on the filesystem that *mount_fd* is on."""
    return _call(_libc.open_by_handle_at, mount_fd, ctypes.byref(handle), flags)
