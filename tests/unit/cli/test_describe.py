"""``pond describe`` on a store."""

import gzip
import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.cli import pond
from pondfs.cli.run import run
from pondfs.oplog import Row
from pondfs.xattrs import encode_xattrs
from tests.unit.store.support import DIRECTORY, SYMLINK, attr
from tests.unit.store.test_changes import Life

Say = Callable[..., tuple[int, str, str]]

TABLE = pa.table({"n": pa.array([1, 2, 3], pa.int16()), "när\n": ["a", None, "c"]})


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def _arrow(*, stream: bool) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


@pytest.fixture
def say(
    tmp_path: Path, mount_table: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Say:
    del mount_table  # it is empty: nothing is mounted
    life = Life(tmp_path / "store")
    tree = life.tree
    tree.make(b"d", DIRECTORY)
    tree.make(b"d/t.csv", data=b"n,x\n1,0.5\n2,1\n")
    life.commit()
    tree.write(b"d/t.csv", b"n,x\n1,0.5\n2,1\n3,one\n")
    tree.make(b"d/t.parquet", data=_parquet())
    tree.make(b"d/t.arrow", data=_arrow(stream=False))
    tree.make(b"d/t.arrows.gz", data=gzip.compress(_arrow(stream=True)))
    tree.make(b"d/t.jsonl", data=b'{"n": 1}\n\n{"n": 2.5}\n')
    tree.make(b"d/bad.csv", data=b"a,b\n1\n")
    tree.make(b"plain", data=b"x" * 2048)
    tree.make(b"soft", SYMLINK, data=b"d/t.csv")
    tree.make(b"null", stat.S_IFCHR | 0o666)
    noted = tree.make(b"odd\n\xff")
    xattrs = encode_xattrs({b"user.a": b"\0\xff"})
    tree.rows.append(Row("update", 5, 1, noted, attr()[0], attr=attr(), metadata=xattrs))
    life.commit()
    life.store.close()

    def say(*args: str) -> tuple[int, str, str]:
        code = run(pond, "pond", ["--pond", str(life.path), "describe", *args])
        told = capsys.readouterr()
        return code, told.out, told.err

    return say


def one(say: Say, *args: str) -> dict[str, Any]:
    code, out, err = say("--json", *args)
    assert (code, err) == (0, "")
    (found,) = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_all_there_is_to_say_as_json(say: Say) -> None:
    found = one(say, "/d/t.csv")
    inode = found.pop("inode")
    assert isinstance(inode, int)
    assert found == {
        "path": "d/t.csv",
        "type": "file",
        "mode": 0o644,
        "uid": 1000,
        "gid": 100,
        "nlink": 1,
        "size": 20,
        "allocated": 20,
        "atime": "2001-09-09T01:46:40.000000Z",
        "mtime": "2001-09-09T01:46:40.000000Z",
        "ctime": "2001-09-09T01:46:40.000000Z",
        "target": None,
        "device": None,
        "xattrs": {},
        "versions": {"count": 2, "first": 2, "last": 3},
        "table": {
            "format": "csv",
            "compression": None,
            "rows": 3,
            "columns": [{"name": "n", "type": "int64"}, {"name": "x", "type": "string"}],
        },
        "trouble": None,
    }


def test_as_it_was(say: Say) -> None:
    found = one(say, "/d/t.csv", "--at", "2")
    assert found["table"]["rows"] == 2
    assert found["table"]["columns"][1] == {"name": "x", "type": "double"}
    assert found["versions"] == {"count": 1, "first": 2, "last": 2}


@pytest.mark.parametrize(
    ("name", "form", "codec", "rows", "types"),
    [
        ("t.parquet", "parquet", None, 3, ["int16", "string"]),
        ("t.arrow", "arrow", None, 3, ["int16", "string"]),
        ("t.arrows.gz", "arrow", "gzip", 3, ["int16", "string"]),
        ("t.jsonl", "json", None, 2, ["double"]),
    ],
)
def test_every_kind_of_table(
    say: Say, name: str, form: str, codec: str | None, rows: int, types: list[str]
) -> None:
    table = one(say, f"d/{name}")["table"]
    assert (table["format"], table["compression"], table["rows"]) == (form, codec, rows)
    assert [column["type"] for column in table["columns"]] == types
    assert table["columns"][0]["name"] == "n"


def test_what_is_no_table(say: Say) -> None:
    assert one(say, "plain")["table"] is None
    link = one(say, "soft")
    assert (link["type"], link["target"], link["table"]) == ("symlink", "d/t.csv", None)
    assert one(say, "null")["device"] == "0:0"
    assert one(say, "d")["type"] == "directory"
    root = one(say, "/")
    assert (root["path"], root["versions"]) == ("", {"count": 3, "first": 1, "last": 3})
    assert one(say, "od*")["xattrs"] == {"user.a": "AP8="}


def test_for_people(say: Say) -> None:
    code, out, _ = say("d/t.parquet", "plain", "soft", "od*")
    assert code == 0
    table, plain, soft, odd = out.split("\n\npath ")
    lines = dict(line.split(None, 1) for line in table.splitlines() if line)
    assert lines["path"] == "/d/t.parquet"
    assert lines["mode"] == "-rw-r--r-- (0644)"
    assert lines["versions"] == "1, version 3"
    assert lines["rows"] == "3"
    assert (lines["COLUMN"], lines["n"], lines["när\\n"]) == ("TYPE", "int16", "string")
    assert "2.0 KiB (2,048 bytes)" in plain
    assert "soft -> d/t.csv" in soft
    assert "odd\\n\\xff" in odd
    assert "user.a = \\x00\\xff" in odd


def test_a_broken_table_is_described_all_the_same(say: Say) -> None:
    code, out, _ = say("--json", "d/bad.csv", "plain")
    assert code == 1
    bad, plain = json.loads(out)
    assert bad["table"] is None
    assert bad["trouble"].startswith("'/d/bad.csv' can't be read as CSV: ")
    assert plain["trouble"] is None
    assert "trouble    '/d/bad.csv' can't be read" in say("d/bad.csv")[1]


def test_what_is_not_there(say: Say) -> None:
    assert say("none")[0] == 11
    assert say("d/t.csv", "--at", "9")[0] == 10
    assert say("x*")[0] == 11
