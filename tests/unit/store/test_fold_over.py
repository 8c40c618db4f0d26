"""Rows laid over an image make what folding everything makes."""

from pathlib import Path

import pytest
import trio

from pondfs.node import ROOT, NodeId, Version
from pondfs.store.fold import fold_rows, load_image
from pondfs.store.image import TableImage
from pondfs.store.scan import read_rows
from tests.unit.store.histories import Walk
from tests.unit.store.support import new_reader


@pytest.mark.parametrize("seed", range(12))
def test_any_later_part_of_a_history_over_the_image_of_the_earlier(
    tmp_path: Path, seed: int
) -> None:
    walk = Walk(tmp_path / "pond", seed)
    trio.run(walk.run, 250, 0.15)
    files = list(walk.store._files)
    walk.close()
    reader = new_reader()
    newest = max(file.max_version for file in files)
    whole = load_image(files, reader)
    for split in sorted({1, 2, newest // 3, newest // 2, newest - 1} - {0}):
        base = load_image(files, reader, Version(split))
        later = [file for file in files if file.min_version > split]
        image = fold_rows(read_rows(later), later, reader, base=base)
        assert image.version == newest
        same_tree(image, whole)
    # Version by version, each over the one before.
    image = load_image(files, reader, Version(1))
    for version in range(2, newest + 1):
        new = [file for file in files if file.min_version == version]
        image = fold_rows(read_rows(new), new, reader, base=image)
    same_tree(image, whole)


def same_tree(image: TableImage, other: TableImage) -> None:
    """Compare all but which of several directories a file with several names is said to be in."""
    assert image.node_ids() == other.node_ids()
    parents: dict[int, set[int]] = {ROOT: {ROOT}}
    for node in map(NodeId, other.node_ids()):
        entries = other.load_entries(node)
        assert list(image.load_entries(node).items()) == list(entries.items())
        for child in entries.values():
            parents.setdefault(child, set()).add(node)
    for node in map(NodeId, other.node_ids()):
        found, expected = image.find_node(node), other.find_node(node)
        assert found is not None
        assert expected is not None
        assert found.attr == expected.attr
        assert (found.target, found.metadata) == (expected.target, expected.metadata)
        assert found.allocated_bytes == expected.allocated_bytes
        assert found.parent in parents.get(node, {expected.parent})
        assert [
            (e.offset, e.length, e.skip, e.content.file.name, e.content.row, e.content.position)
            for e in image.load_extents(node)
        ] == [
            (e.offset, e.length, e.skip, e.content.file.name, e.content.row, e.content.position)
            for e in other.load_extents(node)
        ]
