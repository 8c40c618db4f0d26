"""``pond query`` on a pond that is not mounted: where statements end, how results are written."""

import csv
import io
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pondfs.cli import pond
from pondfs.cli.query_run import NewFile
from pondfs.cli.query_text import split
from pondfs.cli.run import run
from pondfs.errors import PondExists
from pondfs.query.output import open_writer, write_result
from pondfs.query.table import Table, write_table
from tests.unit.store.test_changes import Life

# --- where statements end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("SELECT 1", [], "SELECT 1"),
        ("SELECT 1;", ["SELECT 1"], ""),
        (" SELECT 1 ;\n SELECT 2; ", ["SELECT 1", "SELECT 2"], ""),
        ("SELECT ';' ; x", ["SELECT ';'"], "x"),
        ("SELECT 'it''s; so';", ["SELECT 'it''s; so'"], ""),
        ('SELECT ";" FROM a;', ['SELECT ";" FROM a'], ""),
        ("SELECT 1 -- one; two\n;", ["SELECT 1 -- one; two"], ""),
        ("SELECT 1 /* ; */ ;", ["SELECT 1 /* ; */"], ""),
        ("SELECT 1 - 2 / 3;", ["SELECT 1 - 2 / 3"], ""),
        ("SELECT $$ ; $$, $a$ $$;$a$;", ["SELECT $$ ; $$, $a$ $$;$a$"], ""),
        ("SELECT 'open; ;", [], "SELECT 'open; ;"),
        ("SELECT /* open; ;", [], "SELECT /* open; ;"),
        ("; ;; -- nothing\n;", [], ""),
        ("-- nothing", [], ""),
        ("", [], ""),
    ],
)
def test_where_statements_end(text: str, statements: list[str], rest: str) -> None:
    assert split(text) == (statements, rest)


# --- formats --------------------------------------------------------------------------------------

STRANGE = pa.table(
    {
        "n": pa.array([1, None, -3]),
        "f": pa.array([0.5, float("nan"), float("inf")]),
        "t": pa.array(["", None, 'a "b",\nc é']),
        "b": pa.array([b"\x00\xff", None, b"text"]),
        "v": pa.array(["view", None, "x"], pa.string_view()),
        "when": pa.array([1_718_000_000_123_456_789, None, -1], pa.timestamp("ns", "UTC")),
        "day": pa.array([date(2026, 6, 20), None, date(1, 1, 1)]),
        "d": pa.array(["1.50", None, "-0.01"]).cast(pa.decimal128(9, 2)),
        "l": pa.array([[b"\xff"], None, []], pa.list_(pa.binary())),
        "s": pa.array([{"x": 1, "y": float("nan")}, None, {"x": None, "y": 2.0}]),
        "k": pa.array(["one", None, "one"]).dictionary_encode(),
        "long": pa.array([90_000, None, 1], pa.duration("ms")),
        "i": pa.array([(1, 2, 500_000_000), None, (0, 0, 0)], pa.month_day_nano_interval()),
        "m": pa.array([[("k", b"\xff")], None, []], pa.map_(pa.string(), pa.binary())),
        "u": pa.nulls(3),
        "y": pa.array([True, None, False]),
    }
)


def written(form: str, table: pa.Table = STRANGE, *, seekable: bool = False) -> bytes:
    sink = io.BytesIO()
    batches = table.to_batches(max_chunksize=2)
    writer = open_writer(form, sink, table.schema, seekable=seekable)
    assert write_result(writer, batches) == table.num_rows
    return sink.getvalue()


def test_json_is_valid_and_says_everything() -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    rows: list[dict[str, Any]] = json.loads(written("json"), parse_constant=refuse)
    assert rows[0] == {
        "n": 1, "f": 0.5, "t": "", "b": "AP8=", "v": "view",
        "when": "2024-06-10T06:13:20.123456789Z", "day": "2026-06-20", "d": "1.50",
        "l": ["/w=="], "s": {"x": 1, "y": None}, "k": "one",
        "long": "90000 ms", "i": "P1M2DT0.5S",
        "m": [{"key": "k", "value": "/w=="}], "u": None, "y": True,
    }  # fmt: skip
    assert rows[1] == dict.fromkeys(STRANGE.column_names) | {"f": None}
    assert rows[2]["f"] is None
    assert rows[2]["t"] == 'a "b",\nc é'
    lines = written("ndjson").decode().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == rows


def test_json_of_nothing_and_of_equal_names() -> None:
    assert json.loads(written("json", STRANGE.slice(0, 0))) == []
    assert written("ndjson", STRANGE.slice(0, 0)) == b""
    twins = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["a", "a", "a_2"])
    assert json.loads(written("json", twins)) == [{"a": 1, "a_3": 2, "a_2": 3}]


