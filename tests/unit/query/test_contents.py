"""Files of a pond as tables, against what pyarrow and Python wrote into them."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pondfs.errors import NoSuchPath, NoSuchVersion, PondError, UsageError
from pondfs.query import text
from pondfs.query.session import Session
from pondfs.store.tree import StoredTree
from tests.unit.store.support import DIRECTORY, SYMLINK
from tests.unit.store.test_changes import Life

ROWS = 20_000
TABLE = pa.table(
    {
        "n": pa.array(range(ROWS), pa.int64()),
        "x": pa.array([number / 4 for number in range(ROWS)]),
        "s": pa.array([f"text {number % 7}" if number % 5 else None for number in range(ROWS)]),
    }
)


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return sink.getvalue()


def csv(table: pa.Table, delimiter: str = ",") -> bytes:
    lines = [delimiter.join(table.column_names)]
    lines += [
        delimiter.join("" if v is None else str(v) for v in row.values())
        for row in table.to_pylist()
    ]
    return "\n".join(lines).encode() + b"\n"


def json_lines(table: pa.Table) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist())


def squeeze(codec: str) -> Callable[[bytes], bytes]:
    def arrows(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(data)
        result: bytes = sink.getvalue().to_pybytes()
        return result

    return arrows


SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": squeeze("zstd"),
    ".lz4": squeeze("lz4"),
}

WRITE: dict[str, Callable[[pa.Table], bytes]] = {
    "csv": csv,
    "tsv": lambda table: csv(table, "\t"),
    "parquet": lambda table: parquet(table, row_group_size=1000),
    "arrow": arrow,
    "arrows": lambda table: arrow(table, stream=True),
    "jsonl": json_lines,
}


class Pond:
    """A store to put files into, and to query."""

    def __init__(self, path: Path) -> None:
        self.life = Life(path)
        self.sessions: list[Session] = []

    def put(self, files: dict[str, bytes]) -> None:
        """Make or replace files, as one version."""
        tree = self.life.tree
        for path, data in files.items():
            whole = path.encode()
            parts = whole.split(b"/")
            for depth in range(1, len(parts)):
                above = b"/".join(parts[:depth])
                if above not in {name for name, _ in self.listed()}:
                    tree.make(above, DIRECTORY)
            if whole in {name for name, _ in self.listed()}:
                tree.write(whole, data)
            else:
                tree.make(whole, data=data)
        self.life.commit()

    def listed(self) -> list[tuple[bytes, Any]]:
        return list(self.life.tree.listing().items())

    def session(self, at: str | None = None) -> Session:
        self.sessions.append(Session(self.life.path, at=at))
        return self.sessions[-1]

    def ask(self, query: str, at: str | None = None) -> list[tuple[Any, ...]]:
        table = self.session(at).sql(query).table()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.fixture
def pond(tmp_path: Path) -> Iterator[Pond]:
    made = Pond(tmp_path / "store")
    yield made
    for session in made.sessions:
        session.close()
    made.life.store.close()


@pytest.mark.parametrize("codec", SQUEEZE)
@pytest.mark.parametrize("form", WRITE)
def test_every_format_and_compression_gives_the_rows(pond: Pond, form: str, codec: str) -> None:
    pond.put({f"d/Table.{form}{codec}": SQUEEZE[codec](WRITE[form](TABLE))})
    name = f"/d/Table.{form}{codec}"
    session = pond.session()
    assert session.sql(f"SELECT * FROM '{name}'").table().sort_by("n").equals(TABLE)
    (row,) = (
        session.sql(
            f"SELECT count(*) c, sum(x) x, count(s) s FROM read('{name}') "
            "WHERE n >= 100 AND s IS NULL"
        )
        .table()
        .to_pylist()
    )
    kept = [n for n in range(100, ROWS) if n % 5 == 0]
    assert row == {"c": len(kept), "x": sum(kept) / 4, "s": 0}
    assert pond.ask(f"SELECT count(*) FROM '{name}'") == [(ROWS,)]
    assert pond.ask(f"SELECT n FROM '{name}' ORDER BY n LIMIT 2") == [(0,), (1,)]


def test_paths_are_tables_like_any_other(pond: Pond) -> None:
    pond.put({"a.csv": b"id,v\n1,one\n2,two\n", "b c/it's.csv": b"id,w\n2,zwei\n3,drei\n"})
    joined = "SELECT a.v, b.w FROM '/a.csv' a JOIN '/b c/it''s.csv' AS b ON a.id = b.id"
    assert pond.ask(joined) == [("two", "zwei")]
    assert pond.ask("SELECT count(*) FROM '/a.csv', '/b c/it''s.csv' x") == [(4,)]
    assert pond.ask("SELECT v FROM \"/a.csv\" WHERE id IN (SELECT id FROM '/b c/it''s.csv')") == [
        ("two",)
    ]
    assert pond.ask("WITH t AS (SELECT * FROM '//./a.csv') SELECT max(id) FROM t") == [(2,)]


def test_any_version_is_read(pond: Pond) -> None:
    pond.put({"a.csv": b"v\n1\n"})
    pond.put({"a.csv": b"v\n2\n3\n"})
    assert pond.ask("SELECT sum(v) FROM '/a.csv'") == [(5,)]
    assert pond.ask("SELECT sum(v) FROM '/a.csv'", at="2") == [(1,)]
    both = "SELECT old.v, new.v FROM read('/a.csv', at => '2') old, read('/a.csv', AT=>3) new"
    assert sorted(pond.ask(both)) == [(1, 2), (1, 3)]
    with pytest.raises(NoSuchVersion):
        pond.ask("SELECT * FROM read('/a.csv', at => 9)")


def test_globs_are_one_table(pond: Pond) -> None:
    pond.put(
        {
            "s/a.csv": b"id,v\n1,1\n",
            "s/b.csv": b"v,id,more\n2.5,2,x\n",
            "s/deep/er/c.parquet": parquet(pa.table({"id": pa.array([3], pa.int8())})),
            "s/c.txt": b"not a table",
            "s/d.csv/inner": b"a directory that is called as a table",
            "t[1].csv": b"id\n9\n",
            "t1.csv": b"id\n10\n",
        }
    )
    query = "SELECT id, v, more, path FROM read('/s/*.csv', path => true) ORDER BY id"
    assert pond.ask(query) == [(1, 1.0, None, "/s/a.csv"), (2, 2.5, "x", "/s/b.csv")]
    assert pond.ask("SELECT id, v FROM read('/s/**/[abc].[cp]*') ORDER BY id") == [
        (1, 1.0), (2, 2.5), (3, None),
    ]  # fmt: skip
    assert pond.ask("SELECT sum(id) FROM read('/s/?.csv', '/t1.csv') WHERE v IS NULL") == [(10,)]
    # Filters on a column that one file lacks, has in another type, or that is not selected.
    assert pond.ask("SELECT id FROM '/s/**/?.[cp]*' WHERE v > 2") == [(2,)]
    assert pond.ask("SELECT id FROM '/s/**/*.parquet' WHERE id > 2") == [(3,)]
    assert pond.ask("SELECT path FROM read('/s/*.csv', path => true) WHERE path LIKE '%b.csv'") == [
        ("/s/b.csv",)
    ]
    # A name that looks like a glob is found as it is.
    assert pond.ask("SELECT id FROM '/t[1].csv'") == [(9,)]
    assert pond.ask("SELECT id FROM '/t[[]1].csv'") == [(9,)]
    with pytest.raises(NoSuchPath, match=r"has no file like '/s/\*.feather'"):
        pond.ask("SELECT * FROM '/s/*.feather'")


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_columns_may_have_any_name(pond: Pond, form: str) -> None:
    table = pa.table({'we"ird (x': [1, 2, 3], "Üñ.a": ["a", "b", None], "ok": [1.5, 2.5, 3.5]})
    data = {
        "csv": table.rename_columns(['"we""ird (x"', *table.column_names[1:]]),
    }.get(form, table)
    pond.put({f"odd.{form}": WRITE[form](data)})
    for where, expected in (
        ('"we""ird (x" >= 2 AND "Üñ.a" <> \'c\'', [2.5]),
        ("\"Üñ.a\" NOT IN ('b') AND \"Üñ.a\" LIKE 'a%'", [1.5]),
        ("\"Üñ.a\" NOT IN ('b')", [1.5]),
        ('"Üñ.a" IS NULL OR "we""ird (x" = 1', [1.5, 3.5]),
    ):
        query = f"SELECT ok FROM '/odd.{form}' WHERE {where} ORDER BY ok"
        assert [ok for (ok,) in pond.ask(query)] == expected


def test_types_that_differ_widen_or_are_named(pond: Pond) -> None:
    pond.put(
        {
            "int.parquet": parquet(
                pa.table({"v": pa.array([1, None], pa.int16()), "k": ["a", "b"]})
            ),
            "long.parquet": parquet(pa.table({"v": [1 << 40], "k": ["c"]})),
            "float.parquet": parquet(pa.table({"v": [0.5]})),
            "dict.arrow": arrow(pa.table({"k": pa.array(["d"]).dictionary_encode()})),
            "text.csv": b"v\nword\n",
            "big.parquet": parquet(pa.table({"v": [2**53 + 1]})),
        }
    )  # fmt: skip
    assert pond.ask(
        "SELECT sum(v), count(*), max(k) FROM read('/int.parquet', '/long.parquet')"
    ) == [((1 << 40) + 1, 3, "c")]
    query = (
        "SELECT sum(v), max(k) FROM read('/[ifl]*.parquet', '/dict.arrow') WHERE v < 2 OR k = 'd'"
    )
    assert pond.ask(query) == [(1.5, "d")]
    with pytest.raises(UsageError) as caught:
        pond.ask("SELECT * FROM read('/int.parquet', '/text.csv')")
    assert "'v' is int16 in '/int.parquet' and string in '/text.csv'" in str(caught.value)
    with pytest.raises(UsageError, match=r"column 'v' of '/big.parquet' is no double"):
        pond.ask("SELECT v FROM read('/float.parquet', '/big.parquet')")


# --- text -----------------------------------------------------------------------------------------


def test_a_type_holds_for_the_whole_file(pond: Pond, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CSV_BLOCK_BYTES", 1000)
    monkeypatch.setattr(text, "JSON_CHUNK_BYTES", 1000)
    count = 5000
    late = {"a": 'x,\n"y', "b": "0.5", "c": "7", "d": "2020-01-02T03:04:05", "e": "maybe"}
    rows = [
        {"a": str(n), "b": str(n), "c": "", "d": "2020-01-01", "e": "true"} for n in range(count)
    ]
    rows.append(late)
    quoted = [
        ",".join('"' + v.replace('"', '""') + '"' if v else "" for v in r.values()) for r in rows
    ]
    pond.put(
        {
            "late.csv": ("a,b,c,d,e\n" + "\n".join(quoted)).encode(),
            "late.json": b"".join(
                json.dumps(
                    {"a": n, "t": "2020-01-01 00:00:00", "o": {"p": n}}
                    if n < count
                    else {"a": 0.5, "t": "never", "new": [1], "o": {"q": "r"}}
                ).encode() + b"\n"
                for n in range(count + 1)
            ),
        }
    )  # fmt: skip
    session = pond.session()
    table = session.sql("SELECT * FROM '/late.csv'").table()
    types = [str(kind) for kind in table.schema.types]
    assert types == ["string", "double", "int64", "timestamp[s]", "string"]
    assert table.column("a").to_pylist() == [row["a"] for row in rows]
    assert table.column("b").to_pylist() == [float(row["b"]) for row in rows]
    assert table.column("c").to_pylist() == [None] * count + [7]
    assert table.column("e").to_pylist() == [row["e"] for row in rows]
    table = session.sql("SELECT * FROM '/late.json'").table()
    assert table.column("a").to_pylist() == [*range(count), 0.5]
    assert table.column("t").to_pylist()[-2:] == ["2020-01-01 00:00:00", "never"]
    assert table.column("new").to_pylist() == [None] * count + [[1]]
    assert table.column("o").to_pylist()[-2:] == [
        {"p": count - 1, "q": None}, {"p": None, "q": "r"},
    ]  # fmt: skip


def test_nothing_in_a_csv_is_lost(pond: Pond) -> None:
    pond.put(
        {
            "odd.csv": '﻿name,,name,v\nNA,1,"",007\n,"a\n\nb",null,\n'.encode(),
            "bare.csv": b"1;NA\n2;3\n",
            "latin.csv": "v\nfa\xe7ade\n".encode("latin-1"),
        }
    )
    table = pond.session().sql("SELECT * FROM '/odd.csv'").table()
    assert table.to_pylist() == [
        {"name": "NA", "column_2": "1", "name_1": "", "v": 7},
        {"name": None, "column_2": "a\n\nb", "name_1": "null", "v": None},
    ]
    assert pond.ask("SELECT v FROM read('/odd.csv', all_text => true)") == [("007",), (None,)]
    options = "header => false, delimiter => ';'"
    assert pond.ask(f"SELECT * FROM read('/bare.csv', {options})") == [(1, "NA"), (2, "3")]
    options += ", nulls => 'NA'"
    assert pond.ask(f"SELECT column_2 FROM read('/bare.csv', {options})") == [(None,), (3,)]
    with pytest.raises(UsageError, match="column 'v' is no UTF-8: say encoding"):
        pond.ask("SELECT * FROM '/latin.csv'")
    assert pond.ask("SELECT * FROM read('/latin.csv', encoding => 'latin-1')") == [("façade",)]


def test_the_name_need_not_say_the_format(pond: Pond) -> None:
    pond.put({"data": b"v\n1\n", "data.bin.gz": gzip.compress(b'{"v": 2}\n')})
    assert pond.ask("SELECT v FROM read('/data', format => 'csv')") == [(1,)]
    assert pond.ask("SELECT v FROM read('/data.bin.gz', format => 'json')") == [(2,)]
    with pytest.raises(UsageError, match=r"read\('/data', format => 'csv'\)"):
        pond.ask("SELECT * FROM '/data'")


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_only_what_is_needed_is_read(
    pond: Pond, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 1 << 20
    wide = pa.table({"n": pa.array(range(rows), pa.int64()), "w": pa.array(["w" * 40] * rows)})
    wide = wide.append_column("u", pa.array([n * 7919 % rows for n in range(rows)], pa.int32()))
    data = parquet(wide, row_group_size=rows // 64, compression="none", use_dictionary=False)
    pond.put({"wide." + form: data if form == "parquet" else arrow(wide)})
    read = 0
    store_open = StoredTree.open

    def counting(tree: StoredTree, path: bytes) -> Any:
        file = store_open(tree, path)
        plain = file.read_at

        def read_at(offset: int, target: memoryview) -> int:
            nonlocal read
            read += len(target)
            return plain(offset, target)

        monkeypatch.setattr(file, "read_at", read_at)
        return file

    monkeypatch.setattr(StoredTree, "open", counting)
    whole = rows * 52
    assert pond.ask(f"SELECT sum(u) FROM '/wide.{form}'") == [(rows * (rows - 1) // 2,)]
    assert rows * 4 < read < whole / 8
    if form == "parquet":
        read = 0
        query = (
            f"SELECT max(w) FROM '/wide.parquet' WHERE n BETWEEN {rows // 2} AND {rows // 2 + 9}"
        )
        assert pond.ask(query) == [("w" * 40,)]
        assert read < whole / 16
        read = 0
        assert pond.ask("SELECT count(*) FROM '/wide.parquet'") == [(rows,)]
        assert read < whole / 16


# --- what goes wrong ------------------------------------------------------------------------------

FULL = parquet(TABLE)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.csv", b"", "CSV: it is empty"),
        ("empty.parquet", b"", "Parquet: it is empty"),
        ("ragged.csv", b"a,b\n1,2\n3\n", "CSV: .*Expected 2 columns, got 1"),
        ("text.parquet", b"this is text" * 9, "Parquet: .*magic bytes"),
        ("cut.parquet", FULL[: len(FULL) // 2], "Parquet: "),
        ("cut.arrow", arrow(TABLE)[:-500], "Arrow: "),
        ("cut.arrows", arrow(TABLE, stream=True)[:-500], "Arrow: "),
        ("text.arrow", b"this is text" * 9, "Arrow: "),
        ("cut.csv.gz", gzip.compress(csv(TABLE))[:-900], r"CSV \(gzip\): "),
        ("cut.csv.bz2", bz2.compress(csv(TABLE))[:-900], r"CSV \(bz2\): "),
        ("cut.csv.xz", lzma.compress(csv(TABLE))[:-900], r"CSV \(xz\): "),
        ("cut.csv.zst", squeeze("zstd")(csv(TABLE))[:-900], r"CSV \(zstd\): "),
        ("cut.csv.lz4", squeeze("lz4")(csv(TABLE))[:-900], r"CSV \(lz4\): "),
        ("cut.parquet.gz", gzip.compress(FULL)[:-900], r"Parquet \(gzip\): "),
        ("plain.json.gz", json_lines(TABLE), r"JSON lines \(gzip\): "),
        ("bad.json", b'{"a": 1}\n{"a": \n', "JSON lines: from line 1 on"),
        ("array.json", b'[{"a": 1}]\n', "JSON lines: .*looks like one array"),
        ("mixed.json", b'{"a": 1}\n{"a": "x"}\n', "JSON lines: .*a"),
        ("blank.json", b"\n\n", "JSON lines: there is no object in it"),
    ],
)
def test_bad_files_are_one_clear_line(pond: Pond, name: str, data: bytes, says: str) -> None:
    pond.put({name: data})
    with pytest.raises(UsageError, match=f"^'/{name}' can't be read as {says}") as caught:
        pond.ask(f"SELECT * FROM '/{name}'")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("'/none.csv'", NoSuchPath, "has no '/none.csv'"),
        ("'/d'", UsageError, r"'/d' is a directory, not a file: its files are '/d/\*'"),
        ("'/'", UsageError, "is a directory"),
        ("'/out.csv'", UsageError, "symlink that leads out of .* to /etc/passwd"),
        ("'/loop.csv'", OSError, "Too many levels"),
        ("read('d/a.csv')", UsageError, "begins with '/'"),
        ("read('/d/a.csv', 3)", UsageError, "not 3"),
        ("read('/d/a.csv', colour => 'red')", UsageError, "knows no colour: it knows at,"),
        ("read('/d/a.csv', header => 'no')", UsageError, "header is true or false, not 'no'"),
        ("read('/d/a.csv', at => '2', at => '2')", UsageError, "two arguments at"),
        ("read('/d/a.csv', format => 'xls')", UsageError, "no format 'xls'"),
        ("read('/d/a.csv', delimiter => 'ab')", UsageError, "one ASCII character"),
        ("read('/d/a.csv', encoding => 'klingon')", UsageError, "no encoding 'klingon'"),
        ("read('/d/a.csv', path => 'v')", UsageError, "there is a column 'v'"),
        ("read()", UsageError, "takes a path"),
        ("read(at => '2')", UsageError, "takes a path"),
        # The host's files are not in the pond, whatever they are called.
        ("'/etc/passwd'", NoSuchPath, "has no '/etc'"),
        ("'file:///etc/passwd'", PondError, "no table"),
        ("read('/../../etc/passwd', format => 'csv')", NoSuchPath, "has no"),
        ("'/proc/self/fd/0'", NoSuchPath, "has no"),
    ],
)
def test_what_cannot_be_asked(pond: Pond, query: str, error: type[Exception], says: str) -> None:
    pond.put({"d/a.csv": b"v\n1\n"})
    pond.life.tree.make(b"out.csv", SYMLINK, data=b"/etc/passwd")
    pond.life.tree.make(b"loop.csv", SYMLINK, data=b"loop.csv")
    pond.life.commit()
    with pytest.raises(error, match=says):
        pond.ask(f"SELECT * FROM {query}")


def test_symlinks_within_the_pond_are_followed(pond: Pond) -> None:
    pond.put({"d/a.csv": b"v\n1\n"})
    for name, target in ((b"one.csv", b"d/a.csv"), (b"e", b"d"), (b"gone.csv", b"nowhere")):
        pond.life.tree.make(name, SYMLINK, data=target)
    pond.life.commit()
    assert pond.ask("SELECT v FROM '/one.csv'") == [(1,)]
    assert pond.ask("SELECT v FROM '/e/../e/*.csv'") == [(1,)]
    assert pond.ask("SELECT v FROM '/?/*.csv'") == [(1,), (1,)]
    with pytest.raises(NoSuchPath):
        pond.ask("SELECT v FROM '/gone.csv'")


def test_feather_is_arrow(pond: Pond) -> None:
    sink = io.BytesIO()
    feather.write_feather(TABLE, sink, compression="zstd")
    pond.put({"t.feather": sink.getvalue()})
    assert pond.session().sql("SELECT * FROM '/t.feather'").table().equals(TABLE)
