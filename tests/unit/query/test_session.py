"""What a session lets one ask, what it refuses, and how it says so."""

import datetime
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trio
from datafusion import SessionContext

from pondfs.errors import (
    NoSuchPath,
    NoSuchVersion,
    NotAPond,
    PondError,
    StoreDamaged,
    UsageError,
)
from pondfs.extent import Content
from pondfs.node import ROOT, Version
from pondfs.oplog import Row
from pondfs.query.session import Session
from pondfs.store.delta import DeltaStore
from pondfs.store.lock import no_readers
from tests.unit.store.histories import Walk
from tests.unit.store.support import (
    SYMLINK,
    adopt,
    attr,
    directory_rows,
    file_row,
    make_cut,
    new_pond,
    open_pond,
)

SECRET = "a secret of the host"


def rows(session: Session, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.sql(sql).table().to_pylist()
    return found


def symlink_row(node: int, name: bytes, target: bytes) -> Row:
    return Row(
        "create", 5, ROOT, node, stat.S_IFLNK, name, attr=attr(SYMLINK, len(target)),
        offset=0, content=Content(target, len(target)),
    )  # fmt: skip


def commit(store: DeltaStore, version: int, changes: list[Row]) -> None:
    adopt(store.commit(make_cut(version, changes, message=f"version {version}")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pond with a few versions."""
    path = tmp_path / "pond"
    store = new_pond(path)
    commit(store, 2, [*directory_rows(10, b"dir"), file_row(11, b"eleven", b"a.txt", part=10)])
    commit(store, 3, [file_row(12, b"it's", b"it's; DROP"), symlink_row(13, b"link", b"/dir")])
    commit(store, 4, [file_row(14, b"", b'quo"te'), file_row(15, b"x", b"\xff\xfe")])
    store.put_tag("before", Version(3))
    store.close()
    return path


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    with Session(path) as session:
        yield session


# --- only reading ---------------------------------------------------------------------------------


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    file = tmp_path / "host.csv"
    file.write_text(f"a,b\n1,{SECRET}\n")
    return file


REFUSED = [
    "CREATE TABLE t AS SELECT 1",
    "CREATE TABLE t (a int)",
    "CREATE OR REPLACE TABLE nodes AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE SCHEMA s",
    "CREATE DATABASE d",
    "CREATE FUNCTION f() RETURNS INT RETURN 1",
    "CREATE INDEX i ON nodes (size)",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{host}'",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/dir'",
    "CREATE UNBOUNDED EXTERNAL TABLE t (a int) STORED AS CSV LOCATION '{host}'",
    "DROP TABLE nodes",
    "DROP VIEW nodes",
    "DROP SCHEMA public",
    "INSERT INTO nodes SELECT * FROM nodes",
    "INSERT INTO tags VALUES ('x', 1)",
    "INSERT OVERWRITE tags VALUES ('x', 1)",
    "WITH t AS (SELECT 1) INSERT INTO tags SELECT 'x', 1",
    "UPDATE nodes SET size = 1",
    "DELETE FROM nodes",
    "TRUNCATE TABLE nodes",
    "MERGE INTO tags USING versions ON tags.version = versions.version WHEN MATCHED THEN DELETE",
    "COPY nodes TO '{out}'",
    "COPY nodes TO '{out}' STORED AS CSV",
    "COPY (SELECT 1) TO '{out}' STORED AS PARQUET",
    "EXPLAIN COPY nodes TO '{out}' STORED AS CSV",
    "EXPLAIN ANALYZE COPY nodes TO '{out}' STORED AS CSV",
    "EXPLAIN ANALYZE INSERT INTO tags VALUES ('x', 1)",
    "EXPLAIN CREATE TABLE t AS SELECT 1",
    "SET datafusion.execution.batch_size = 1",
    "RESET datafusion.execution.batch_size",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "VACUUM",
    "ANALYZE nodes",
    "USE other",
    "ALTER TABLE nodes ADD COLUMN a int",
    "GRANT SELECT ON nodes TO me",
    "KILL 1",
    "  -- SELECT\n /* SELECT 1 */ dRoP tAbLe nodes",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_would_change_something_is_refused(
    session: Session, tmp_path: Path, host_file: Path, sql: str
) -> None:
    out = tmp_path / "out.csv"
    before = sorted(os.listdir(session.store))
    with pytest.raises(UsageError, match="pond query only reads: ") as caught:
        list(session.sql(sql.format(out=out, host=host_file)))
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert sorted(os.listdir(session.store)) == before
    assert len(rows(session, "SELECT * FROM nodes")) == 7


def test_a_statement_hidden_in_another_is_refused(session: Session) -> None:
    for sql in (
        "WITH x AS (INSERT INTO tags VALUES ('x', 1)) SELECT * FROM x",
        "SELECT 1; DROP TABLE nodes",
        "SELECT 1; COPY nodes TO '/tmp/never.csv'",
    ):
        with pytest.raises(UsageError):
            session.sql(sql)
    assert not os.path.exists("/tmp/never.csv")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{host}'",
        'SELECT * FROM "{host}"',
        "SELECT * FROM datafusion.public.'{host}'",
        "SELECT * FROM 'file://{host}'",
        "SELECT * FROM '/dir/../../../../../../../../..{host}'",
        "SELECT * FROM read('{host}')",
        "SELECT * FROM read('file://{host}')",
        "SELECT * FROM read('/..{host}')",
        "SELECT * FROM read('/../../../../../..{host}')",
        "SELECT * FROM read_csv('{host}')",
        "SELECT * FROM read_parquet('{host}')",
        "SELECT * FROM csv('{host}')",
        "SELECT pg_read_file('{host}')",
        "SELECT load_file('{host}')",
        "SELECT * FROM history('{host}')",
    ],
)
def test_no_file_of_the_host_can_be_read(session: Session, host_file: Path, sql: str) -> None:
    with pytest.raises(PondError) as caught:
        rows(session, sql.format(host=host_file))
    assert SECRET not in str(caught.value)


def test_a_symlink_in_the_pond_leads_to_no_file_of_the_host(path: Path, host_file: Path) -> None:
    store = open_pond(path)
    commit(store, 5, [symlink_row(20, b"out.csv", os.fsencode(host_file))])
    store.close()
    with Session(path) as session, pytest.raises(PondError):
        rows(session, "SELECT * FROM '/out.csv'")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "VALUES (1), (2)",
        "WITH x AS (SELECT * FROM nodes) SELECT count(*) FROM x",
        "(SELECT 1)",
        "EXPLAIN SELECT * FROM nodes",
        "EXPLAIN ANALYZE SELECT * FROM nodes",
        "SHOW TABLES",
        "SHOW COLUMNS FROM nodes",
        "DESCRIBE nodes",
        "SELECT * FROM information_schema.columns WHERE table_name = 'nodes'",
        "SELECT * FROM generate_series(1, 3)",
    ],
)
def test_what_reads_is_not(session: Session, sql: str) -> None:
    assert rows(session, sql)


def test_show_tables_lists_all_of_them(session: Session) -> None:
    found = rows(session, "SHOW TABLES")
    assert {row["table_name"] for row in found if row["table_schema"] == "public"} == {
        "oplog", "oplog_entries", "nodes", "directory_entries", "extents", "versions", "tags",
    }  # fmt: skip


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec 1", "this is no SQL that pond understands: Expected: an SQL statement"),
        ("SELECT 'open", "this is no SQL that pond understands: Unterminated string literal"),
        ("", "there is no statement in the query"),
        ("-- nothing", "there is no statement in the query"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT * FROM nope", "there is no table 'nope': SHOW TABLES lists them"),
        ("SELECT * FROM nope('x')", "there is no table function 'nope'"),
        ("SELECT nope FROM nodes", "No field named nope"),
        ("SELECT 1 / 0", "Divide by zero"),
        ("SELECT * FROM history()", r"history takes 1 argument, not 0: history\('/PATH'\)"),
        ("SELECT * FROM history(NULL)", "history takes text in single quotes"),
        ("SELECT * FROM history(path) FROM nodes", "pond understands"),
        ("SELECT * FROM nodes n, history(n.path)", "history takes text in single quotes"),
        ("SELECT * FROM changes('1')", "changes takes 2 arguments, not 1"),
    ],
)
def test_errors_are_one_line_that_says_what_is_wrong(session: Session, sql: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        rows(session, sql)
    message = str(caught.value)
    assert "\n" not in message
    assert "DataFusion" not in message
    assert "Traceback" not in message
    # It goes on after that.
    assert rows(session, "SELECT 1 AS a") == [{"a": 1}]


def test_errors_of_pondfs_come_out_as_themselves(session: Session) -> None:
    for sql, error in (
        ("SELECT * FROM nodes_at('99')", NoSuchVersion),
        ("SELECT * FROM directory_entries_at('never')", NoSuchVersion),
        ("SELECT * FROM changes('1', '99')", NoSuchVersion),
        ("SELECT * FROM history('/nope')", NoSuchPath),
        ("SELECT count(*) FROM history('/dir')", UsageError),
    ):
        with pytest.raises(error):
            rows(session, sql)


def test_a_damaged_data_file_is_told_while_rows_are_read(path: Path) -> None:
    with Session(path) as session:
        name = rows(session, "SELECT data_file FROM extents LIMIT 1")[0]["data_file"]
        size = (path / name).stat().st_size
        (path / name).write_bytes(b"\0" * size)
        with pytest.raises(StoreDamaged, match=name):
            rows(session, "SELECT content FROM oplog")


def test_no_pond(tmp_path: Path) -> None:
    with pytest.raises(NotAPond):
        Session(tmp_path)


def test_no_such_version(path: Path) -> None:
    with pytest.raises(NoSuchVersion):
        Session(path, at="99")


def test_closing_twice_is_harmless(path: Path) -> None:
    session = Session(path)
    session.close()
    session.close()


# --- tables ---------------------------------------------------------------------------------------


def test_the_scenario_of_duckpond(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    store = new_pond(path)
    touch = Row("touch", 5, ROOT, ROOT, stat.S_IFDIR, attr=attr(stat.S_IFDIR | 0o755, nlink=2))
    commit(store, 2, [file_row(11, b"content", b"A"), symlink_row(12, b"B", b"/A"), touch])
    store.close()
    with Session(path) as session:
        found = rows(session, "SELECT name, file_type FROM oplog_entries ORDER BY name")
        assert found == [
            {"name": "A", "file_type": "file"}, {"name": "B", "file_type": "symlink"},
        ]  # fmt: skip
        # Every raw row: the root and the commit of init, these three, and their commit.
        assert rows(session, "SELECT count(*) AS n FROM oplog") == [{"n": 6}]


def test_versions_and_tags(session: Session) -> None:
    found = rows(session, "SELECT version, message, operations FROM versions ORDER BY version")
    assert [row["version"] for row in found] == [1, 2, 3, 4]
    assert found[2] == {"version": 3, "message": "version 3", "operations": 2}
    assert rows(session, "SELECT * FROM tags") == [{"name": "before", "version": 3}]
    (count,) = rows(session, "SELECT count(*) AS n FROM nodes_at('before')")
    assert count == {"n": 5}


def test_versions_have_a_time_that_can_be_compared(session: Session) -> None:
    now = datetime.datetime.now(datetime.UTC)
    (row,) = rows(session, "SELECT max(timestamp) AS t FROM versions WHERE timestamp <= now()")
    assert abs(now - row["t"]) < datetime.timedelta(minutes=10)


def test_changes(session: Session) -> None:
    found = rows(session, "SELECT * FROM changes('2', 'latest') ORDER BY path")
    assert [(row["change"], row["path"], row["size_after"]) for row in found] == [
        ("added", "/it's; DROP", 4), ("added", "/link", 4), ("added", '/quo"te', 0),
        ("added", "/\ufffd\ufffd", 1),
    ]  # fmt: skip


def test_text_in_paths_is_text(session: Session) -> None:
    assert rows(session, "SELECT size FROM nodes WHERE path = '/it''s; DROP'") == [{"size": 4}]
    (event,) = rows(session, "SELECT what, size FROM history('/it''s; DROP')")
    assert event == {"what": "created", "size": 4}
    (event,) = rows(session, "SELECT path FROM history('/quo\"te')")
    assert event == {"path": '/quo"te'}
    for sql in (
        "SELECT * FROM history('/a'' OR 1=1 --')",
        "SELECT * FROM history('/a''); DROP TABLE nodes; --')",
        "SELECT * FROM nodes_at('3''); SELECT (''1')",
        "SELECT * FROM '/a''; DROP TABLE nodes; --'",
    ):
        with pytest.raises((NoSuchPath, NoSuchVersion)):
            rows(session, sql)
    assert len(rows(session, "SELECT * FROM nodes")) == 7


@pytest.mark.parametrize(
    "where",
    [
        "uid NOT IN (1, 2, 3, 4, 5)",
        "NOT (uid IN (1, 2, 3, 4, 5) OR name = 'x')",
        "(uid IN (1, 2, 3, 4, 1000)) IS NULL",
        "uid IN (1, 2, 3, 4, 1000)",
        "name NOT IN ('a', 'b', 'c', 'd')",
        "size = 1 OR name IS NULL",
        "NOT (size > 1)",
        "size BETWEEN 1 AND 5 AND removed = false",
        "version IN (2, 3, 17, 18, 19) AND node_id <> '0000000000000001'",
        "metadata LIKE '%version 3%'",
        "op IN ('commit', 'create', 'touch', 'link') AND length(name) > 3",
        "timestamp > '2020-01-01' AND name > 'b'",
        "pending OR name = 'a'",
        "size IS DISTINCT FROM 0",
        "uid NOT IN (7, NULL)",
        "version = 999999",
        "content = X'78'",
        "exists (SELECT 1)",
        "1 = 1",
        "false",
    ],
)
def test_filters_mean_what_sql_means_by_them(many: Path, where: str) -> None:
    """DataFusion leaves them to us: against the same rows, filtered by DataFusion itself."""
    with Session(many) as session:
        other = SessionContext()
        other.from_arrow(session.sql("SELECT * FROM oplog").table(), "oplog")
        sql = f"SELECT * FROM oplog WHERE {where} ORDER BY version, seq"
        assert rows(session, sql) == other.sql(sql).to_arrow_table().to_pylist()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    walk = Walk(tmp_path_factory.mktemp("many") / "pond", 3)
    trio.run(walk.run, 100, 0.1)
    walk.close()
    return walk.path


def test_a_stream_of_batches(session: Session) -> None:
    result = session.sql("SELECT version, name FROM oplog")
    batches = list(result)
    assert result.schema == pa.schema(
        [pa.field("version", pa.int64(), False), pa.field("name", pa.string())]
    )
    assert all(batch.schema == result.schema for batch in batches)
    assert sum(batch.num_rows for batch in batches) == len(rows(session, "SELECT * FROM oplog"))


GONE = """
    SELECT coalesce(n.path, e.name) AS path, e.size
    FROM oplog_entries e LEFT JOIN nodes_at('{day}') n ON n.node_id = e.node_id
    WHERE e.op = 'create' AND e.file_type = 'file' AND e.uid = 33 AND e.size > 1000000
      AND e.timestamp >= '{day}' AND e.timestamp < '{next_day}'
      AND e.node_id NOT IN (SELECT node_id FROM nodes)
    ORDER BY path
"""


def test_which_large_files_somebody_created_on_a_day_are_gone(tmp_path: Path) -> None:
    day = datetime.datetime(2130, 11, 14, tzinfo=datetime.UTC)  # versions go forward in time

    def at(store: DeltaStore, version: int, hours: float, changes: list[Row]) -> None:
        when_ns = int((day + datetime.timedelta(hours=hours)).timestamp()) * 10**9
        cut = make_cut(version, [row._replace(time_ns=when_ns) for row in changes])
        cut.time_ns = when_ns
        adopt(store.commit(cut))

    def made(node: int, name: bytes, size: int, uid: int) -> Row:
        row = file_row(node, None, name, part=10)
        assert row.attr is not None
        mode, _, gid, nlink, rdev, _, *times = row.attr
        return row._replace(attr=(mode, uid, gid, nlink, rdev, size, *times))  # type: ignore[arg-type]

    def gone(node: int, name: bytes) -> list[Row]:
        entry = Row("unlink", 0, 10, node, stat.S_IFREG, name, removed=True)
        return [entry, Row("unlink", 0, 10, node, stat.S_IFREG, removed=True)]

    store = new_pond(tmp_path / "pond")
    at(store, 2, -30, [*directory_rows(10, b"www"), made(11, b"before", 2_000_000, 33)])
    at(store, 3, 10, [
        made(12, b"wanted", 2_000_000, 33), made(13, b"small", 999, 33),
        made(14, b"not his", 2_000_000, 34), made(15, b"there", 2_000_000, 33),
        made(16, b"short", 3_000_000, 33),
    ])  # fmt: skip
    at(store, 4, 11, gone(16, b"short"))
    at(store, 5, 30, [made(17, b"after", 2_000_000, 33)])
    every = ((11, b"before"), (12, b"wanted"), (13, b"small"), (14, b"not his"), (17, b"after"))
    at(store, 6, 50, [row for each in every for row in gone(*each)])
    store.close()
    with Session(tmp_path / "pond") as session:
        found = rows(session, GONE.format(day="2130-11-14", next_day="2130-11-15"))
    assert found == [
        {"path": "/www/wanted", "size": 2_000_000}, {"path": "short", "size": 3_000_000},
    ]  # fmt: skip


def test_no_data_file_is_removed_under_a_session(path: Path) -> None:
    session = Session(path)
    try:
        with no_readers(os.fspath(path / "_pond")) as alone:
            assert not alone
    finally:
        session.close()
    with no_readers(os.fspath(path / "_pond")) as alone:
        assert alone
