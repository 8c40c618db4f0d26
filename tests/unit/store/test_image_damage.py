"""A saved image in which anything is wrong: told of, never used, and made anew by the next writer.

What is said is of this file alone; whether the tree is right is checked against a whole fold.
"""

import itertools
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pondfs.store import imagefile, images, records
from pondfs.store.records import map_records, replace, write_record
from tests.unit.store.support import open_pond
from tests.unit.store.test_images import check, saved

KIND = imagefile._KIND
ABOUT = imagefile._ABOUT


@pytest.fixture(scope="module", autouse=True)
def _save_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "WORTH_ROWS", 1)
        yield


def make_pond(path: Path, seed: int) -> Path:
    """Return a pond with a random history and a saved image."""
    import trio

    from tests.unit.store.histories import Walk

    walk = Walk(path, seed)
    trio.run(walk.run, 80, 0.2)
    walk.close()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, _save_at_once: None) -> Path:
    return make_pond(tmp_path_factory.mktemp("damage") / "pond", 5)


@pytest.fixture
def pond(model: Path, tmp_path: Path) -> Iterator[Path]:
    """The same pond, and the saved image as it was, for each test."""
    before = saved(model).read_bytes()
    yield model
    saved(model).write_bytes(before)


def spans(pond: Path) -> list[tuple[int, int]]:
    """Return the first byte and the size of each table."""
    fd = os.open(saved(pond), os.O_RDONLY)
    try:
        return [(at, size) for at, size, _ in records.headers(fd, os.fstat(fd).st_size, KIND)]
    finally:
        os.close(fd)


def rewritten(pond: Path, change: Callable[[list[pa.Table]], list[pa.Table]]) -> None:
    """Write the image with other tables, and checksums that are right."""
    tables = change(list(map_records(os.fspath(saved(pond)), KIND)[1]))

    def write(file: object) -> None:
        end = 0
        for table in tables:
            end = write_record(file, end, KIND, table.schema, [table])  # type: ignore[arg-type]

    replace(os.fspath(saved(pond)), write)


def is_told_of(pond: Path, caplog: pytest.LogCaptureFixture, said: str = "is not used") -> None:
    """Expect a line in the log and the right tree; then a right image from the next writer."""
    caplog.clear()
    with caplog.at_level("INFO"):
        check(pond)
    assert said in caplog.text
    store = open_pond(pond)
    store.load_image()
    store.close()
    caplog.clear()
    with caplog.at_level("INFO"):
        check(pond)
    assert not caplog.text


@pytest.mark.parametrize(
    ("number", "where"), list(itertools.product(range(5), ("header", "start", "middle", "end")))
)
def test_a_flipped_bit_in_each_table(
    pond: Path, caplog: pytest.LogCaptureFixture, number: int, where: str
) -> None:
    start, size = spans(pond)[number]
    at = {
        "header": start - 64,
        "start": start,
        "middle": start + size // 2,
        "end": start + size - 1,
    }
    data = bytearray(saved(pond).read_bytes())
    data[at[where]] ^= 0x10
    saved(pond).write_bytes(data)
    is_told_of(pond, caplog)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("beyond", [-64, 0, 1, 100])
def test_a_file_that_ends_early(
    pond: Path, caplog: pytest.LogCaptureFixture, number: int, beyond: int
) -> None:
    """Between two tables as well, where every checksum there is is right."""
    os.truncate(saved(pond), max(0, spans(pond)[number][0] + beyond))
    is_told_of(pond, caplog)


def test_blocks_that_changed_places(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(saved(pond).read_bytes())
    start, size = max(spans(pond), key=lambda span: span[1])
    dice = random.Random(1)
    while True:
        one, other = (start + 8 * dice.randrange(size // 8) for _ in range(2))
        if data[one : one + 8] != data[other : other + 8]:
            break
    data[one : one + 8], data[other : other + 8] = data[other : other + 8], data[one : one + 8]
    saved(pond).write_bytes(data)
    is_told_of(pond, caplog)


def test_bytes_behind_the_last_table(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(saved(pond), "ab") as file:
        file.write(bytes(64))
    is_told_of(pond, caplog)


def test_nothing_in_it(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(saved(pond), 0)
    is_told_of(pond, caplog)


def test_the_image_of_another_pond(
    pond: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_pond(tmp_path / "other", 6)
    saved(pond).write_bytes(saved(other).read_bytes())
    is_told_of(pond, caplog, "outdated")


def test_an_image_from_before_this_format(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(saved(pond).read_bytes())
    data[8:12] = struct.pack("<I", KIND.format + 1)
    saved(pond).write_bytes(data)
    is_told_of(pond, caplog)


def about(tables: list[pa.Table], **changed: object) -> list[pa.Table]:
    nodes = tables[0]
    facts = json.loads(nodes.schema.metadata[ABOUT]) | changed
    return [nodes.replace_schema_metadata({ABOUT: json.dumps(facts)}), *tables[1:]]


def facts(pond: Path) -> dict[str, object]:
    tables = list(map_records(os.fspath(saved(pond)), KIND)[1])
    found: dict[str, object] = json.loads(tables[0].schema.metadata[ABOUT])
    return found


@pytest.mark.parametrize("by", [-1, 1, 1000])
def test_it_says_another_version_than_its_files_have(
    pond: Path, caplog: pytest.LogCaptureFixture, by: int
) -> None:
    version = facts(pond)["version"]
    assert isinstance(version, int)
    rewritten(pond, lambda tables: about(tables, version=version + by))
    is_told_of(pond, caplog)


def test_it_leaves_out_a_file_of_its_time(pond: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = facts(pond)["files"]
    assert isinstance(files, list)
    rewritten(pond, lambda tables: about(tables, files=files[1:]))
    is_told_of(pond, caplog, "outdated")


def _reverse(tables: list[pa.Table]) -> list[pa.Table]:
    nodes = tables[0]
    backwards = nodes.take(pa.array(range(nodes.num_rows - 1, -1, -1)))
    return [backwards.combine_chunks().replace_schema_metadata(nodes.schema.metadata), *tables[1:]]


def _beyond(number: int, column: str) -> Callable[[list[pa.Table]], list[pa.Table]]:
    def change(tables: list[pa.Table]) -> list[pa.Table]:
        table = tables[number]
        values = table[column].to_numpy().copy()
        values[-1] = 1 << (8 * values.itemsize - 1) - 1 if values.itemsize > 1 else 255
        at = table.column_names.index(column)
        new = table.set_column(at, table.schema.field(column), [pa.array(values)])
        return [*tables[:number], new, *tables[number + 1 :]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _reverse,
        lambda tables: tables[:4],
        lambda tables: [*tables, tables[4]],
        lambda tables: [tables[0].slice(1).replace_schema_metadata(tables[0].schema.metadata),
                        *tables[1:]],
        lambda tables: [tables[1], tables[0], *tables[2:]],
        _beyond(0, "parents"),
        _beyond(1, "entry_nodes"),
        _beyond(1, "entry_dirs"),
        _beyond(2, "extent_file"),
    ],
    ids=["order", "missing", "more", "cut", "swapped", "parent", "entry", "directory", "file"],
)  # fmt: skip
def test_what_no_tree_can_have(
    pond: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[list[pa.Table]], list[pa.Table]],
) -> None:
    """With right checksums: a bug, or somebody's hand."""
    rewritten(pond, change)
    is_told_of(pond, caplog)
