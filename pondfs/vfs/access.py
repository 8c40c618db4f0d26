"""May this user do that? For what the daemon does on a user's behalf, past the kernel's checks.

The kernel checks every request of the mount itself (``default_permissions``). A restore changes the
tree behind its back, so the same rules stand here: class bits of the mode, POSIX ACLs, sticky
directories. Root may everything, as it does in the kernel.

Source: fs/namei.c (acl_permission_check, __check_sticky), fs/posix_acl.c (posix_acl_permission).
"""

import stat

from pondfs.vfs import acl
from pondfs.vfs.base import Caller
from pondfs.vfs.nodes import Node

READ, WRITE, SEARCH = 4, 2, 1


def may(caller: Caller, node: Node, wanted: int, *, use_acl: bool) -> bool:
    """Return whether the node's mode (and ACL) grant all of the *wanted* bits."""
    if caller.uid == 0:
        return True
    if caller.uid == node.uid:
        return node.mode >> 6 & wanted == wanted
    value = (node.xattrs or {}).get(acl.ACCESS) if use_acl else None
    if value is not None:
        return _may_by_acl(caller, node, acl.parse(value), wanted)
    if _is_member(caller, node.gid):
        return node.mode >> 3 & wanted == wanted
    return node.mode & wanted == wanted


def may_remove(caller: Caller, directory: Node, node: Node) -> bool:
    """Return whether a sticky directory lets *caller* take away its entry for *node*."""
    return (
        not directory.mode & stat.S_ISVTX
        or caller.uid in (0, node.uid)
        or caller.uid == directory.uid
    )


def may_own(caller: Caller, uid: int, gid: int) -> bool:
    """Return whether *caller* could make a node that belongs to *uid* and *gid*."""
    return caller.uid == 0 or (caller.uid == uid and _is_member(caller, gid))


def _is_member(caller: Caller, gid: int) -> bool:
    return gid == caller.gid or gid in caller.groups


def _may_by_acl(caller: Caller, node: Node, entries: list[acl.Entry], wanted: int) -> bool:
    mask = next((bits for tag, bits, _ in entries if tag == acl.MASK), 7)
    is_grouped = False
    for tag, bits, who in entries:
        if tag == acl.USER and who == caller.uid:
            return bits & mask & wanted == wanted
        if tag in (acl.GROUP, acl.GROUP_OBJ):
            gid = node.gid if tag == acl.GROUP_OBJ else who
            if _is_member(caller, gid):
                is_grouped = True
                if bits & mask & wanted == wanted:
                    return True
    # Members of some group that grants nothing are no "others".
    return not is_grouped and node.mode & wanted == wanted
