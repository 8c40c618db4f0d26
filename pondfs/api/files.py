"""Python's file objects over a `backend.Handle`."""

import _thread
import contextlib
import errno
import io
import os
import threading
import warnings
from typing import IO, Any

from pondfs.api.backend import Backend, Handle

BUFFER_BYTES = 1 << 20
"""What is read or written at once: in FUSE and in the oplog a piece is at most this long, too."""

_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


def parse_mode(mode: str) -> tuple[int, bool]:
    """Return open(2)'s flags for *mode*, and whether it is a text file. Raises: ValueError."""
    letters = set(mode)
    kind = letters & set("rwax")
    if len(letters) != len(mode) or letters - set("rwaxbt+") or len(kind) != 1:
        raise ValueError(f"invalid mode: {mode!r}")
    if {"b", "t"} <= letters:
        raise ValueError("can't have text and binary mode at once")
    flags = _FLAGS[kind.pop()]
    if "+" in letters:
        flags = flags & ~os.O_ACCMODE | os.O_RDWR
    return flags, "b" not in letters


class PondFile(io.RawIOBase):
    """An open file of a pond, unbuffered. Any thread may use it, one call at a time.

    Attributes:
        name: its path, as text with a leading slash.
        mode: as it was opened.
        is_wrapped: another file object is around it, which closes it.
    """

    def __init__(
        self, handle: Handle, name: str, mode: str, flags: int, lock: threading.RLock
    ) -> None:
        super().__init__()
        self.name = name
        self.mode = mode
        self._handle = handle
        self._flags = flags
        self._lock = lock
        self.is_wrapped = False
        self._opener = threading.get_ident()
        self._at = handle.fstat().size_bytes if flags & os.O_APPEND else 0

    def __repr__(self) -> str:
        return f"<PondFile name={self.name!r} mode={self.mode!r}>"

    def readable(self) -> bool:
        """Return whether it was opened for reading."""
        return self._flags & os.O_ACCMODE != os.O_WRONLY

    def writable(self) -> bool:
        """Return whether it was opened for writing."""
        return self._flags & os.O_ACCMODE != os.O_RDONLY

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check(True, "")
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, beyond the end if asked to, and return it."""
        self._check(True, "")
        if whence == os.SEEK_SET:
            at = offset
        elif whence == os.SEEK_CUR:
            at = self._at + offset
        elif whence == os.SEEK_END:
            with self._lock:
                at = self._handle.fstat().size_bytes + offset
        else:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to *size* bytes from the position, all if it is negative."""
        if size is None or size < 0:
            return self.readall()
        self._check(self.readable(), "reading")
        with self._lock:
            data = self._handle.pread(size, self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the position; less only at the end. Returns: bytes read."""
        with memoryview(buffer) as view, view.cast("B") as target:
            data = self.read(len(target))
            target[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return everything from the position on."""
        self._check(self.readable(), "reading")
        with self._lock:
            left = self._handle.fstat().size_bytes - self._at
        pieces = []
        # On, past the size it had: the file may grow meanwhile.
        while data := self.read(max(left, BUFFER_BYTES)):
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)

    def write(self, data: Any) -> int:
        """Write all of *data* at the position (at the end, if opened to append)."""
        self._check(self.writable(), "writing")
        with memoryview(data) as view, view.cast("B") as source, self._lock:
            if self._flags & os.O_APPEND:
                self._at = self._handle.fstat().size_bytes
            done = self._handle.pwrite(source, self._at)
        self._at += done
        return done

    def truncate(self, size: int | None = None) -> int:
        """Set the size, by default to the position; the position stays."""
        self._check(self.writable(), "writing")
        size = self._at if size is None else size
        with self._lock:
            self._handle.truncate(size)
        return size

    def fsync(self) -> None:
        """Make the whole pond durable, with what this file wrote so far.

        Of a buffered file: ``file.flush()``, then ``file.raw.fsync()`` (``file.buffer.raw`` of a
        text file).

        Raises: OSError.
        """
        self._check(True, "")
        with self._lock:
            self._handle.fsync()

    def close(self) -> None:
        """Close it. Calling it twice is harmless."""
        if not self.closed:
            try:
                super().close()
            finally:
                # Without the lock: a garbage collection may close it in any thread.
                self._handle.close()

    def __del__(self) -> None:
        # What is wrapped is closed by what wraps it, which may have bytes for it yet.
        if not getattr(self, "is_wrapped", True):
            _close_forgotten(self, self._opener)

    def _check(self, allowed: bool, what: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not allowed:
            raise io.UnsupportedOperation(f"not open for {what}")


class _Wrapper:
    """What is around a `PondFile`: closed with care if nobody does.

    Attributes:
        is_wrapped: another file object is around it, which closes it.
    """

    is_wrapped = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._opener = threading.get_ident()
        super().__init__(*args, **kwargs)

    def detach(self) -> Any:
        """Return what it is around, to be used alone."""
        inner: Any = super().detach()  # type: ignore[misc]
        inner.is_wrapped = False
        return inner

    def __del__(self) -> None:
        # What wraps it may have bytes for it yet. Without `_opener` the constructor failed.
        if hasattr(self, "_opener") and not self.is_wrapped:
            _close_forgotten(self, self._opener)  # type: ignore[arg-type]


class _Reader(_Wrapper, io.BufferedReader):
    pass


class _Writer(_Wrapper, io.BufferedWriter):
    pass


class _Random(_Wrapper, io.BufferedRandom):
    pass


class _Text(_Wrapper, io.TextIOWrapper):
    pass


def _close_forgotten(file: "IO[Any] | PondFile", opener: int) -> None:
    """Close a file that is about to be freed, if nobody did.

    The last reference goes in the thread that opened it, as a rule, and there it is done at once. A
    garbage collection may meet it in any other thread, in the middle of anything: in one that the
    pond waits for. So there nothing may be waited for, and a thread is started for it.
    """
    try:
        if file.closed:
            return
        is_writer = file.writable()
    except ValueError:  # detached
        return
    if threading.get_ident() == opener:
        file.close()
    else:
        # Not a `threading.Thread`: that has a lock, which may be held right here.
        _thread.start_new_thread(file.close, ())
    # Not of readers: the libraries that read through fsspec leave them to this as a rule.
    if is_writer:
        warnings.warn(f"unclosed file {file!r}", ResourceWarning, 3, source=file)


def open_file(
    backend: Backend,
    path: bytes,
    mode: str,
    lock: threading.RLock,
    *,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    permissions: int = 0o666,
) -> IO[Any]:
    """Open as `open` does. Raises: ValueError for a wrong mode; OSError."""
    flags, is_text = parse_mode(mode)
    if not is_text and (encoding or errors or newline is not None):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if is_text and buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    handle = backend.open(path, flags, permissions)
    with contextlib.ExitStack() as undo:
        undo.callback(handle.close)
        raw = PondFile(handle, "/" + os.fsdecode(path), mode, flags, lock)
        undo.callback(raw.close)
        file: Any = raw
        if buffering != 0:
            file = _buffer(raw, mode, BUFFER_BYTES if buffering in (-1, 1) else buffering)
            raw.is_wrapped = True
            undo.callback(file.close)
        if is_text:
            is_by_lines = buffering == 1
            text = _Text(file, encoding or "utf-8", errors, newline, line_buffering=is_by_lines)
            file.is_wrapped = True
            text.mode = mode  # type: ignore[misc]
            file = text
        undo.pop_all()
    return file  # type: ignore[no-any-return]


def _buffer(raw: PondFile, mode: str, size: int) -> IO[bytes]:
    if "+" in mode:
        return _Random(raw, size)
    return _Reader(raw, size) if raw.readable() else _Writer(raw, size)
