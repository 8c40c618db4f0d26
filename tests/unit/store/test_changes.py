"""What changed between two versions, against a small model of a tree."""

import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pondfs.change import Change
from pondfs.errors import NoSuchPath, NoSuchVersion
from pondfs.extent import Content
from pondfs.node import ROOT, Version
from pondfs.oplog import Row
from pondfs.store.changes import load_changes
from pondfs.store.delta import DeltaStore
from pondfs.store.fold import load_image
from pondfs.store.trace import Trace
from tests.unit.store.support import DIRECTORY, FILE, SYMLINK, attr, make_cut, new_pond, read_file

Facts = tuple[int, int, bytes | None]
"""Mode, uid, content."""


@dataclass
class Node:
    mode: int
    uid: int = 1000
    data: bytes = b""
    part: int = ROOT
    names: int = 1
    children: dict[bytes, int] = field(default_factory=dict)


class Tree:
    """A tree that says of every change what rows it makes, as the live tree would."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Node(DIRECTORY, uid=-1)}
        self.rows: list[Row] = []
        self.next = 10

    def listing(self) -> dict[bytes, Facts]:
        found: dict[bytes, Facts] = {}
        todo: list[tuple[bytes, int]] = [(b"", ROOT)]
        for above, directory in todo:
            for name, node_id in self.nodes[directory].children.items():
                node = self.nodes[node_id]
                is_dir = stat.S_ISDIR(node.mode)
                found[above + name] = (node.mode, node.uid, None if is_dir else node.data)
                if is_dir:
                    todo.append((above + name + b"/", node_id))
        return found

    def find(self, path: bytes) -> tuple[int, bytes, int]:
        directory: int = ROOT
        node: int = ROOT
        name = b""
        for name in path.split(b"/"):
            directory, node = node, self.nodes[node].children[name]
        return directory, name, node

    def place(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return (self.find(above)[2] if above else ROOT), name

    def say(self, node_id: int, *, below: int | None = None, data: bytes | None = None) -> None:
        """The row with the node's attributes."""
        node = self.nodes[node_id]
        is_dir = stat.S_ISDIR(node.mode)
        row = attr(node.mode, len(node.data), 2 if is_dir else node.names)
        self.rows.append(
            Row("update", 5, node_id if is_dir else node.part, node_id, node.mode,
                attr=(node.mode, node.uid, *row[2:]), valid_below=below,
                offset=0 if data else None, content=Content(data, len(data)) if data else None)
        )  # fmt: skip

    def enter(self, path: bytes, node_id: int, op: str) -> None:
        directory, name = self.place(path)
        children = self.nodes[directory].children
        other = children.get(name)
        children[name] = node_id
        self.nodes[node_id].part = directory
        self.rows.append(Row(op, 5, directory, node_id, self.nodes[node_id].mode, name))
        if other is not None:
            self.drop(other)

    def drop(self, node_id: int) -> None:
        node = self.nodes[node_id]
        node.names -= 1
        if node.names:
            self.say(node_id)
        else:
            part = node_id if stat.S_ISDIR(node.mode) else node.part
            self.rows.append(Row("unlink", 5, part, node_id, node.mode, removed=True))
            del self.nodes[node_id]

    def make(self, path: bytes, mode: int = FILE, data: bytes = b"") -> int:
        node_id = self.next
        self.next += 1
        self.nodes[node_id] = Node(mode, data=data)
        self.enter(path, node_id, "create")
        self.say(node_id, data=data)
        return node_id

    def write(self, path: bytes, data: bytes) -> None:
        node_id = self.find(path)[2]
        self.nodes[node_id].data = data
        self.say(node_id, below=0, data=data)

    def chmod(self, path: bytes, mode: int, uid: int = 1000) -> None:
        node = self.nodes[self.find(path)[2]]
        node.mode = stat.S_IFMT(node.mode) | mode
        node.uid = uid
        self.say(self.find(path)[2])

    def link(self, path: bytes, other: bytes) -> None:
        node_id = self.find(path)[2]
        self.nodes[node_id].names += 1
        self.enter(other, node_id, "link")
        self.say(node_id)

    def rename(self, path: bytes, other: bytes) -> None:
        directory, name, node_id = self.find(path)
        del self.nodes[directory].children[name]
        self.rows.append(
            Row("rename", 5, directory, node_id, self.nodes[node_id].mode, name, removed=True)
        )
        self.enter(other, node_id, "rename")
        self.say(node_id)

    def remove(self, path: bytes) -> None:
        directory, name, node_id = self.find(path)
        for child in list(self.nodes[node_id].children):
            self.remove(path + b"/" + child)
        del self.nodes[directory].children[name]
        self.rows.append(
            Row("unlink", 5, directory, node_id, self.nodes[node_id].mode, name, removed=True)
        )
        self.drop(node_id)


