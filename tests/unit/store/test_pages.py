from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.errors import StoreDamaged
from pondfs.store.layout import FileBytes, find_groups
from pondfs.store.pages import locate_values

PLAIN: dict[str, Any] = {"compression": "NONE", "use_dictionary": False}


def write(path: Path, values: list[bytes], **options: Any) -> pq.ParquetFile:
    schema = pa.schema([pa.field("n", pa.int32()), pa.field("content", pa.binary(), False)])
    table = pa.table([list(range(len(values))), values], schema=schema)
    pq.write_table(table, path, **{**PLAIN, **options})
    return pq.ParquetFile(path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"write_page_checksum": True},
        {"write_statistics": True},
        {"write_batch_size": 1, "data_page_size": 1},
        {"write_batch_size": 7, "data_page_size": 100},
        {"row_group_size": 13},
        {"write_page_index": True, "row_group_size": 40, "write_batch_size": 3},
    ],
)
def test_every_value_is_where_it_is_said_to_be(tmp_path: Path, options: dict[str, Any]) -> None:
    values = [bytes([i % 251]) * (i * 37 % 300) for i in range(100)]
    path = tmp_path / "x.parquet"
    data_of: list[bytes] = []
    with write(path, values, **options) as parquet:
        data = path.read_bytes()
        for first, rows, start, stop in find_groups(parquet):
            lengths = [len(value) for value in values[first : first + rows]]
            positions = locate_values(data, start, stop, lengths, "x")
            with path.open("rb") as file:
                by_blocks = locate_values(FileBytes(file.fileno(), stop), start, stop, lengths, "x")
            assert positions is not None
            assert by_blocks is not None
            assert (positions == by_blocks).all()
            data_of += [
                data[at : at + n] for at, n in zip(positions.tolist(), lengths, strict=True)
            ]
    assert data_of == values


def damaged(data: bytes, start: int, stop: int, lengths: list[int]) -> str:
    with pytest.raises(StoreDamaged, match=r"data file x\.parquet is damaged") as caught:
        locate_values(data, start, stop, lengths, "x.parquet")
    return str(caught.value)


def test_what_does_not_agree_is_damage_not_a_guess(tmp_path: Path) -> None:
    values = [b"one", b"three", b"", b"seven"]
    path = tmp_path / "x.parquet"
    with write(path, values) as parquet:
        ((_, _, start, stop),) = find_groups(parquet)
    data = path.read_bytes()
    lengths = [len(value) for value in values]
    assert locate_values(data, start, stop, lengths, "x") is not None
    damaged(data, start, stop, [3, 5, 0, 6])
    damaged(data, start, stop, [3, 5, 0])
    damaged(data, start, stop, [*lengths, 0])
    damaged(data, start, stop + 1, lengths)
    damaged(data, start, stop - 1, lengths)
    damaged(data, start + 1, stop, lengths)
    damaged(data[: start + 3], start, stop, lengths)
    damaged(b"\xff" * len(data), start, stop, lengths)
    damaged(bytes(len(data)), start, stop, lengths)


def test_noise_in_a_header_never_escapes_as_another_error(tmp_path: Path) -> None:
    values = [b"abc"] * 20
    path = tmp_path / "x.parquet"
    with write(path, values, write_statistics=True) as parquet:
        ((_, _, start, stop),) = find_groups(parquet)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(500):
        noisy = bytearray(data)
        at = start + int(rng.integers(0, 40))
        noisy[at] = int(rng.integers(0, 256))
        try:
            positions = locate_values(bytes(noisy), start, stop, [3] * 20, "x.parquet")
        except StoreDamaged:
            continue
        if positions is not None:
            assert ((positions >= start) & (positions < stop)).all()


def test_pages_of_another_kind_are_to_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with write(path, [b"abc", b"d"], data_page_version="2.0") as parquet:
        ((_, _, start, stop),) = find_groups(parquet)
    assert locate_values(path.read_bytes(), start, stop, [3, 1], "x") is None
