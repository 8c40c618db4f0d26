"""The vectorized fold against one that goes row by row."""

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pondfs.errors import StoreDamaged
from pondfs.extent import Content
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import AttrRow, Row
from pondfs.store.content import DataFile
from pondfs.store.fold import load_image
from pondfs.store.rows import commit_row
from tests.unit.store.support import (
    DIRECTORY,
    FILE,
    SYMLINK,
    as_file,
    attr,
    directory_rows,
    extent_row,
    file_row,
    make_cut,
    new_reader,
    read_bytes,
    root_row,
    size_row,
    write_version,
)

FILES = [10, 2**63 - 1, 12]
LINKS = [20, 21]
DIRECTORIES = [1, 30]
NAMES = [b"a", b"b", b"\xff", "\ufffd".encode(), "ä".encode()]


@dataclass
class Naive:
    """A fold that goes row by row."""

    entries: dict[tuple[int, bytes], int] = field(default_factory=dict)
    nodes: dict[int, AttrRow] = field(default_factory=dict)
    shown: dict[int, dict[int, int]] = field(default_factory=dict)
    targets: dict[int, bytes] = field(default_factory=dict)
    metadata: dict[int, str | None] = field(default_factory=dict)

    def apply(self, row: Row) -> None:
        if row.name is not None:
            if row.removed:
                self.entries.pop((row.part, row.name), None)
            else:
                self.entries[row.part, row.name] = row.node
        elif row.removed:
            self.nodes.pop(row.node, None)
        if row.attr is not None and not (row.removed and row.name is None):
            self.nodes[row.node] = row.attr
            self.metadata[row.node] = row.metadata
        data = self.shown.setdefault(row.node, {})
        if row.attr is not None and row.valid_below is not None:
            for at in [at for at in data if at >= row.valid_below]:
                del data[at]
        if row.content is not None:
            raw = row.content.data
            assert raw is not None
            if stat.S_ISLNK(row.mode):
                self.targets[row.node] = bytes(raw)
            else:
                assert row.offset is not None
                data.update(enumerate(raw, row.offset))

    def live(self) -> dict[int, AttrRow]:
        named = set(self.entries.values())
        return {n: a for n, a in self.nodes.items() if a[3] > 0 or n in named}

    def content(self, node: int) -> list[int | None]:
        size = self.nodes[node][5]
        return [self.shown.get(node, {}).get(at) for at in range(size)]


sizes = st.integers(0, 40)
contents = st.binary(min_size=1, max_size=12)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    kind = draw(
        st.sampled_from(["extent", "extent", "attr", "attr", "link", "unlink", "gone", "symlink"])
    )
    part = draw(st.sampled_from(DIRECTORIES))
    node = draw(st.sampled_from(FILES))
    if kind == "extent":
        return extent_row(node, draw(sizes), draw(contents))
    if kind == "attr":
        data = draw(st.one_of(st.none(), contents))
        return Row(
            "update", 5, part, node, FILE,
            draw(st.one_of(st.none(), st.sampled_from(NAMES))),
            attr=attr(size=draw(sizes), nlink=draw(st.sampled_from([0, 1, 1, 1]))),
            valid_below=draw(st.one_of(st.none(), sizes)),
            metadata=draw(st.one_of(st.none(), st.just('{"x":1}'))),
            offset=None if data is None else draw(sizes),
            content=None if data is None else Content(data, len(data)),
        )  # fmt: skip
    name = draw(st.sampled_from(NAMES))
    if kind == "symlink":
        link = draw(st.sampled_from(LINKS))
        target = draw(contents)
        return Row(
            "create", 5, part, link, SYMLINK, name, attr=attr(SYMLINK, len(target)),
            offset=0, content=Content(target, len(target)),
        )  # fmt: skip
    if kind == "link":
        return Row("link", 5, part, node, FILE, name)
    if kind == "unlink":
        return Row("unlink", 5, part, node, FILE, name, removed=True)
    return Row("unlink", 5, part, node, FILE, removed=True)


def beginning() -> list[Row]:
    return [root_row(), Row("create", 5, 30, 30, DIRECTORY, attr=attr(DIRECTORY, nlink=2))]


def check(files: list[DataFile], model: Naive, up_to: int) -> None:
    reader = new_reader()
    image = load_image(files, reader, Version(up_to))
    live = model.live()
    assert image.version == up_to
    assert sorted(live) == image.node_ids()
    assert image.node_count == len(live)
    for directory in [*DIRECTORIES, 99]:
        expected = {
            name: node
            for (part, name), node in model.entries.items()
            if part == directory and part in live and node in live
        }
        assert image.load_entries(NodeId(directory)) == expected
    for node, attributes in live.items():
        found = image.find_node(NodeId(node))
        assert found is not None
        assert found.attr == attributes
        assert found.metadata == model.metadata[node]
        parents = {p for (p, _), n in model.entries.items() if n == node and p in live}
        if parents:
            assert found.parent in parents
        if stat.S_ISLNK(attributes[0]):
            assert found.target == model.targets[node]
            assert image.load_extents(NodeId(node)) == []
            continue
        assert found.target is None
        shown: list[int | None] = [None] * attributes[5]
        end = 0
        for extent in image.load_extents(NodeId(node)):
            assert extent.length > 0
            assert extent.offset >= end
            end = extent.offset + extent.length
            assert end <= attributes[5]
            shown[extent.offset : end] = read_bytes(
                reader, extent.content, extent.skip, extent.length
            )
        assert shown == model.content(node)
    for node in {2, *FILES, *LINKS} - set(live):
        assert image.find_node(NodeId(node)) is None
        assert image.load_extents(NodeId(node)) == []
    reader.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(rows(), max_size=8), min_size=1, max_size=4),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@pytest.mark.filterwarnings("ignore")