class Life:
    """A pond, and the tree that is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: DeltaStore = new_pond(path)
        self.tree = Tree()
        self.version = 1

    def commit(self) -> int:
        self.version += 1
        rows, self.tree.rows = self.tree.rows, []
        self.store.commit(make_cut(self.version, rows))
        return self.version

    def diff(self, old: int, new: int, *below: bytes) -> list[str]:
        return [
            brief(change) for change in load_changes(self.path, Version(old), Version(new), below)
        ]


def brief(change: Change) -> str:
    path = change.path.decode()
    return f"{change.change} {f'{change.source.decode()} -> ' if change.source else ''}{path}"


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path / "pond")


def test_each_kind_of_change(life: Life) -> None:
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    for name in (b"kept", b"gone", b"written", b"moved", b"chmod", b"touched"):
        tree.make(b"d/" + name, data=b"old " + name)
    tree.make(b"link", SYMLINK, b"target")
    old = life.commit()
    tree.make(b"new", data=b"new")
    tree.remove(b"d/gone")
    tree.write(b"d/written", b"OLD written")
    tree.rename(b"d/moved", b"moved")
    tree.chmod(b"d/chmod", 0o600)
    tree.say(tree.find(b"d/touched")[2])
    new = life.commit()
    assert life.diff(old, new) == [
        "mode d/chmod",
        "removed d/gone",
        "changed d/written",
        "renamed d/moved -> moved",
        "added new",
    ]
    assert life.diff(new, old) == [
        "mode d/chmod",
        "added d/gone",
        "renamed moved -> d/moved",
        "changed d/written",
        "removed new",
    ]
    assert life.diff(old, new, b"d") == life.diff(old, new)[:4], "what left it is its matter, too"
    assert life.diff(old, new, b"d", b"written") == ["changed d/written"]
    assert life.diff(new, new) == []
    with pytest.raises(NoSuchPath, match="'/nowhere'"):
        life.diff(old, new, b"nowhere")
    with pytest.raises(NoSuchVersion, match="there is no version 0"):
        life.diff(0, new)
    (mode,) = load_changes(life.path, Version(old), Version(new), (b"d", b"chmod"))
    assert mode.before is not None
    assert mode.after is not None
    assert (mode.before.mode, mode.after.mode) == (0o644, 0o600)


def test_what_changed_and_changed_back(life: Life) -> None:
    tree = life.tree
    tree.make(b"a", data=b"one")
    tree.make(b"b", data=b"x" * 100)
    old = life.commit()
    tree.write(b"a", b"two")
    tree.chmod(b"a", 0o600)
    tree.rename(b"b", b"c")
    life.commit()
    tree.write(b"a", b"one")
    tree.chmod(b"a", 0o644)
    tree.rename(b"c", b"b")
    tree.make(b"short", data=b"lived")
    life.commit()
    tree.remove(b"short")
    assert life.diff(old, life.commit()) == []


def test_a_directory_that_moved_is_one_change(life: Life) -> None:
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/sub", DIRECTORY)
    for number in range(20):
        tree.make(b"d/sub/%d" % number, data=b"x")
    old = life.commit()
    tree.rename(b"d", b"e")
    tree.write(b"e/sub/7", b"y")
    tree.rename(b"e/sub/8", b"e/8")
    new = life.commit()
    assert life.diff(old, new) == [
        "renamed d -> e",
        "renamed d/sub/8 -> e/8",
        "changed e/sub/7",
    ]


def test_a_file_or_tree_replaced_by_a_new_one(life: Life) -> None:
    """Editors write beside the file and rename over it: for people it is the same file."""
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/a", data=b"one")
    tree.make(b"d/b", data=b"same")
    tree.make(b"f", data=b"file")
    old = life.commit()
    tree.remove(b"d")
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/tmp", data=b"two")
    tree.rename(b"d/tmp", b"d/a")
    tree.make(b"d/b", data=b"same")
    tree.remove(b"f")
    tree.make(b"f", DIRECTORY)
    assert life.diff(old, life.commit()) == ["changed d/a", "removed f", "added f"]


def test_hard_links(life: Life) -> None:
    tree = life.tree
    tree.make(b"a", data=b"one")
    first = life.commit()
    tree.link(b"a", b"b")
    second = life.commit()
    tree.write(b"a", b"two")
    third = life.commit()
    tree.remove(b"a")
    fourth = life.commit()
    assert life.diff(first, second) == ["added b"]
    assert life.diff(second, third) == ["changed a", "changed b"]
    assert life.diff(third, fourth) == ["removed a"]
    assert life.diff(first, fourth) == ["renamed a -> b", "changed b"]


def test_only_rows_about_the_change_are_folded(life: Life) -> None:
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    for number in range(200):
        tree.make(b"d/%d" % number, data=b"x")
    life.commit()
    tree.write(b"d/5", b"y")
    life.commit()
    trace = Trace(life.path)
    node = tree.find(b"d/5")[2]
    chosen = trace.around(np.array([node]))
    assert set(trace.rows.node[chosen].tolist()) == {ROOT, tree.find(b"d")[2], node}
    trace.close()


# --- random histories -----------------------------------------------------------------------------

NAMES = [b"a", b"b", b"\xff"]
PATHS = [*NAMES, *(a + b"/" + b for a in NAMES for b in NAMES)]
CONTENTS = st.sampled_from([b"", b"1", b"2", b"22"])
STEP = st.tuples(
    st.sampled_from("make make mkdir symlink write chmod link rename rename remove".split()),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
    CONTENTS,
)


def step(tree: Tree, what: str, path: bytes, other: bytes, data: bytes) -> None:
    """Do it where it makes sense, as the kernel would let it through."""
    listing = tree.listing()

    def is_dir(path: bytes) -> bool:
        return not path or (path in listing and stat.S_ISDIR(listing[path][0]))

    if what in ("make", "mkdir", "symlink"):
        if path not in listing and is_dir(path.rpartition(b"/")[0]):
            mode = {"make": FILE, "mkdir": DIRECTORY, "symlink": SYMLINK}[what]
            tree.make(path, mode, b"" if what == "mkdir" else data or b"t" * (what == "symlink"))
        return
    if path not in listing:
        return
    if what == "write" and stat.S_ISREG(listing[path][0]):
        tree.write(path, data)
    elif what == "chmod":
        tree.chmod(path, 0o700 + len(data), 1000 + len(data))
    elif what == "remove":
        tree.remove(path)
    elif what in ("link", "rename") and is_dir(other.rpartition(b"/")[0]):
        if what == "link" and other not in listing and not is_dir(path):
            tree.link(path, other)
        elif what == "rename" and other != path and not other.startswith(path + b"/"):
            there = tree.find(other)[2] if other in listing else None
            same_kind = there is None or is_dir(path) == is_dir(other)
            empty = there is None or not tree.nodes[there].children
            if there != tree.find(path)[2] and same_kind and empty:
                tree.rename(path, other)


def apply(
    changes: list[Change], before: dict[bytes, Facts], after: dict[bytes, Facts]
) -> dict[bytes, Facts]:
    """Do to the listing *before* what the changes say; what is new is taken from *after*."""
    gone = {change.path for change in changes if change.change == "removed"}
    moved = {c.source: c.path for c in changes if c.source is not None}
    result: dict[bytes, Facts] = {}
    for path, facts in before.items():
        if path in gone:
            continue
        head, tail = path, b""
        while head and head not in moved:
            head, slash, name = head.rpartition(b"/")
            tail = slash + name + tail if head else tail
        result[moved[head] + tail if head else path] = facts
    for change in changes:
        path = change.path
        if change.change == "added":
            result[path] = after[path]
        elif change.change == "changed":
            result[path] = (*result[path][:2], after[path][2])
        elif change.change == "mode":
            result[path] = (*after[path][:2], result[path][2])
    return result


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(STEP, max_size=10), min_size=1, max_size=4))
def test_the_changes_make_the_one_tree_the_other(
    tmp_path_factory: pytest.TempPathFactory, plan: list[list[tuple[str, bytes, bytes, bytes]]]
) -> None:
    life = Life(tmp_path_factory.mktemp("life") / "pond")
    listings = {1: life.tree.listing()}
    for steps in plan:
        for what, path, other, data in steps:
            step(life.tree, what, path, other, data)
        listings[life.commit()] = life.tree.listing()
    for old, before in listings.items():
        for new, after in listings.items():
            changes = load_changes(life.path, Version(old), Version(new))
            assert apply(changes, before, after) == after, (old, new, changes)
            if before == after:
                assert all(change.change == "renamed" for change in changes)
    life.store.close()


def test_the_model_is_the_store(life: Life) -> None:
    """The rows the tree of these tests says are those the fold understands."""
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/a", data=b"one")
    tree.link(b"d/a", b"b")
    tree.write(b"b", b"three")
    tree.rename(b"d", b"e")
    life.commit()
    image = load_image(life.store._files, life.store._reader)
    node = tree.find(b"e/a")[2]
    assert read_file(life.store, image, node) == b"three"
