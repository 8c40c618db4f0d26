"""Whether something is there, when a disk that fails must not look like one that is empty.

`os.path.exists` and its like answer False to any error: of a pond on a bad disk it was said that it
is no pond, with the advice to make one there.
"""

import os
import stat


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
