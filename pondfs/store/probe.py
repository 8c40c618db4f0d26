"""Whether a filesystem can do what publishing a commit takes; nothing of the try is left."""

import os
import uuid

from pondfs.store.commit import NO_TMPFILE
from pondfs.store.deltalog import LOG_DIR
from pondfs.store.lock import acting_as, find_owner


def try_publishing(store: str) -> str:
    """Do to a file nobody looks at what `commit.put_entry` does to a log entry.

    Returns: what does not work as it should, "" when all does. A name that a kill leaves behind is
        swept up like those of torn commits.
    Raises: OSError as the disk says.
    """
    name = f".probe.{uuid.uuid4()}.tmp"
    owner = find_owner(store)
    log_fd = os.open(os.path.join(store, LOG_DIR), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with acting_as(owner):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=log_fd)
            try:
                return _try(fd, log_fd, name)
            finally:
                os.close(fd)
                os.unlink(name, dir_fd=log_fd)
    finally:
        os.close(log_fd)


def _try(fd: int, log_fd: int, name: str) -> str:
    other = f".{name}"
    os.write(fd, b"pond doctor")
    os.fsync(fd)
    try:
        os.link(name, other, src_dir_fd=log_fd, dst_dir_fd=log_fd)
    except OSError as error:
        return f"it has no hard links ({error.strerror})"
    try:
        os.link(name, other, src_dir_fd=log_fd, dst_dir_fd=log_fd)
    except FileExistsError:
        pass
    else:
        return "it gives a name that is taken a second time"
    finally:
        os.unlink(other, dir_fd=log_fd)
    os.fsync(log_fd)
    return ""


def has_nameless_files(store: str) -> bool:
    """Return whether a log entry can be written without a name (O_TMPFILE) and linked then.

    Raises: OSError as the disk says, except that it can't.
    """
    log_dir = os.path.join(store, LOG_DIR)
    try:
        os.close(os.open(log_dir, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in NO_TMPFILE:
            return False
        raise
    return True
