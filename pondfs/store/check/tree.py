"""The tree: names lead to nodes, nodes hang together, and count their names.

Made from the rows alone, and of all that is there: what a fold leaves out because nothing can be
done with it (a name that leads nowhere) is here as well.
"""

import copy
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pondfs.entry import encode_name
from pondfs.errors import StoreDamaged
from pondfs.node import FILE_TYPES, ROOT, format_node_id
from pondfs.store.check.report import MOST_FINDINGS, UNTOLD, Wrong, invariant
from pondfs.store.fold import fold_nodes
from pondfs.store.fold_entries import last_entries, names_of
from pondfs.store.history import History, places_of
from pondfs.store.image import ATTRS, EMPTY, Ints
from pondfs.store.tree import shown
from pondfs.xattrs import decode_xattrs

Flags = NDArray[np.bool_]

_TYPE_BITS = 0o170000  # S_IFMT
_DIR = 0o040000
_MOST_NAME_BYTES = 255
_MOST_DEPTH = 10_000


class Tree:
    """All nodes and entries of one version.

    Shape: ``ids`` and the attributes are parallel, ascending; *node_rows* are the rows that say
    them. ``entry_rows`` are the rows that say the entries, oldest first; ``dirs`` and ``nodes``,
    parallel to them, are places in ``ids``, -1 where there is no such node; ``sound`` says which
    entries a tree can have.

    Attributes:
        rows: all rows.
        root: the place of the root, -1 without one.
        parents: where a node's newest sound entry is; -1 without one.
        reached: which nodes can be reached from the root.
    """

    def __init__(self, rows: History) -> None:
        self.rows = rows
        last = last_entries(rows)
        self.entry_rows: Ints = np.sort(last[~rows.removed[last]])
        self.node_rows, _ = fold_nodes(rows, EMPTY, self.entry_rows, np.empty(0, np.int64))
        self.ids: Ints = rows.node[self.node_rows]
        self.attrs = {name: rows.take(name, self.node_rows) for name in ATTRS}
        self.kind: Ints = self.attrs["mode"] & _TYPE_BITS
        self.is_dir = self.kind == _DIR
        self.root = int(places_of(self.ids, np.array([ROOT]))[0])
        self.dirs = places_of(self.ids, rows.part[self.entry_rows])
        self.nodes = places_of(self.ids, rows.node[self.entry_rows])
        sound = (self.dirs >= 0) & (self.nodes >= 0) & (self.nodes != self.root)
        self._hang(sound & np.append(self.is_dir, False)[self.dirs])

    def having(self, sound: Flags) -> "Tree":
        """Return the tree as it were with these entries alone: *sound* is parallel to them."""
        other = copy.copy(self)
        other._hang(sound)
        return other

    def _hang(self, sound: Flags) -> None:
        """Find out how all hangs together by the *sound* entries."""
        self.sound = sound
        # Sound entries by their node, of each oldest first: `entries_of` looks there.
        by_node = np.flatnonzero(sound)
        self._by_node = by_node[np.argsort(self.nodes[by_node], kind="stable")]
        self._nodes_by_node = self.nodes[self._by_node]
        self.parents = np.full(len(self.ids), -1, np.int64)
        # Of equal places the last one counts: the newest.
        self.parents[self.nodes[self.sound]] = self.dirs[self.sound]
        self.ends = self._ends()
        self.reached = self._reached()

    def _ends(self) -> Ints:
        """Return where each node's way up ends: at the root, at one without an entry (itself), or
        at some node of the cycle it leads into.
        """
        count = len(self.ids)
        up: Ints = np.where(self.parents < 0, np.arange(count), self.parents)
        for _ in range(count.bit_length()):
            above = up[up]
            if (above == up).all():
                break
            up = above
        return up

    def _reached(self) -> Flags:
        reached: Flags = self.ends == self.root
        # A file with several names may be reached by another than the newest.
        others = self.sound & ~self.is_dir[self.nodes]
        reached[self.nodes[others & reached[self.dirs]]] = True
        return reached

    def links(self) -> Ints:
        """Return how many links each node should say it has."""
        count = len(self.ids)
        nodes, dirs = self.nodes[self.sound], self.dirs[self.sound]
        names = np.bincount(nodes, minlength=count)
        below = np.bincount(dirs[self.is_dir[nodes]], minlength=count)
        links: Ints = np.where(self.is_dir, 2 + below, names)
        return links

    def tops(self) -> Ints:
        """Return the nodes no sound entry leads to, the root aside."""
        lost = self.parents < 0
        lost[self.root] = False
        tops: Ints = np.flatnonzero(lost)
        return tops

    def cycles(self) -> list[list[int]]:
        """Return the cycles of directories, each from its least node on."""
        lost = ~self.reached & self.is_dir & (self.parents[self.ends] >= 0)
        left = set(np.unique(self.ends[lost]).tolist())
        found: list[list[int]] = []
        while left:
            start = at = min(left)
            cycle: list[int] = []
            while not cycle or at != start:
                cycle.append(at)
                left.discard(at)
                at = int(self.parents[at])
            found.append(cycle)
        return found

    def entries_of(self, place: int) -> Ints:
        """Return the sound entries that lead to a node, oldest first."""
        first, stop = np.searchsorted(self._nodes_by_node, [place, place + 1])
        return self._by_node[first:stop]

    # --- how things are called ---

    def names(self, entries: Ints) -> list[bytes]:
        """Return the names of *entries*, numbers in ``entry_rows``."""
        found: list[bytes] = names_of(self.rows, self.entry_rows[entries]).to_pylist()
        return found

    def path(self, place: int) -> bytes | None:
        """Return a path that leads to the node; None when none does from the root."""
        if not self.reached[place]:
            return None
        names: list[bytes] = []
        while place != self.root and len(names) < _MOST_DEPTH:
            entries = self.entries_of(place)
            entries = entries[self.reached[self.dirs[entries]]]
            names.extend(self.names(entries[-1:]))
            place = int(self.dirs[entries[-1]])
        return b"/".join(reversed(names))

    def call(self, place: int) -> tuple[str, tuple[bytes, ...]]:
        """Return how a message calls a node, and its path for a finding."""
        path = self.path(place)
        if path is None:
            kind = FILE_TYPES.get(int(self.kind[place]), "node")
            return f"the {kind} {format_node_id(int(self.ids[place]))}", ()
        return f"'/{shown(path)}'", (path,)

    def call_entry(self, entry: int) -> tuple[str, tuple[bytes, ...]]:
        """Return how a message calls an entry, and its path for a finding."""
        (name,) = self.names(np.array([entry]))
        at = int(self.dirs[entry])
        above = None if at < 0 else self.path(at)
        if above is None:
            part = int(self.rows.part[self.entry_rows[entry]])
            return f"'{shown(name)}' in directory {format_node_id(part)}", ()
        # Not os.path.join: a bad name may begin with a slash.
        path = above + b"/" + name if above else name
        return f"'/{shown(path)}'", (path,)


