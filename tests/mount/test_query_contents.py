"""Files of a mounted pond as tables: as they are now, pending included, and as they were."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pondfs.errors import NoSuchPath, UsageError
from pondfs.query.session import Session
from tests.mount.harness import PondMount


def ask(pond: PondMount, query: str) -> list[tuple[Any, ...]]:
    with Session(pond.store, live=pond.mnt) as session:
        table = session.sql(query).table()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def test_what_is_pending_is_read_and_what_was_before(pond: PondMount) -> None:
    (pond.mnt / "s").mkdir()
    (pond.mnt / "s/a.csv").write_text("id,v\n1,1\n2,2\n")
    pq.write_table(pa.table({"id": range(100_000)}), pond.mnt / "s/b.parquet", row_group_size=1000)
    pond.commit("one")
    version = pond.log()[0]["version"]
    (pond.mnt / "s/a.csv").write_text("id,v\n1,1.5\n2,2\n3,3\n")
    (pond.mnt / "s/new.jsonl").write_text('{"id": 7}\n')
    assert ask(pond, "SELECT sum(v) FROM '/s/a.csv'") == [(6.5,)]
    query = f"SELECT old.v, now.v FROM '/s/a.csv' now JOIN read('/s/a.csv', at => {version}) old"
    assert ask(pond, query + " USING (id) ORDER BY id") == [(1, 1.5), (2, 2.0)]
    assert ask(pond, "SELECT count(*), max(id), max(v) FROM '/s/*'") == [(100_004, 99_999, 3.0)]
    before = ask(pond, "SELECT * FROM '/s/*.[cj]s*' ORDER BY id, v")
    pond.commit("two")
    assert ask(pond, "SELECT * FROM '/s/*.[cj]s*' ORDER BY id, v") == before
    pond.umount()
    with Session(pond.store) as session:
        table = session.sql("SELECT * FROM '/s/*.[cj]s*' ORDER BY id, v").table()
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == before


def test_nothing_of_the_host_is_reached(pond: PondMount, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("v\nsecret\n")
    (pond.mnt / "in.csv").write_text("v\n1\n")
    (pond.mnt / "abs.csv").symlink_to(pond.mnt / "in.csv")
    (pond.mnt / "out.csv").symlink_to(secret)
    (pond.mnt / "up.csv").symlink_to(os.path.relpath(secret, pond.mnt))
    (pond.mnt / "dir").symlink_to(tmp_path)
    assert ask(pond, "SELECT v FROM '/abs.csv'") == [(1,)]
    for path in ("/out.csv", "/dir/secret.csv", "/dir/*.csv"):
        with pytest.raises(UsageError, match="leads out of the pond"):
            ask(pond, f"SELECT * FROM '{path}'")
    for path in ("/up.csv", str(secret), f"/..{secret}"):
        with pytest.raises(NoSuchPath):
            ask(pond, f"SELECT * FROM '{path}'")


def test_describe_tells_what_is_pending(pond: PondMount) -> None:
    (pond.mnt / "a.csv").write_text("id,v\n1,1\n")
    (first,) = json.loads(pond.pond("describe", "--json", "a.csv").stdout)
    assert (first["table"]["rows"], first["versions"]["count"]) == (1, 0)
    pond.commit("one")
    (pond.mnt / "a.csv").write_text("id,v\n1,1\n2,x\n")
    (now,) = json.loads(pond.pond("describe", "--json", "a.csv").stdout)
    version = pond.log()[0]["version"]
    assert now["versions"] == {"count": 1, "first": version, "last": version}
    assert (now["table"]["rows"], now["table"]["columns"][1]["type"]) == (2, "string")
    (was,) = json.loads(pond.pond("describe", "--json", "a.csv", "--at", str(version)).stdout)
    assert (was["table"]["rows"], was["size"]) == (1, 9)
    os.mkfifo(pond.mnt / "fifo.csv")
    (pipe,) = json.loads(pond.pond("describe", "--json", "fifo.csv").stdout)
    assert (pipe["type"], pipe["table"]) == ("fifo", None)
    with pytest.raises(UsageError, match=r"'/fifo\.csv' is a fifo"):
        ask(pond, "SELECT * FROM '/fifo.csv'")
