import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.errors import StoreDamaged
from pondfs.store.content import DataFile
from pondfs.store.fold import load_image
from pondfs.store.history import last_of, places_of
from tests.unit.store.support import new_reader, root_row, write_version

numbers = st.lists(st.integers(-3, 3))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2))))
def test_last_of_each_group(pairs: list[tuple[int, int]]) -> None:
    first = np.array([a for a, _ in pairs], np.int64)
    second = np.array([b for _, b in pairs], np.int64)
    expected = [at for _, at in sorted({pair: at for at, pair in enumerate(pairs)}.items())]
    assert last_of(first, second).tolist() == expected


@given(numbers, numbers)
def test_places_of_the_wanted(some: list[int], wanted: list[int]) -> None:
    ids = sorted(set(some))
    found = places_of(np.array(ids, np.int64), np.array(wanted, np.int64))
    assert found.tolist() == [ids.index(n) if n in ids else -1 for n in wanted]


def test_a_node_id_that_is_none_is_damage(tmp_path: Path) -> None:
    file = write_version(tmp_path, 1, [root_row()])
    for bad in ("12", "zzzzzzzzzzzzzzzz", "0000 0000 000000"):
        table = pq.read_table(file.path)
        at = table.column_names.index("node_id")
        ids = [bad, *table["node_id"].to_pylist()[1:]]
        other = Path(file.path).with_suffix(".bad")
        pq.write_table(table.set_column(at, "node_id", [ids]), other)
        damaged = DataFile(os.fspath(tmp_path), other.name, other.stat().st_size, "", 0)
        with pytest.raises(StoreDamaged, match="no node id"):
            load_image([damaged], new_reader())