@invariant("root")
def there_is_a_root(tree: Tree) -> Iterator[Wrong]:
    """Node 1 is there and is a directory: the root."""
    if tree.root < 0 or not tree.is_dir[tree.root]:
        what = "is not there" if tree.root < 0 else "is no directory"
        yield Wrong(f"the root {what}: restore the pond from a backup")


@invariant("fold")
def rows_make_a_tree(error: Exception) -> Iterator[Wrong]:
    """The rows can be folded into a tree."""
    yield Wrong(f"the rows make no tree ({error}): restore the pond from a backup")


@invariant("entry-node", mend="removes the entry, which leads nowhere; earlier versions keep it")
def entries_lead_to_nodes(tree: Tree) -> Iterator[Wrong]:
    """Every entry's node is there, and none leads to the root."""
    for entry in np.flatnonzero((tree.nodes < 0) | (tree.nodes == tree.root)).tolist():
        where, paths = tree.call_entry(entry)
        node = format_node_id(int(tree.rows.node[tree.entry_rows[entry]]))
        what = "the root" if tree.nodes[entry] >= 0 else f"node {node}, which is not there"
        yield Wrong(f"{where} leads to {what}: 'pond repair' removes the name", paths)


@invariant("entry-directory", mend="removes the entry; its node goes to lost+found")
def entries_are_in_directories(tree: Tree) -> Iterator[Wrong]:
    """Every entry is in a directory that is there."""
    is_dir = np.append(tree.is_dir, False)
    for entry in np.flatnonzero(~is_dir[tree.dirs]).tolist():
        where, paths = tree.call_entry(entry)
        what = "is not there" if tree.dirs[entry] < 0 else "is none"
        yield Wrong(f"{where}: that directory {what}: 'pond repair' removes the name", paths)


