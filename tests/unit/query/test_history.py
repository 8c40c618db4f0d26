"""``history('/path')`` looks at few rows; it has to tell what all of them tell."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from pondfs.change import Event
from pondfs.errors import NoSuchPath, PondError, UsageError
from pondfs.query.session import Session
from pondfs.store.lives import is_file, load_history, trace_file
from pondfs.store.path_trace import PathTrace
from pondfs.store.trace import Trace
from tests.unit.store.histories import Walk
from tests.unit.store.support import adopt, file_row, make_cut, new_pond, size_row

Names = tuple[bytes, ...]


def every_path(trace: Trace) -> set[Names]:
    """Every path some version had, and some that none had."""
    found: set[Names] = {(b"nope",), (b"a", b"nope")}
    rows = trace.rows
    for node in {*rows.node.tolist()}:
        for version in trace.versions:
            found.update(tuple(path.split(b"/")) for path in trace.paths_at(node, version) if path)
    return found


def by_all_rows(trace: Trace, path: Names) -> list[Event] | type[PondError]:
    try:
        node, _ = trace.find_last(path)
    except NoSuchPath:
        return NoSuchPath
    if not is_file(trace, node):
        return UsageError
    return [step.event for step in trace_file(trace, node, b"/".join(path))]


def by_few_rows(store: Path, path: Names) -> list[Event] | type[PondError]:
    try:
        return load_history(store, path)
    except PondError as error:
        return type(error)


@pytest.mark.parametrize("seed", range(8))
def test_few_rows_tell_the_same_as_all(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path / "pond", seed)
    trio.run(walk.run, 200, 0.15)
    walk.close()
    trace = Trace(walk.path)
    try:
        paths = every_path(trace)
        assert len(paths) > 8
        for path in sorted(paths):
            assert by_few_rows(walk.path, path) == by_all_rows(trace, path), path
    finally:
        trace.close()


def test_as_a_table(tmp_path: Path) -> None:
    walk = Walk(tmp_path / "pond", 3)
    trio.run(walk.run, 200, 0.15)
    times = {info.version: info.timestamp for info in walk.store.list_versions()}
    walk.close()
    shown = 0
    with Session(walk.path) as session:
        files = session.sql("SELECT path, path_bytes FROM nodes WHERE file_type = 'file'").table()
        for file in files.to_pylist():
            if file["path_bytes"] is not None:
                continue
            path: str = file["path"]
            events = load_history(walk.path, tuple(os.fsencode(path[1:]).split(b"/")))
            found: list[dict[str, Any]] = (
                session.sql(f"SELECT * FROM history('{path}')").table().to_pylist()
            )
            assert found == [
                {
                    "version": event.version,
                    "timestamp": times[event.version],
                    "path": "/" + event.path.decode("utf-8", "replace"),
                    "what": ",".join(event.what),
                    "size": event.size,
                    "source": None
                    if event.source is None
                    else "/" + event.source.decode("utf-8", "replace"),
                }
                for event in events
            ]
            shown += 1
    assert shown


def test_only_rows_about_the_path_are_looked_at(tmp_path: Path) -> None:
    store = new_pond(tmp_path / "pond")
    for version in range(2, 6):
        rows = [
            file_row(version * 1000 + n, b"x", b"%d" % (version * 1000 + n)) for n in range(500)
        ]
        adopt(store.commit(make_cut(version, [*rows, size_row(2007, version)])))
    store.close()
    trace = PathTrace(tmp_path / "pond", [b"2007"])
    try:
        assert trace.rows.count == 1 + 4
        assert trace.versions == {1, 2, 3, 4, 5}
    finally:
        trace.close()


def test_the_root_is_a_directory(tmp_path: Path) -> None:
    new_pond(tmp_path / "pond").close()
    with pytest.raises(UsageError, match="is a directory"):
        load_history(tmp_path / "pond", ())
