"""What the layers need of each other, so that none imports upward."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pondfs.extent import Content, Extent
from pondfs.figures import CacheCounts, Compaction, Figures
from pondfs.node import NodeId, Version
from pondfs.oplog import AttrRow, Cut, Row, Settled, VersionInfo


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as an image holds it.

    Attributes:
        attr: its attributes.
        parent: the directory it is in (for the root: itself); of a file with several names, the
            one that stood in its last row.
        target: a symlink's target, else None.
        metadata: JSON (xattrs), or None.
        allocated_bytes: how much of its size is no hole.
    """

    attr: AttrRow
    parent: NodeId
    target: bytes | None
    metadata: str | None
    allocated_bytes: int


class Tree(Protocol):
    """The stored state of the tree at one version.

    Attributes:
        is_mapped: it is all in a file, and takes memory only where it is looked at.
    """

    version: Version
    node_count: int
    is_mapped: bool

    def find_node(self, node_id: NodeId) -> StoredNode | None:
        """Return the node, or None when this version does not have it."""

    def load_entries(self, directory: NodeId) -> dict[bytes, NodeId]:
        """Return the directory's entries; empty for an empty or unknown directory."""

    def load_extents(self, node_id: NodeId) -> list[Extent]:
        """Return the file's extents, sorted, not overlapping, within its size."""

    def find_parents(self, node_id: NodeId) -> list[NodeId]:
        """Return every directory with an entry for the node. Looks at all entries."""

    def release(self) -> None:
        """Count no memory that is only mapped from a file; what is looked at comes back. Cheap."""


class Image(Tree, Protocol):
    """The folded state of the tree at one version. Immutable; safe from any thread."""

    def find_place(self, node_id: NodeId) -> int:
        """Return the node's number among this version's nodes, from 0; -1 if it is not there."""

    def node_at(self, place: int) -> tuple[NodeId, StoredNode, int]:
        """Return the node with that number, its id, and its parent's number. Raises: IndexError."""

    def entries_at(self, place: int) -> dict[bytes, int]:
        """Return the entries of the directory with that number, each with its node's number."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version another process committed.

    Attributes:
        version: its number.
        time_ns: when it was cut.
        rows: all it says, in order, but the commit row; `op` and `time_ns` are not filled in. The
            contents are stored ones, a symlink's target alone is in memory.
    """

    version: Version
    time_ns: int
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class News:
    """What the log says since it was read last.

    Attributes:
        versions: whole versions, oldest first.
        reload: after these, something only a new fold can show: files were exchanged (a prune, a
            compaction), another program wrote, or it is too much to go through row by row.
        trouble: why reading stopped before the log's end; "" when it did not.
    """

    versions: list[NewVersion]
    reload: bool = False
    trouble: str = ""


class Feed(Protocol):
    """Where a reader is in the log of a pond that another process writes.

    One call at a time, `fold` aside; all but `has_news` block: call from a thread.
    """

    def has_news(self) -> bool:
        """Return whether the log goes on: one or two stats, so it may be asked often.

        Raises: OSError as the disk says.
        """

    def read(self) -> News:
        """Return what came, and go on behind it. Bounded: there may be more when it returns.

        Raises: OSError, StoreDamaged; the place in the log is as it was then.
        """

    def fold(self, version: Version) -> Image:
        """Return the image of a version that was read, from the files as this reader knows them.

        May run beside `read`.

        Raises: OSError, StoreDamaged (the files were exchanged meanwhile, say).
        """

    def reload(self) -> Image:
        """Return the image of the newest version, and go on behind it.

        Raises: as `read`.
        """


class Swap(Protocol):
    """Where everything is after data files were put in the place of others. Immutable.

    Attributes:
        compaction: what it was and cost, if it was one.
    """

    compaction: Compaction | None

    def find(self, content: Content) -> Content | None:
        """Return *content* in its new place: itself if it did not move, None if it is no more."""

    def move_image(self, image: Tree) -> Tree:
        """Return the same tree with its bytes in their new places. Blocks; safe from any thread.

        What no kept version shows is nowhere then: reading it is an error.
        """


@dataclass(frozen=True, slots=True)
class PastName:
    """What had a path, in any version: the newest state of what had it last.

    If a directory ever had it, then of the last directory.

    Attributes:
        attr: its attributes.
        metadata: JSON (xattrs), or None.
    """

    attr: AttrRow
    metadata: str | None