@invariant("entry-name", mend="removes the entry; its node goes to lost+found if it has no other")
def names_are_names(tree: Tree) -> Iterator[Wrong]:
    """A name has 1 to 255 bytes, no slash and no NUL, and is neither `.` nor `..`."""
    for entry in bad_names(tree).tolist():
        where, paths = tree.call_entry(entry)
        yield Wrong(f"{where} is no name that a file can have: 'pond repair' removes it", paths)


def bad_names(tree: Tree) -> Ints:
    """Return the entries whose names can't be."""
    names = names_of(tree.rows, tree.entry_rows)
    if not len(names):
        return np.empty(0, np.int64)
    length = pc.binary_length(names).to_numpy()
    bad = (length < 1) | (length > _MOST_NAME_BYTES)
    for part in (b"/", b"\0"):
        bad |= pc.match_substring(names, part).to_numpy(zero_copy_only=False)
    bad |= pc.is_in(names, pa.array([b".", b".."], pa.binary())).to_numpy(zero_copy_only=False)
    found: Ints = np.flatnonzero(bad)
    return found


@invariant("entry-name-bytes")
def odd_names_stand_twice(tree: Tree) -> Iterator[Wrong]:
    """A name that is not UTF-8, and no other, stands in `name_bytes`, and in `name` with U+FFFD for
    what is no text.
    """
    raw = tree.rows.arrow("name_bytes", tree.entry_rows)
    if raw.null_count == len(raw):
        return
    text = tree.rows.arrow("name", tree.entry_rows)
    for entry in np.flatnonzero(pc.is_valid(raw).to_numpy(zero_copy_only=False)).tolist():
        name = raw[entry].as_py()
        if encode_name(name) != (text[entry].as_py(), name):
            where, paths = tree.call_entry(entry)
            yield Wrong(
                f"{where} is called '{shown(text[entry].as_py().encode())}' elsewhere in its row: "
                "restore the pond from a backup",
                paths,
            )


@invariant("one-parent", mend="keeps the newest entry and removes the others")
def directories_have_one_parent(tree: Tree) -> Iterator[Wrong]:
    """A directory has one entry at most."""
    for place in _with_several_parents(tree).tolist():
        entries = tree.entries_of(place).tolist()
        called, paths = zip(*map(tree.call_entry, entries), strict=True)
        yield Wrong(
            f"the directory {format_node_id(int(tree.ids[place]))} is in several places: "
            f"{', '.join(called)}: 'pond repair' leaves it in the last of these",
            tuple(path for some in paths for path in some),
        )


def _with_several_parents(tree: Tree) -> Ints:
    nodes = tree.nodes[tree.sound]
    names = np.bincount(nodes, minlength=len(tree.ids))
    found: Ints = np.flatnonzero(tree.is_dir & (names > 1))
    return found


@invariant("reachable", mend="puts it into lost+found")
def nodes_are_reachable(tree: Tree) -> Iterator[Wrong]:
    """Every node can be reached from the root, unless it is an orphan: one without a name and
    with no links, which was open when the pond went down, and is not part of the tree.
    """
    tops = tree.tops()
    below = np.bincount(tree.ends, minlength=len(tree.ids))
    for place in tops.tolist():
        called, paths = tree.call(place)
        with_it = f" and {below[place] - 1:,} below it" if below[place] > 1 else ""
        yield Wrong(
            f"{called}{with_it} has no name anywhere: 'pond repair' puts it into lost+found", paths
        )


