"""A transaction that was prepared beside the mount: done whole, as one version, or not at all.

It comes as the rows it would have committed, had it been alone since the version it began at. Laid
over that version they say how the tree shall be, and making it so is what a restore does: a plan,
refused where others changed the same since, carried out between two requests of the kernel.
"""

import stat
from collections.abc import Sequence

import trio

from pondfs.entry import NAME_MAX, SYMLINK_MAX
from pondfs.errors import UsageError
from pondfs.interfaces import Image, NewVersion
from pondfs.node import FILE_TYPES, MAX_FILE_SIZE, PAST, ROOT, NodeId, Version
from pondfs.oplog import Row
from pondfs.vfs import offload
from pondfs.vfs.follow import Changed, Layer
from pondfs.vfs.restore import Outcome
from pondfs.vfs.vfs import Vfs
from pondfs.xattrs import decode_xattrs


async def apply(vfs: Vfs, base: Version, files: Sequence[str], message: str) -> Outcome:
    """Do what the rows in *files* say.

    Args:
        vfs: the live tree.
        base: the version they come after.
        files: names of data files in the store that nothing refers to. They are removed.
        message: of the version.
    Durability: all of it is one version, on disk on return.
    Raises: UsageError for what no transaction of pondfs says; Conflict naming what others changed
        since; NoSuchVersion when the version was pruned meanwhile; as `Restorer.restore`.
    """
    store = vfs.store
    await offload.run(store.check_loose, files)
    try:
        rows = await offload.run(store.load_loose, files)
        then = await vfs.past.image(base)
        wanted = await offload.run(lay_over, then, rows)
        touched = {NodeId(row.node) for row in rows}
        touched.update(NodeId(row.part) for row in rows if row.name is not None)
        return await vfs.restorer.apply(wanted, then, touched, message)
    finally:
        with trio.CancelScope(shield=True):
            await offload.run(store.remove_loose, files)


def lay_over(then: Image, rows: list[Row]) -> Layer:
    """Return the tree that *rows* make of *then*. Raises: UsageError when that is none."""
    for row in rows:
        _check_row(row, then)
    wanted = Layer(then)
    changed = wanted.apply(NewVersion(Version(then.version + 1), 0, rows))
    _check_tree(wanted, then, changed)
    return wanted


def _check_row(row: Row, then: Image) -> None:
    """Refuse a row that could not be about a tree. Raises: UsageError."""
    name, attr = row.name, row.attr
    is_sound = ROOT <= row.node < PAST and ROOT <= row.part < PAST
    if name is not None:
        is_sound &= 0 < len(name) <= NAME_MAX and name not in (b".", b"..")
        is_sound &= b"/" not in name and b"\0" not in name
    elif row.removed:
        is_sound &= row.node != ROOT
    if attr is not None:
        before = then.find_node(NodeId(row.node))
        kind = stat.S_IFMT(attr[0])
        is_sound &= kind in FILE_TYPES and 0 <= attr[5] <= MAX_FILE_SIZE
        is_sound &= before is None or stat.S_IFMT(before.attr[0]) == kind
    content = row.content
    if content is not None and row.offset is not None:
        is_sound &= 0 <= row.offset <= MAX_FILE_SIZE - content.length
    try:
        decode_xattrs(row.metadata)
    except (ValueError, AttributeError):
        is_sound = False
    if not is_sound:
        raise UsageError(f"the transaction has a row no tree can have, for node {row.node:016x}")


def _check_tree(wanted: Layer, then: Image, changed: Changed) -> None:
    """Refuse names in what is no directory, and directories not in exactly one place.

    Raises: UsageError.
    """
    below_root: set[NodeId] = {ROOT}
    placed: set[NodeId] = {ROOT}
    for directory, name in changed.entries:
        node_id = wanted.new_entry(directory, name)
        if node_id is None:
            continue
        parent, node = wanted.find_node(directory), wanted.find_node(node_id)
        if parent is None or node is None or not stat.S_ISDIR(parent.attr[0]):
            raise UsageError(f"the transaction has names in {directory:016x}, which holds none")
        if stat.S_ISLNK(node.attr[0]):
            target = node.target or b""
            if not 0 < len(target) <= SYMLINK_MAX or b"\0" in target:
                raise UsageError("the transaction has a symlink that leads nowhere")
        if not stat.S_ISDIR(node.attr[0]):
            continue
        before = then.find_node(node_id)
        old_names = [] if before is None else wanted.load_entries(before.parent).items()
        stays = before is not None and any(
            found == node_id and (before.parent, old) != (directory, name)
            for old, found in old_names
        )
        if node_id in placed or stays or node.parent != directory:
            raise UsageError(f"the transaction has directory {node_id:016x} in two places")
        placed.add(node_id)
    for node_id in placed:
        way: set[NodeId] = set()
        at = node_id
        while at not in below_root:
            node = wanted.find_node(at)
            if node is None or at in way:
                raise UsageError("the transaction has a directory below itself")
            way.add(at)
            at = node.parent
        below_root |= way
