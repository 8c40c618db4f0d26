"""Whether a filesystem can do what publishing a commit takes; nothing of the try is left."""

import os
import uuid

from pondfs.store.datafile import unlink_quietly
from pondfs.store.deltalog import LOG_DIR
from pondfs.store.lock import acting_as, find_owner


def try_publishing(store: str) -> str:
    """Do to a file nobody looks at what `commit.put_entry` does to a log entry.

    Returns: what does not work as it should, "" when all does. A name that a kill leaves behind is
        swept up like those of torn commits.
    Raises: OSError as the disk says.
    """
    log_dir = os.path.join(store, LOG_DIR)
    name = os.path.join(log_dir, f".probe.{uuid.uuid4()}.tmp")
    with acting_as(find_owner(store)):
        nameless = True
        try:
            fd = os.open(log_dir, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            nameless = False
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        source = f"/proc/self/fd/{fd}" if nameless else name
        linked = name if nameless else f"{name}.2.tmp"
        try:
            os.write(fd, b"pond doctor")
            os.fsync(fd)
            try:
                os.link(source, linked, follow_symlinks=True)
            except OSError as error:
                return f"it has no hard links ({error.strerror})"
            try:
                os.link(source, linked, follow_symlinks=True)
            except FileExistsError:
                pass
            else:
                return "it gives a name that is taken a second time"
            directory = os.open(log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        finally:
            os.close(fd)
            unlink_quietly(linked)
            if not nameless:
                unlink_quietly(name)
    return ""
