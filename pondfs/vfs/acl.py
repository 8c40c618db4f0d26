"""POSIX ACLs, as the kernel hands them to a filesystem in two extended attributes.

With FUSE's ACL support the kernel checks permissions against the ACL but leaves to the daemon
what ext4 does in fs/ext4/acl.c: keep mode and ACL in step, and let new nodes inherit.

Source: POSIX.1e draft 17; include/uapi/linux/posix_acl_xattr.h (little-endian: u32 version, then
u16 tag, u16 permissions, u32 id for each entry).
"""

import errno
import stat
import struct

from pondfs.errors import FileError
from pondfs.vfs.nodes import Node

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")

Entry = tuple[int, int, int]


def parse(value: bytes) -> list[Entry]:
    """Return the (tag, permissions, id) entries. Raises: FileError EINVAL, EOPNOTSUPP."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise FileError(errno.EINVAL)
    if _HEADER.unpack_from(value)[0] != VERSION:
        raise FileError(errno.EOPNOTSUPP)
    return list(_ENTRY.iter_unpack(value[_HEADER.size :]))


def build(entries: list[Entry]) -> bytes:
    """Return the attribute's value."""
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def apply(node: Node, name: bytes, value: bytes) -> bytes | None:
    """Take over an ACL that is being set; an access ACL also sets the mode's nine bits.

    Returns: what to keep as the attribute; None when the mode alone says the same (an access ACL
        of only the three classes), or for an empty default ACL.
    Raises: FileError EINVAL.
    """
    entries = parse(value)
    if name == DEFAULT:
        return value if entries else None
    bits = _mode_bits(entries)
    node.mode = (node.mode & ~0o777) | bits
    extended = any(tag in (USER, GROUP, MASK) for tag, _, _ in entries)
    return value if extended else None


def follow_chmod(node: Node) -> None:
    """Bring the access ACL in step with a mode that chmod has set (posix_acl_chmod)."""
    assert node.xattrs is not None
    value = node.xattrs.get(ACCESS)
    if value is None:
        return
    node.xattrs = {**node.xattrs, ACCESS: build(_with_mode(parse(value), node.mode))}


def inherit(parent: Node, node: Node) -> None:
    """Give a new node the ACLs its directory's default ACL calls for (posix_acl_create).

    The kernel has applied the umask to the mode already: it asks daemons whether they want to do
    that themselves, and pyfuse3 offers no way to say yes (see docs/reference/semantics.md).
    """
    assert parent.xattrs is not None
    value = parent.xattrs.get(DEFAULT)
    if value is None or stat.S_ISLNK(node.mode):
        return
    xattrs: dict[bytes, bytes] = {}
    if stat.S_ISDIR(node.mode):
        xattrs[DEFAULT] = value
    entries = _masked(parse(value), node.mode)
    node.mode = (node.mode & ~0o777) | _mode_bits(entries)
    if any(tag in (USER, GROUP, MASK) for tag, _, _ in entries):
        xattrs[ACCESS] = build(entries)
    node.xattrs = xattrs or None


def _mode_bits(entries: list[Entry]) -> int:
    """Return the nine mode bits that stand for the ACL: group shows the mask where there is one."""
    found = {tag: perm for tag, perm, _ in entries}
    if not {USER_OBJ, GROUP_OBJ, OTHER} <= found.keys():
        raise FileError(errno.EINVAL)
    group = found.get(MASK, found[GROUP_OBJ])
    return (found[USER_OBJ] & 7) << 6 | (group & 7) << 3 | (found[OTHER] & 7)


def _with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """Return the ACL with the classes set to the mode's bits."""
    has_mask = any(tag == MASK for tag, _, _ in entries)
    group_tag = MASK if has_mask else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return [(tag, bits.get(tag, perm), who) for tag, perm, who in entries]


def _masked(entries: list[Entry], mode: int) -> list[Entry]:
    """Return the ACL with its classes cut down to what the creating call allowed."""
    has_mask = any(tag == MASK for tag, _, _ in entries)
    group_tag = MASK if has_mask else GROUP_OBJ
    allowed = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return [(tag, perm & allowed.get(tag, 7), who) for tag, perm, who in entries]
