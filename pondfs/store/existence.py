"""Whether something is there, when a disk that fails must not look like one that is empty.

`os.path.exists` and its like answer False to any error: of a pond on a bad disk it was said that it
is no pond, with the advice to make one there.
"""

import errno
import os
import stat

NO_FILE = "it is no file of this pond: look at it, and move it away"


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether *path* names anything, a symlink that leads nowhere included.

    Raises: OSError when the disk does not say.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_directory(path: str | os.PathLike[str]) -> bool:
    """Return whether *path* leads to a directory. Raises: OSError when the disk does not say."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_plain(path: str, flags: int) -> int:
    """Open a regular file in ``_pond/`` or ``_delta_log/`` to read it; an opener for `open`.

    Root looks at stores of users whom it need not trust: opening a FIFO waits for ever, and a
    symlink leads to what its maker can't read.

    Raises: OSError as the system says, ELOOP for what is no regular file.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(errno.ELOOP, NO_FILE, path) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, NO_FILE, path)
    return fd
