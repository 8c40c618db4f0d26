"""Whose bytes were in data files that are lost: what the saved image knows, if there is one."""

from collections.abc import Sequence

import numpy as np

from pondfs.store import imagefile
from pondfs.store.check.report import MOST_PATHS
from pondfs.store.content import DataFile
from pondfs.store.image import TableImage

_MOST_DEPTH = 1000
"""Names in a path: directories that are inside each other have no end."""


def lost_paths(
    store: str, files: Sequence[DataFile], lost: Sequence[str]
) -> dict[str, tuple[bytes, ...]]:
    """Return, by name of a lost data file, files that had bytes in it when the image was saved.

    Args:
        store: the pond's directory.
        files: all data files its table has, the lost ones included.
        lost: the names of those.
    """
    found = imagefile.load(store, files, None)
    if found is None:
        return {}
    image = found[0]
    columns = image.columns
    number_of = {file.name: number for number, file in enumerate(image.places[0])}
    paths: dict[str, tuple[bytes, ...]] = {}
    for name in lost:
        here = columns.extent_file == number_of.get(name, -1)
        places = np.unique(columns.extent_nodes[here])[:MOST_PATHS]
        paths[name] = tuple(_path(image, place) for place in places.tolist())
    return paths


def _path(image: TableImage, place: int) -> bytes:
    names: list[bytes] = []
    parent = image.columns.parents.item(place)
    while parent != place and len(names) < _MOST_DEPTH:  # the root is its own
        entries = image.entries_at(parent)
        names.append(next((name for name, at in entries.items() if at == place), b"?"))
        place, parent = parent, image.columns.parents.item(parent)
    return b"/".join(reversed(names))