@invariant("no-cycles", mend="takes one of them out, into lost+found")
def directories_make_no_cycle(tree: Tree) -> Iterator[Wrong]:
    """No directory is inside itself."""
    for cycle in tree.cycles():
        ids = ", ".join(format_node_id(int(tree.ids[place])) for place in cycle)
        yield Wrong(
            f"directories {ids} are inside each other: 'pond repair' puts the first into lost+found"
        )


@invariant("nlink", mend="writes the right number")
def links_are_counted(tree: Tree) -> Iterator[Wrong]:
    """`nlink` of a directory is 2 and one for each directory in it; of anything else, how many
    entries lead to it.
    """
    links = tree.links()
    wrong = tree.attrs["nlink"] != links
    # What nothing leads to is told of already, and what its count should be nobody knows.
    wrong &= (tree.parents >= 0) | tree.is_dir
    for number, place in enumerate(np.flatnonzero(wrong).tolist()):
        if number >= MOST_FINDINGS:
            yield UNTOLD
            continue
        called, paths = tree.call(place)
        yield Wrong(
            f"{called} says it has nlink {tree.attrs['nlink'][place]}, but it is {links[place]}: "
            "'pond repair' writes the right number",
            paths,
        )


@invariant("node-type", mend="writes the type that the mode has")
def types_agree(tree: Tree) -> Iterator[Wrong]:
    """`file_type` says what the type bits of `mode` say."""
    for place in wrong_types(tree).tolist():
        called, paths = tree.call(place)
        row = tree.node_rows[place : place + 1]
        said = tree.rows.arrow("file_type", row)[0].as_py()
        kind = FILE_TYPES.get(int(tree.kind[place]), "of no type")
        yield Wrong(
            f"{called} is called a {said} but its mode says it is {kind}: 'pond repair' writes "
            "what the mode says",
            paths,
        )


def wrong_types(tree: Tree) -> Ints:
    """Return the nodes whose row is not called what its mode says."""
    said = tree.rows.arrow("file_type", tree.node_rows)
    wrong = np.zeros(len(tree.ids), bool)
    for kind, name in FILE_TYPES.items():
        here = tree.kind == kind
        if here.any():
            is_called = pc.equal(said, name).to_numpy(zero_copy_only=False)
            wrong |= here & ~is_called
    found: Ints = np.flatnonzero(wrong)
    return found


@invariant("node-mode")
def modes_have_types(tree: Tree) -> Iterator[Wrong]:
    """Every node's mode has the bits of a type of file that there is."""
    known = np.isin(tree.kind, list(FILE_TYPES))
    for place in np.flatnonzero(~known).tolist():
        called, paths = tree.call(place)
        mode = int(tree.attrs["mode"][place])
        yield Wrong(
            f"{called} has mode {mode:o}, which is no type of file: restore it from an earlier "
            "version (pond cp --at) or a backup",
            paths,
        )


@invariant("node-device")
def devices_have_numbers(tree: Tree) -> Iterator[Wrong]:
    """No device number is below 0."""
    rdev = tree.attrs["rdev"]
    for place in np.flatnonzero(rdev < 0).tolist():
        called, paths = tree.call(place)
        yield Wrong(
            f"{called} has device number {rdev[place]}: restore it from an earlier version "
            "(pond cp --at) or a backup",
            paths,
        )


@invariant("node-metadata")
def extended_attributes_can_be_read(tree: Tree) -> Iterator[Wrong]:
    """Every node's `metadata` is empty, or JSON with extended attributes in base64."""
    column = tree.rows.arrow("metadata", tree.node_rows)
    there = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    # Most say the same: ACLs and labels that were handed down.
    known: dict[str, str] = {}
    for place, metadata in zip(
        there.tolist(), column.take(pa.array(there)).to_pylist(), strict=True
    ):
        if metadata not in known:
            known[metadata] = _undecodable(metadata)
        if known[metadata]:
            called, paths = tree.call(place)
            yield Wrong(f"{called}: {known[metadata]}", paths)


def _undecodable(metadata: str) -> str:
    try:
        decode_xattrs(metadata)
    except StoreDamaged as error:
        return str(error)
    return ""