@dataclass(frozen=True, slots=True)
class PastContent:
    """What a file held from one version on.

    Attributes:
        version: the version that brought it.
        time_ns: when that was committed.
        node: whose content it was.
        attr: the file's attributes in that version.
        metadata: JSON (xattrs), or None.
        target: a symlink's target, else None.
        allocated_bytes: how much of the size is no hole.
        was_private: not everybody could search the directories above it in that version.
    """

    version: Version
    time_ns: int
    node: NodeId
    attr: AttrRow
    metadata: str | None
    target: bytes | None
    allocated_bytes: int
    was_private: bool


class Lives(Protocol):
    """All paths that ever were, up to one version, and what files held there.

    Every method blocks; one call at a time. Raises: StoreDamaged when data files were exchanged
    meanwhile: then begin anew.

    Attributes:
        newest: the last version in it.
    """

    newest: Version

    def list_names(self, path: Sequence[bytes]) -> list[bytes]:
        """Return every name the directory had while it had this path, oldest first."""

    def find_names(self, path: Sequence[bytes], names: Sequence[bytes]) -> list[PastName | None]:
        """Return what each of *names* was in the directory; None for one that never was."""

    def list_contents(self, path: Sequence[bytes]) -> list[PastContent]:
        """Return the distinct contents of the last file of this path, oldest first.

        Through its renames, and of what it came in the place of: as ``pond history`` tells.
        """

    def load_extents(self, content: PastContent) -> list[Extent]:
        """Return a content's bytes, sorted, not overlapping, within its size.

        Raises: NoSuchVersion when its version was pruned.
        """

    def close(self) -> None:
        """Let go of everything. Calling it twice is harmless."""


