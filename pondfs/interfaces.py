"""What the layers need of each other, so that none imports upward."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pondfs.extent import Content, Extent
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


class Image(Protocol):
    """The folded state of the tree at one version. Immutable; safe from any thread."""

    version: Version
    node_count: int

    def find_node(self, node_id: NodeId) -> StoredNode | None:
        """Return the node, or None when this version does not have it."""

    def find_place(self, node_id: NodeId) -> int:
        """Return the node's number among this version's nodes, from 0; -1 if it is not there."""

    def id_at(self, place: int) -> NodeId:
        """Return the node with that number. Raises: IndexError."""

    def load_entries(self, directory: NodeId) -> dict[bytes, NodeId]:
        """Return the directory's entries; empty for an empty or unknown directory."""

    def load_extents(self, node_id: NodeId) -> list[Extent]:
        """Return the file's extents, sorted, not overlapping, within its size."""


class Store(Protocol):
    """A pond's durable half. Every method blocks unless it says otherwise: call from a thread.

    Commits and stages come from one caller at a time (the committer); reads from anywhere.
    """

    def load_image(self) -> Image:
        """Fold the oplog into the newest version's image."""

    def load_image_at(self, version: Version | None) -> Image:
        """Fold the oplog into the image of *version* (None: the newest)."""

    def list_versions(self) -> list[VersionInfo]:
        """Return all versions, newest first."""

    def stage(self, version: Version, first_seq: int, rows: Sequence[Row]) -> Settled:
        """Write rows of the coming *version* early; nothing refers to them until its commit.

        Durability: the data file and its directory are fsynced on return.
        Raises: OSError as the disk says; nothing is left behind that a reader could see.
        """

    def commit(self, cut: Cut) -> Settled | None:
        """Make *cut* one Delta commit: durable on return, or not there at all.

        Calling again with the same cut after an error is safe: when the first try did reach the
        log, the second finds it there.

        Returns: where the contents of ``cut.rows`` lie; None when no data file was needed.
        Raises: OSError as the disk says; ForeignCommit when another writer is in the way.
        """

    def discard(self, file: Any) -> None:
        """Remove a staged data file that no commit will refer to; if that fails it is a stray."""

    def read(self, content: Content, skip: int, target: memoryview) -> None:
        """Fill *target* with bytes of a stored *content* from *skip*.

        Raises: OSError, StoreDamaged (a data file is gone or does not hold what it should).
        """

    def read_nowait(self, content: Content, skip: int, target: memoryview) -> bool:
        """As `read`, but return False at once when not all bytes are in the page cache."""

    def prefetch(self, content: Content, skip: int, length: int) -> None:
        """Have the disk begin to read a part of *content* that will be wanted soon."""

    def statvfs(self) -> os.statvfs_result:
        """Return the figures of the disk the store is on. Does not block for long."""

    def close(self) -> None:
        """Let go of files and of the writer lock."""
