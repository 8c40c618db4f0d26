"""`.pond/history/`: every content a file ever had, under every path it ever had.

``history/<path>/`` is a directory for each path some version had: of a directory, with all names it
had under that path; of a file, with its contents, ``<n>-<time>`` by the version that brought each.
A path that was both holds both. What it shows comes from `interfaces.Lives`, which is made when
somebody looks, in a thread, and let go of when nobody has for a while.

A number here is a keyed hash of where the node is. So it stays the same while the mount lasts,
and nothing has to be remembered of what the kernel has forgotten: what it still knows is among the
live nodes, as it holds references to all of that.

Permissions are those of then: directories have the newest state of the directory they stand for,
contents that of their file. Where the file was in a directory that not everybody could search, the
content is its owner's alone: a public name it got later must not give it away.
"""

import errno
import hashlib
import logging
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import trio

from pondfs.errors import FileError, NoSuchVersion, StoreDamaged
from pondfs.extent import Extent, ExtentMap
from pondfs.interfaces import Lives, PastContent, PastName, Store, Tree
from pondfs.node import PAST, ROOT, NodeId, Version
from pondfs.vfs import acl, offload
from pondfs.vfs.nodes import Node, NodeTable
from pondfs.xattrs import decode_xattrs

log = logging.getLogger("pondfs.past")

T = TypeVar("T")
Told = PastName | PastContent | None
"""What stands behind a name."""

HISTORY = NodeId(PAST | 8)

# Between the views of `past` and its handles, see there.
_FIRST = PAST | 1 << 61
_END = PAST | 1 << 62

IDLE_S = 45.0
"""When nobody has looked for so long, the rows are let go of."""

_CONTENT = re.compile(rb"([1-9]\d{0,17})-\d{4}-\d\d-\d\dT\d{6}Z")


def is_history(node_id: int) -> bool:
    """Return whether the number is one of a node in here."""
    return _FIRST <= node_id < _END or node_id == HISTORY


class Name(Node):
    """A path that was: a directory.

    Attributes:
        path: the names that lead to it.
        seen: the version its attributes are from.
    """

    __slots__ = ("path", "seen")

    def __init__(self, node_id: NodeId, parent: NodeId, path: tuple[bytes, ...]) -> None:
        # One link: what it holds may grow, and programs take 1 for "not known".
        super().__init__(node_id, (stat.S_IFDIR | 0o555, 0, 0, 1, 0, 0, 0, 0, 0), parent)
        self.path = path
        self.seen = Version(0)
        self.children = {}

    def show(self, told: PastName, seen: Version) -> None:
        """Take over the attributes of what had the path."""
        mode, uid, gid, _, _, _, atime_ns, mtime_ns, ctime_ns = told.attr
        is_directory = stat.S_ISDIR(mode)
        self.mode = mode if is_directory else stat.S_IFDIR | 0o555
        self.uid, self.gid = uid, gid
        self.atime_ns, self.mtime_ns, self.ctime_ns = atime_ns, mtime_ns, ctime_ns
        self.xattrs = decode_xattrs(told.metadata) if is_directory else None
        self.seen = seen
        self.shown = None


class Was(Node):
    """A file as it was: one content.

    Attributes:
        name: what it is called.
        content: what it shows.
        round: how often files had been exchanged when its bytes were looked up.
    """

    __slots__ = ("content", "name", "round")

    def __init__(self, node_id: NodeId, parent: NodeId, name: bytes, content: PastContent) -> None:
        super().__init__(node_id, content.attr, parent)
        self.nlink = 1
        self.name = name
        self.content = content
        self.round = -1
        self.target = content.target
        self.allocated_bytes = content.allocated_bytes
        self.xattrs = decode_xattrs(content.metadata)
        if content.was_private and not stat.S_ISLNK(self.mode):
            self.mode &= ~0o077
            # An ACL would decide instead of the mode.
            if self.xattrs is not None:
                self.xattrs.pop(acl.ACCESS, None)

    def load_extents(self, image: Tree) -> list[Extent]:
        """Refuse: who opens it has `PastHistory.load` bring them, in a thread."""
        raise FileError(errno.ESTALE)