class Store(Protocol):
    """A pond's durable half. Every method blocks unless it says otherwise: call from a thread.

    Commits and stages come from one caller at a time (the committer); reads from anywhere.
    """

    def load_image(self) -> Image:
        """Fold the oplog into the newest version's image."""

    def load_image_at(self, version: Version | None) -> Image:
        """Fold the oplog into the image of *version* (None: the newest)."""

    @property
    def rows_since_image(self) -> int:
        """How many rows were committed since the newest image was saved, as far as we know."""

    def save_image(self) -> Image | None:
        """Save the newest version's image, and return it as it is mapped from there.

        Beside commits; not while files are exchanged (`swap_files`).

        Returns: None when it could not be saved; the log says why.
        """

    def release_memory(self) -> None:
        """Give memory that nobody uses back to the system."""

    def list_versions(self) -> list[VersionInfo]:
        """Return all versions, newest first."""

    def find_touched(self, after: Version, up_to: Version) -> set[NodeId]:
        """Return every node that a row later than *after* and up to *up_to* is about.

        The directories whose entries changed are among them.
        """

    def same_bytes(self, some: Sequence[Extent], other: Sequence[Extent], size: int) -> bool:
        """Return whether two files of *size* hold the same. Raises: StoreDamaged, OSError."""

    def open_lives(self) -> Lives:
        """Read all rows and return what they say of paths through time. Raises: StoreDamaged."""

    def list_tags(self) -> dict[str, Version]:
        """Return the pinned versions by name, sorted by name."""

    def put_tag(self, name: str, version: Version | None) -> None:
        """Put tag *name* on *version*, from wherever it was; None takes it off.

        Comes from whoever commits, between commits.

        Durability: it is durable on return.
        Raises: OSError as the disk says; trying again is harmless.
        """

    def stage(self, version: Version, first_seq: int, rows: Sequence[Row]) -> Settled:
        """Write rows of the coming *version* early; nothing refers to them until its commit.

        Durability: the data file and its directory are fsynced on return.
        Raises: OSError as the disk says; nothing is left behind that a reader could see.
        """

    def journal(self, cut: Cut) -> None:
        """Make *cut* durable as the next version, in no table yet: that is for the next `commit`.

        Durability: on return it survives a crash: whoever opens the pond for writing then has it.
            After an error it may, or not; `commit` it then.
        Raises: OSError as the disk says.
        """

    def commit(self, cut: Cut, earlier: Sequence[Cut] = ()) -> Settled | None:
        """Make *cut* one Delta commit: durable on return, or not there at all.

        With it go *earlier* versions: all that were journaled since the last commit, in order.

        Calling again with the same cuts after an error is safe: when the first try did reach the
        log, the second finds it there.

        Returns: where the contents of all their rows lie; None when no data file was needed.
        Raises: OSError as the disk says; ForeignCommit when another writer is in the way.
        """

    def swap_files(self, request: str) -> Swap:
        """Put the files of a prepared prune, or compaction, in the place of others.

        Comes between commits.

        Whoever holds contents in the old files turns to the new ones, or holds the old ones
        (`hold`); then `remove_pruned`.

        Durability: whole or not at all. On return the old files are still there.
        Raises: UsageError when the pond is not what that was prepared for; ForeignCommit;
            OSError as the disk says.
        """

    def has_many_files(self) -> bool:
        """Return whether so many small data files are worth a compaction. Cheap."""

    def has_long_log(self) -> bool:
        """Return whether `keep_log` has something to do. Cheap: looks at no disk."""

    def keep_log(self) -> None:
        """Write a checkpoint of the log if it is time, and remove entries nobody needs any more.

        May run beside everything else; costs some 10 ms at most, and more only at the first time.
        Never fails: it is tried again later.
        """

    def has_old_strays(self) -> bool:
        """Return whether there are data files in no version that nobody needs any more.

        May run beside everything else. Those that it saw the first time do not count yet.
        """

    def remove_old_strays(self) -> list[str]:
        """Remove these files; comes between commits.

        Returns: their names; those that can't be removed stay.
        """

    def hold(self, content: Content) -> None:
        """Keep the data file of a stored *content* readable for as long as anybody has it."""

    def remove_pruned(self, *, now: bool = False) -> int:
        """Remove the old files of prunes and compactions, unless another process reads.

        Those of compactions stay a while, for queries of other programs that began before: unless
        *now*.

        Returns: how many bytes the disk got back.
        Durability: the log entries that took them out are durable before.
        Raises: OSError; what is left is removed at the next opening.
        """

    def discard(self, file: Any) -> None:
        """Remove a staged data file that no commit will refer to; if that fails it is a stray."""

    def check_loose(self, files: Sequence[str]) -> None:
        """Refuse names of anything but data files of ours that no version refers to.

        Raises: UsageError.
        """

    def load_loose(self, files: Sequence[str]) -> list[Row]:
        """Return the rows in data files that passed `check_loose`; see `NewVersion.rows`.

        Raises: OSError, StoreDamaged.
        """

    def remove_loose(self, files: Sequence[str]) -> None:
        """Remove data files that passed `check_loose`; what can't be removed is a stray."""

    def read(self, content: Content, skip: int, target: memoryview) -> None:
        """Fill *target* with bytes of a stored *content* from *skip*.

        Raises: OSError, StoreDamaged (a data file is gone or does not hold what it should).
        """

    def read_nowait(self, content: Content, skip: int, target: memoryview) -> bool:
        """As `read`, but return False at once when not all bytes are in memory as they are."""

    def read_many(self, pieces: Sequence[tuple[Content, int, memoryview]]) -> None:
        """Do what `read` does with each: content, *skip*, *target*; in fewer steps.

        Raises: as `read`; some may be filled then.
        """

    def prefetch(self, wanted: Sequence[tuple[Content, int, int]]) -> None:
        """Have the disk begin to read what will be wanted soon; what is compressed is decoded.

        Each of *wanted* is a content, from where in it, and how much.
        """

    def follow(self) -> Feed:
        """Return a feed of what comes after the image loaded last. Does not block.

        From here on others may remove data files that are not in use any more.
        """

    def measure(self, budget_s: float) -> Figures:
        """Return what the pond takes; what would take longer than that, about, is None there.

        One call at a time; beside commits.

        Raises: OSError, StoreDamaged (data files were exchanged meanwhile, say).
        """

    def cache_counts(self) -> CacheCounts | None:
        """Return how often content was found decoded; None when nobody counts. Does not block."""

    def statvfs(self) -> os.statvfs_result:
        """Return the figures of the disk the store is on. Does not block for long."""

    def close(self) -> None:
        """Let go of files and of the writer lock."""