def test_csv_can_be_read_back() -> None:
    data = written("csv").decode()
    first, empty, third = csv.DictReader(io.StringIO(data, newline=""))
    assert first["b"] == "\\x00ff"
    assert first["when"] == "2024-06-10T06:13:20.123456789Z"
    assert json.loads(first["l"]) == ["\\xff"]
    assert json.loads(first["s"]) == {"x": 1, "y": None}
    assert third["t"] == 'a "b",\nc é'
    assert {value for name, value in empty.items() if name != "f"} == {""}
    # Null and an empty text differ for those who can tell.
    assert data.splitlines()[1].split(",")[2] == '""'
    assert data.splitlines()[2].split(",")[2] == ""
    assert written("csv", STRANGE.slice(0, 0)).decode().splitlines() == [data.splitlines()[0]]


@pytest.mark.parametrize("seekable", [True, False])
def test_arrow_keeps_every_value(seekable: bool) -> None:
    data = written("arrow", seekable=seekable)
    opened = pa.ipc.open_file(data) if seekable else pa.ipc.open_stream(data)
    found = opened.read_all()
    assert found["v"].type == pa.string(), "readers may not know views"
    for name in STRANGE.column_names:
        if name not in ("f", "s"):  # NaN equals nothing
            assert found[name].to_pylist() == STRANGE[name].to_pylist(), name


def test_parquet_keeps_every_value_in_few_row_groups() -> None:
    table = STRANGE.drop(["i"])
    found = pq.ParquetFile(io.BytesIO(written("parquet", table)))
    assert found.num_row_groups == 1, "a group for each batch would be a poor file"
    rows = found.read()
    for name in table.column_names:
        if name not in ("f", "s"):
            assert rows[name].to_pylist() == table[name].to_pylist(), name


# --- tables ---------------------------------------------------------------------------------------


def shown(table: pa.Table, width: int | None = None, rows: int | None = None) -> tuple[str, Table]:
    sink = io.BytesIO()
    writer = Table(sink, table.schema, width=width, most_rows=rows)
    write_table(writer, table.to_batches(max_chunksize=2))
    return sink.getvalue().decode(), writer


def test_a_table_aligns_and_keeps_its_lines() -> None:
    table = pa.table({"name": ["a", "long name", "x\ny\x1b[31m", None], "n": [1, 200, -3, None]})
    assert shown(table)[0].splitlines() == [
        "name            n",
        "──────────────  ───".replace("──────────────  ───", "─" * 12 + "  ───"),
        "a               1",
        "long name     200",
        "x\\ny\\x1b[31m   -3",
        "",
    ]


def test_wide_characters_take_two_columns() -> None:
    lines = shown(pa.table({"a": ["漢字", "ab"], "b": ["x", "y"]}))[0].splitlines()
    assert lines[2:] == ["漢字  x", "ab    y"]


def test_a_terminal_gets_what_fits_and_is_told_so() -> None:
    table = pa.table({"a": ["x" * 100, "y"], "b": ["z" * 10, "w"]})
    text, writer = shown(table, width=40)
    assert max(map(len, text.splitlines())) <= 40
    assert "…" in text
    assert "z" * 10 in text, "the widest column gives way, not all of them"
    assert writer.is_cut
    assert "x" * 100 in shown(table)[0]


def test_rows_that_do_not_fit_at_all_become_paragraphs() -> None:
    table = pa.table({f"column{i}": ["a value that is long"] for i in range(12)})
    text, _ = shown(table, width=80)
    assert text.splitlines()[:2] == ["── 1 ──", "column0   a value that is long"]
    assert len(text.splitlines()) == 13


def test_a_terminal_gets_so_many_rows() -> None:
    table = pa.table({"n": range(10)})
    text, writer = shown(table, 80, 5)
    assert text.split() == ["n", "─", *map(str, range(5))]
    assert (writer.rows, writer.has_more) == (5, True)
    assert not shown(table, 80, 10)[1].has_more