class PastHistory:
    """The nodes of `.pond/history/`."""

    def __init__(self, store: Store, nodes: NodeTable, parent: NodeId) -> None:
        self._store = store
        self._nodes = nodes
        self._parent = parent
        self._key = os.urandom(16)
        self._lives: Lives | None = None
        # One question at a time; the rest is the trio thread's.
        self._turn = trio.Lock()
        self._newest = Version(0)
        self._exchanged = False
        self._round = 0
        self._used = 0.0
        self._watched = False

    def committed(self, version: Version) -> None:
        """Take note of a new version: it is there at once."""
        self._newest = max(self._newest, version)

    def exchanged(self) -> None:
        """Take note that data files were exchanged, and perhaps versions pruned."""
        self._exchanged = True
        self._round += 1

    def root(self) -> Node:
        """Return a new node for `.pond/history` itself."""
        node = Name(HISTORY, self._parent, ())
        self._take_permissions(node)
        return node

    def _take_permissions(self, node: Name) -> None:
        """Let in whom the live root lets in; no history is needed to say so."""
        root = self._nodes.get(ROOT)
        node.show(PastName(root.attr_row(), root.metadata()), self._newest)

    # --- what the kernel asks ---

    async def ready(self, node_id: NodeId) -> None:
        """Have the node's attributes as they are now. Raises: FileError ESTALE."""
        node = self._nodes.get(node_id)
        if node_id == HISTORY:
            assert isinstance(node, Name)
            self._take_permissions(node)
        elif isinstance(node, Name) and (node.seen < self._newest or self._exchanged):
            path = node.path
            (told,) = await self._ask(lambda lives: lives.find_names(path[:-1], path[-1:]))
            if told is None:
                raise FileError(errno.ESTALE)
            node.show(told, self._newest)

    async def load(self, node_id: NodeId) -> None:
        """Have a content's bytes at hand, before it is opened. Raises: FileError ESTALE."""
        node = self._nodes.live.get(node_id)
        if not isinstance(node, Was) or not stat.S_ISREG(node.mode):
            return
        # Again when files were exchanged meanwhile: nobody holds what was found before.
        content = node.content
        while node.round != (current := self._round):
            try:
                extents = await self._ask(lambda lives: lives.load_extents(content))
            except NoSuchVersion:
                raise FileError(errno.ESTALE) from None
            node.extents = ExtentMap(extents)
            node.round = current

    async def lookup(self, parent_id: NodeId, name: bytes) -> Node:
        """Return the node behind a name, and count a reference. Raises: FileError ENOENT."""
        parent = self._directory(parent_id)
        (told,) = await self.find(parent_id, [name])
        if told is None:
            raise FileError(errno.ENOENT)
        node = self.node(parent, name, told)
        node.lookups += 1
        return node

    async def list_names(self, directory_id: NodeId) -> list[bytes]:
        """Return the names in a directory."""
        path = self._directory(directory_id).path
        return await self._ask(lambda lives: _list(lives, path))

    async def find(self, directory_id: NodeId, names: Sequence[bytes]) -> list[Told]:
        """Return what stands behind each of *names*; `node` makes nodes of it."""
        path = self._directory(directory_id).path
        return await self._ask(lambda lives: _find(lives, path, names))

    def node(self, parent: Node, name: bytes, told: PastName | PastContent) -> Node:
        """Return the node for what was told of a name in *parent*. Counts no reference."""
        assert isinstance(parent, Name)
        number = self._number(parent.id, name)
        node = self._nodes.live.get(number)
        if isinstance(told, PastContent):
            if not isinstance(node, Was):
                node = Was(number, parent.id, name, told)
            self._check(node, parent, node.name == name)
        else:
            if not isinstance(node, Name):
                node = Name(number, parent.id, (*parent.path, name))
            self._check(node, parent, node.path[-1] == name)
            if node.seen != self._newest:
                node.show(told, self._newest)
        self._nodes.live[number] = node
        return node

    def _check(self, node: Node, parent: Node, is_same: bool) -> None:
        """Refuse one of two names with the same number: 2e-7 among a million."""
        if node.parent != parent.id or not is_same:
            raise FileError(errno.EIO)

    def _number(self, parent: NodeId, name: bytes) -> NodeId:
        digest = hashlib.blake2b(
            parent.to_bytes(8, "little") + name, digest_size=8, key=self._key
        ).digest()
        return NodeId(_FIRST | int.from_bytes(digest, "little") >> 3)

    def _directory(self, node_id: NodeId) -> Name:
        node = self._nodes.get(node_id)
        if not isinstance(node, Name):
            raise FileError(errno.ENOTDIR)
        return node

    # --- the rows behind it ---

    async def _ask(self, question: Callable[[Lives], T]) -> T:
        """Return the answer to a question about all versions there are.

        Raises: StoreDamaged, OSError.
        """
        async with self._turn:
            try:
                return await offload.run(question, await self._open())
            except StoreDamaged:
                if self._lives is None:
                    raise
                # Perhaps another process pruned meanwhile.
                self.exchanged()
                return await offload.run(question, await self._open())

    async def _open(self) -> Lives:
        self._used = trio.current_time()
        lives = self._lives
        if lives is not None and not self._exchanged and lives.newest >= self._newest:
            return lives
        self._let_go()
        self._exchanged = False
        wanted = self._newest
        lives = self._lives = await offload.run(self._store.open_lives)
        if self._newest == wanted:
            # What it does not have is not there, and asking again would not help.
            self._newest = lives.newest
        self._used = trio.current_time()
        if not self._watched:
            self._watched = True
            trio.lowlevel.spawn_system_task(self._watch)
        return lives

    def _let_go(self) -> None:
        lives, self._lives = self._lives, None
        if lives is not None:
            lives.close()

    async def _watch(self) -> None:
        """Let go of the rows when nobody has asked for a while."""
        while self._lives is not None:
            await trio.sleep_until(self._used + IDLE_S)
            async with self._turn:
                if trio.current_time() >= self._used + IDLE_S:
                    self._let_go()
        self._watched = False


def _list(lives: Lives, path: Sequence[bytes]) -> list[bytes]:
    names = dict.fromkeys(lives.list_names(path))
    names.update(dict.fromkeys(map(_content_name, lives.list_contents(path))))
    return list(names)


def _find(lives: Lives, path: Sequence[bytes], names: Sequence[bytes]) -> list[Told]:
    contents = lives.list_contents(path)
    found: list[Told] = [_find_content(contents, name) for name in names]
    others = [name for name, told in zip(names, found, strict=True) if told is None]
    rest = iter(lives.find_names(path, others) if others else ())
    return [next(rest) if told is None else told for told in found]


def _find_content(contents: Sequence[PastContent], name: bytes) -> PastContent | None:
    match = _CONTENT.fullmatch(name) if contents else None
    if match is None:
        return None
    at = bisect_left(contents, int(match[1]), key=lambda content: content.version)
    if at == len(contents) or _content_name(contents[at]) != name:
        return None
    return contents[at]


def _content_name(content: PastContent) -> bytes:
    time = datetime.fromtimestamp(content.time_ns // 10**9, UTC)
    return f"{content.version}-{time:%Y-%m-%dT%H%M%SZ}".encode()
