"""Entries: the names in directories. Names are bytes, as Linux has them."""

import errno

from pondfs.errors import FileError

NAME_MAX = 255
"""Longest name in bytes: what Linux filesystems have (POSIX NAME_MAX)."""

SYMLINK_MAX = 4095
"""Longest symlink target in bytes: PATH_MAX less the closing NUL."""

LINK_MAX = (1 << 31) - 1
"""Most hard links to one node; ``nlink`` is stored as a 32-bit number."""


def check_name(name: bytes) -> None:
    """Refuse a name no entry may have.

    The kernel already refuses ``/``, NUL, ``.`` and ``..``; it leaves the length to us.

    Raises: FileError ENAMETOOLONG beyond NAME_MAX bytes.
    """
    if len(name) > NAME_MAX:
        raise FileError(errno.ENAMETOOLONG)


def encode_name(name: bytes) -> tuple[str, bytes | None]:
    """Return the table's (``name``, ``name_bytes``) for *name*.

    ``name`` is readable text for every reader; ``name_bytes`` is set only when the name is not
    UTF-8, and is then the truth (``name`` shows U+FFFD for what could not be decoded).
    """
    try:
        return name.decode("utf-8"), None
    except UnicodeDecodeError:
        return name.decode("utf-8", "replace"), name
