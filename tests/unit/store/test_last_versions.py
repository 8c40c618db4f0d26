"""The last version of many paths at once, against a look at every version."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pondfs.errors import NoSuchPath
from pondfs.interfaces import Image
from pondfs.node import ROOT, NodeId
from pondfs.store.lives import find_each_last
from tests.unit.store.histories import Walk


def paths(
    image: Image, node: NodeId = ROOT, above: tuple[bytes, ...] = ()
) -> Iterator[tuple[bytes, ...]]:
    """Yield every path of a version."""
    for name, child in image.load_entries(node).items():
        yield (*above, name)
        yield from paths(image, child, (*above, name))


@pytest.mark.parametrize("seed", range(3))
def test_of_every_path_there_ever_was(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path / "pond", seed)
    trio.run(walk.run, 200, 0.3)
    store = walk.store
    there = {
        info.version: set(paths(store.load_image_at(info.version)))
        for info in store.list_versions()
    }
    for up_to in sorted(there)[3::9]:
        before = {version: tree for version, tree in there.items() if version <= up_to}
        every = sorted(set().union(*before.values()))
        expected = [max(v for v, tree in before.items() if path in tree) for path in every]
        assert find_each_last(walk.path, every, up_to) == expected
    with pytest.raises(NoSuchPath):
        find_each_last(walk.path, [(b"never",)])
    walk.close()
