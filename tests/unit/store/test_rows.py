import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pondfs.entry import encode_name
from pondfs.extent import Content
from pondfs.node import FILE_TYPES, ROOT, Version, format_node_id
from pondfs.oplog import Row
from pondfs.store.rows import commit_row, hex_ids, to_batch
from pondfs.store.schema import SCHEMA
from tests.unit.store.support import DIRECTORY, FILE, SYMLINK, attr, make_cut

int64 = st.integers(-(2**63), 2**63 - 1)
ids = st.integers(1, 2**63 - 1)
attrs = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from([FILE, DIRECTORY, SYMLINK]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
        int64,
        int64,
        int64,
    ),
)
contents = st.one_of(st.none(), st.binary(min_size=1, max_size=9))
times = st.integers(-(10**18), 4 * 10**18)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    data = draw(contents)
    return Row(
        op=draw(st.sampled_from(["create", "update", "extent"])),
        time_ns=draw(times),
        part=draw(ids),
        node=draw(ids),
        mode=draw(st.sampled_from([FILE, DIRECTORY, SYMLINK])),
        name=draw(st.one_of(st.none(), st.binary(min_size=1, max_size=9))),
        removed=draw(st.booleans()),
        attr=draw(attrs),
        valid_below=draw(st.one_of(st.none(), st.integers(0, 2**62))),
        metadata=draw(st.one_of(st.none(), st.just('{"ä": 1}'))),
        offset=None if data is None else draw(st.integers(0, 2**62)),
        content=None if data is None else Content(data, len(data)),
    )


def plain(row: Row, version: int, seq: int) -> dict[str, Any]:
    """What the columns must hold, said as plainly as can be."""
    text, raw = encode_name(row.name) if row.name is not None else (None, None)
    values = row.attr or (None,) * 9
    data = None if row.content is None else row.content.data
    return {
        "version": version,
        "seq": seq,
        "timestamp": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.time_ns // 1000),
        "op": row.op,
        "part_id": format_node_id(row.part),
        "node_id": format_node_id(row.node),
        "file_type": FILE_TYPES[row.mode & 0o170000],
        "name": text,
        "name_bytes": raw,
        "removed": row.removed,
        **dict(
            zip(
                "mode uid gid nlink rdev size atime_ns mtime_ns ctime_ns".split(),
                values,
                strict=True,
            )
        ),
        "valid_below": row.valid_below,
        "metadata": row.metadata,
        "offset": row.offset,
        "length": None if data is None else len(data),
        "content": data or b"",
    }


@given(st.lists(rows(), min_size=1, max_size=6), st.integers(0, 1000))
def test_columns_hold_what_the_rows_say(some: list[Row], first_seq: int) -> None:
    batch = to_batch(Version(42), first_seq, some)
    assert batch.schema.equals(SCHEMA)
    batch.validate(full=True)
    assert batch.to_pylist() == [plain(row, 42, first_seq + i) for i, row in enumerate(some)]


@given(st.lists(ids, min_size=1))
def test_ids_are_16_hex_digits(some: list[int]) -> None:
    assert hex_ids(some).to_pylist() == [format_node_id(node) for node in some]


def test_the_commit_row_says_who_why_and_how_much() -> None:
    cut = make_cut(7, [], message="weekly ✓")
    row = commit_row(cut)
    assert (row.op, row.part, row.node, row.attr, row.name) == ("commit", ROOT, ROOT, None, None)
    assert row.time_ns == cut.time_ns
    facts = json.loads(row.metadata or "")
    assert (facts["message"], facts["user"], facts["host"]) == ("weekly ✓", "ada", "lab")


def test_content_may_be_a_memoryview() -> None:
    row = Row("extent", 0, 1, 2, FILE, offset=0, content=Content(memoryview(b"xabcx")[1:4], 3))
    assert to_batch(Version(1), 0, [row])["content"].to_pylist() == [b"abc"]


def test_a_row_without_attributes_has_none_of_them() -> None:
    row = Row("link", 0, 1, 2, FILE, b"n")
    assert attr()[0] == FILE
    assert to_batch(Version(1), 0, [row])["mode"].null_count == 1