def test_same_as_row_by_row(
    tmp_path: Path, versions: list[list[Row]], staged: bool, rng: object
) -> None:
    model = Naive()
    files: list[DataFile] = []
    for version, some in enumerate(versions, 1):
        all_rows = [*(beginning() if version == 1 else []), *some]
        for row in all_rows:
            model.apply(row)
        if staged and len(all_rows) > 1:
            # The first half was staged: a file of its own, its rows before the others'.
            half = len(all_rows) // 2
            files.append(as_file(tmp_path, version, all_rows[:half]))
            rest = [*all_rows[half:], commit_row(make_cut(version, []))]
            files.append(as_file(tmp_path, version, rest, half))
        else:
            files.append(write_version(tmp_path, version, all_rows))
    rng.shuffle(files)  # type: ignore[attr-defined]  # a random.Random
    check(files, model, len(versions))
    for file in files:
        os.unlink(file.path)


def test_every_past_version(tmp_path: Path) -> None:
    """A log of appends, truncates and rewrites, seen at each of its versions."""
    plan: list[list[Row]] = [
        beginning(),
        [file_row(10, b"hello", b"a")],
        [extent_row(10, 5, b" world"), size_row(10, 11)],
        [size_row(10, 3, valid_below=3)],
        [size_row(10, 8)],
        [extent_row(10, 1, b"ELLO"), size_row(10, 8)],
        [Row("rename", 5, 1, 10, FILE, b"a", removed=True), Row("rename", 5, 30, 10, FILE, b"b")],
        [size_row(10, 9, valid_below=0), extent_row(10, 8, b"!")],
        [Row("unlink", 5, 30, 10, FILE, b"b", removed=True),
         Row("unlink", 5, 30, 10, FILE, removed=True)],
    ]  # fmt: skip
    files = [write_version(tmp_path, number, some) for number, some in enumerate(plan, 1)]
    for version in range(1, len(plan) + 1):
        model = Naive()
        for some in plan[:version]:
            for row in some:
                model.apply(row)
        check(files, model, version)


def test_a_directory_of_many(tmp_path: Path) -> None:
    names = [b"file %d" % i for i in range(5000)]
    some = [file_row(100 + i, b"x", name) for i, name in enumerate(names)]
    image = load_image([write_version(tmp_path, 1, [*beginning(), *some])], new_reader())
    assert list(image.load_entries(ROOT)) == names, "in the order they came"
    assert image.load_entries(NodeId(30)) == {}
    assert image.nbytes < 100 * 5000


def test_rows_of_no_commit_are_no_version(tmp_path: Path) -> None:
    files = [
        write_version(tmp_path, 1, [*beginning(), file_row(10, b"abc", b"a")]),
        as_file(tmp_path, 2, [file_row(11, b"abc", b"b")]),
    ]
    image = load_image(files, new_reader())
    assert image.version == 1
    assert set(image.load_entries(ROOT)) == {b"a"}


def test_what_makes_no_tree_is_damage(tmp_path: Path) -> None:
    with pytest.raises(StoreDamaged, match="no commit"):
        load_image([], new_reader())
    with pytest.raises(StoreDamaged, match="no root"):
        load_image([write_version(tmp_path, 1, [file_row(10, b"abc", b"a")])], new_reader())
    file = write_version(tmp_path, 2, beginning())
    with pytest.raises(StoreDamaged, match="no commit"):
        load_image([file], new_reader(), Version(1))


def test_an_entry_that_leads_nowhere_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_version(tmp_path, 1, [*beginning(), Row("link", 5, 1, 77, FILE, b"lost")])
    assert load_image([file], new_reader()).load_entries(ROOT) == {}
    assert "1 entries lead to nodes the table does not have" in caplog.text


def test_metadata_is_kept_as_it_is(tmp_path: Path) -> None:
    text = json.dumps({"user.ä": "\u0000 \n"})
    row = Row("create", 5, 1, 10, FILE, b"a", attr=attr(), metadata=text)
    image = load_image([write_version(tmp_path, 1, [*beginning(), row])], new_reader())
    found = image.find_node(NodeId(10))
    assert found is not None
    assert found.metadata == text


def test_a_directory_knows_its_parent_by_its_entry(tmp_path: Path) -> None:
    plan = [
        [root_row(), *directory_rows(30, b"old"), *directory_rows(31, b"moved", part=30)],
        [Row("rename", 5, 30, 31, DIRECTORY, b"moved", removed=True),
         Row("rename", 5, 1, 31, DIRECTORY, b"moved")],
    ]  # fmt: skip
    files = [write_version(tmp_path, n, some) for n, some in enumerate(plan, 1)]
    for up_to, parent in ((1, 30), (2, 1)):
        found = load_image(files, new_reader(), Version(up_to)).find_node(NodeId(31))
        assert found is not None
        assert found.parent == parent
