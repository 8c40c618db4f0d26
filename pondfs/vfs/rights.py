"""What one user may see and do in a whole tree; `access` is about one node.

For what is done behind the kernel's back, so that it can't check: restores, and answers about the
past.
"""

import stat

from pondfs.errors import NotPermitted
from pondfs.interfaces import Image, Tree
from pondfs.node import ROOT, NodeId
from pondfs.vfs import access, acl
from pondfs.vfs.base import Caller
from pondfs.vfs.nodes import Node
from pondfs.vfs.plan import Made, Path, Plan, find, show, walk


class Rights:
    """What one user may do in one image."""

    def __init__(self, caller: Caller, image: Tree, *, use_acl: bool) -> None:
        self._caller = caller
        self._image = image
        self._use_acl = use_acl
        self._reachable: dict[NodeId, bool] = {}

    def may(self, node_id: NodeId, wanted: int) -> bool:
        """Return whether the node can be reached and grants all of *wanted* (see `access`)."""
        node = self.node(node_id)
        return self.may_reach(node.parent) and access.may(
            self._caller, node, wanted, use_acl=self._use_acl
        )

    def may_reach(self, directory: NodeId) -> bool:
        """Return whether every directory down to this one, itself included, may be searched."""
        found = self._reachable.get(directory)
        if found is None:
            node = self.node(directory)
            found = access.may(self._caller, node, access.SEARCH, use_acl=self._use_acl)
            if found and directory != ROOT:
                found = self.may_reach(node.parent)
            self._reachable[directory] = found
        return found

    def may_change(self, directory: NodeId) -> bool:
        """Return whether entries of the directory may be made and removed."""
        return self.may(directory, access.WRITE | access.SEARCH)

    def may_remove(self, directory: NodeId, node: NodeId) -> bool:
        """Return whether this entry may be removed: as `may_change`, and what sticky adds."""
        return self.may_change(directory) and access.may_remove(
            self._caller, self.node(directory), self.node(node)
        )

    def may_see(self, path: Path) -> bool:
        """Return whether a listing could show *path*: its directory is there to be read."""
        directory = walk(self._image, path[:-1])
        return directory is not None and self.may(directory, access.READ | access.SEARCH)

    def may_see_parent(self, path: Path) -> bool:
        """As `may_see`; where a directory is gone, the nearest one above it counts."""
        while path[:-1] and walk(self._image, path[:-1]) is None:
            path = path[:-1]
        return self.may_see(path)

    def node(self, node_id: NodeId) -> Node:
        """Return the node as it is in the image."""
        stored = find(self._image, node_id)
        node = Node(node_id, stored.attr, stored.parent)
        node.take(stored)
        return node


def check_rights(plan: Plan, old: Tree, now: Image, caller: Caller, *, use_acl: bool) -> None:
    """Refuse what *caller* could not do by hand; leave out times that *caller* could not set.

    Raises: NotPermitted naming the path.
    """
    if caller.uid == 0:
        return
    present = Rights(caller, now, use_acl=use_acl)
    past = Rights(caller, old, use_acl=use_acl)

    def need(granted: bool, path: Path, what: str) -> None:
        if not granted:
            raise NotPermitted(f"{show(path)}: you may not {what}")

    for put in plan.puts:
        source = put.source
        if not isinstance(put.directory, Made):
            need(present.may_change(put.directory), put.path[:-1], "change this directory")
        if isinstance(source, Made):
            was = past.node(source.old)
            need(
                access.may_own(caller, was.uid, was.gid),
                put.path,
                f"make what belonged to user {was.uid}, group {was.gid}",
            )
            need(not stat.S_ISBLK(was.mode), put.path, "make a device")
            need(not stat.S_ISCHR(was.mode), put.path, "make a device")
            need(not _privileged(was), put.path, "set the attributes it had")
            wanted = 0 if stat.S_ISLNK(was.mode) else access.READ
            need(past.may(source.old, wanted), put.path, "read how it was")
        elif put.origin is not None and put.origin_path is not None:
            need(present.may_remove(put.origin[0], source), put.origin_path, "move it")
            if stat.S_ISDIR(present.node(source).mode) and put.directory != put.origin[0]:
                # Its `..` changes.
                need(present.may(source, access.WRITE), put.origin_path, "move this directory")
        else:
            need(present.node(source).uid == caller.uid, put.path, "link what is not yours")
    for remove in plan.removes:
        queue = [(remove.directory, remove.node)]
        for directory, node in queue:
            need(present.may_remove(directory, node), remove.path, "remove it")
            queue.extend((node, child) for child in now.load_entries(node).values())
    for node, old_id, path in plan.attrs:
        found, was = present.node(node), past.node(old_id)
        is_theirs = found.uid == caller.uid and present.may(node, 0)
        need(is_theirs, path, "change its mode or owner")
        need(access.may_own(caller, was.uid, was.gid), path, "give it away")
        need(_privileged(found) == _privileged(was), path, "change the attributes it has")
    # Who may change what is in a directory may not set its times.
    plan.times = [(node, old) for node, old in plan.times if present.node(node).uid == caller.uid]


def _privileged(node: Node) -> dict[bytes, bytes]:
    """Return the extended attributes that only root may set."""
    return {
        name: value
        for name, value in (node.xattrs or {}).items()
        if not name.startswith(b"user.") and name not in (acl.ACCESS, acl.DEFAULT)
    }