def test_a_table_of_nothing_has_headings() -> None:
    assert shown(pa.table({"a": pa.array([], pa.int64())}))[0].splitlines() == ["a", "─"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    life = Life(tmp_path)
    life.tree.make(b"file", data=b"content")
    life.commit()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return Path(life.store.path)


def ask(store: Path, *args: str) -> int:
    return run(pond, "pond", ["--pond", str(store), "query", *args])


def test_piped_results_are_csv(store: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert ask(store, "SELECT 'a' AS x, 2 AS y") == 0
    assert capsysbinary.readouterr() == (b'"x","y"\n"a",2\n', b"")


def test_sql_from_a_file_and_from_stdin(
    store: Path,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "script.sql"
    script.write_text("-- two\nSELECT 1 AS a;\nSELECT 2 AS a; -- end\n")
    for args in (["-f", str(script)], ["-f", "-"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(script.read_bytes())))
        assert ask(store, *args, "--format", "ndjson") == 0
        assert capsysbinary.readouterr().out == b'{"a":1}\n\n{"a":2}\n'


@pytest.mark.parametrize("suffix", ["csv", "json", "ndjson", "parquet", "arrow", "txt"])
def test_a_file_gets_the_format_of_its_name(store: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "out" / f"rows.{suffix}"
    target.parent.mkdir()
    assert ask(store, "SELECT 42 AS n", "-o", str(target)) == 0
    assert list(target.parent.iterdir()) == [target], "what it was written as is left"
    data = target.read_bytes()
    match suffix:
        case "parquet":
            assert pq.read_table(target).to_pylist() == [{"n": 42}]
        case "arrow":
            assert pa.ipc.open_file(data).read_all().to_pylist() == [{"n": 42}]
        case _:
            assert b"42" in data
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_there_is_kept(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("mine")
    assert ask(store, "SELECT 1", "-o", str(target)) == 4
    assert "--force" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert ask(store, "SELECT 1 AS n", "-o", str(target), "--force") == 0
    assert target.read_text() == '"n"\n1\n'


def test_a_failed_query_leaves_no_file(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "old.csv").write_text("old")
    assert ask(store, "SELECT * FROM nowhere", "-o", str(directory / "new.csv")) == 1
    assert ask(store, "SELECT nothing", "-o", str(directory / "old.csv"), "--force") == 1
    assert [path.name for path in directory.iterdir()] == ["old.csv"]
    assert (directory / "old.csv").read_text() == "old"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "new"
    file = NewFile(target, force=False)
    file.sink.write(b"ours")
    target.write_text("theirs")
    with pytest.raises(PondExists):
        file.finish()
    file.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert target.read_text() == "theirs"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["SELECT 1", "-f", "-"], "not both"),
        (["SELECT 1", "--pending", "--at", "1"], "one of them"),
        (["SELECT 1", "--json", "--format", "csv"], "--json is --format json"),
        (["SELECT 1", "--force"], "--force"),
        (["SELECT 1", "--format", "csv", "--rows", "3"], "LIMIT"),
        (["SELECT 1", "-o", "strange.suffix"], "--format"),
        (["SELECT 1; SELECT 2", "--format", "parquet"], "one result only"),
        (["SELECT 1; SELECT 2", "-o", "x.csv"], "one result only"),
        ([" ; -- nothing"], "no SQL"),
        ([""], "no SQL"),
        ([], "no SQL"),
        (["DROP TABLE nodes"], "only reads"),
        (["COPY nodes TO '/tmp/x.csv'"], "only reads"),
        (["CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'"], "only reads"),
        (["SELEC"], "no SQL that pond understands"),
    ],
)
def test_what_is_refused(
    store: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    assert ask(store, *args) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_a_version_that_is_not(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(store, "SELECT 1", "--at", "99") == 10
    assert ask(store.parent / "nowhere", "SELECT 1") == 3
    assert capsys.readouterr().err.count("\n") == 2


def test_at_and_pending_without_a_mount(
    store: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert ask(store, "SELECT count(*) AS n FROM nodes", "--at", "1", "--json") == 0
    assert json.loads(capsysbinary.readouterr().out) == [{"n": 1}]
    assert ask(store, "SELECT name, pending FROM oplog_entries", "--pending", "--json") == 0
    rows = json.loads(capsysbinary.readouterr().out)
    assert {"name": "file", "pending": False} in rows


def test_explain_keeps_its_lines(store: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert ask(store, "EXPLAIN SELECT name FROM nodes WHERE size > 3", "--format", "table") == 0
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert lines[0] == "logical_plan:"
    assert "physical_plan:" in lines
    assert all(line.startswith("  ") for line in lines if not line.endswith(":"))


def test_a_long_result_needs_little_memory(store: Path, tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    target = tmp_path / "long.arrow"
    sql = "SELECT x, repeat('y', 100) AS y FROM generate_series(1, 300000) t(x)"
    assert ask(store, sql, "-o", str(target)) == 0
    assert pa.total_allocated_bytes() - before < 4 << 20
    with pa.memory_map(str(target)) as source:
        assert pc.sum(pa.ipc.open_file(source).read_all()["x"]).as_py() == 300_000 * 300_001 // 2
