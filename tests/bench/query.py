"""What SQL costs, from the start of the process to its end: over a large tree, over a large file.

Only a pond has the tables, so other targets have no figures here. The tree is written by commits to
the store: through a mount a million files would take minutes.
"""

from __future__ import annotations

import json
import random
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pondfs.extent import Content
from pondfs.node import ROOT
from pondfs.oplog import AttrRow, Cut, Row, Summary
from pondfs.store import DeltaStore, create, open_writer
from tests.bench.targets import Pond
from tests.bench.workloads import Figures, Place, seconds
from tests.mount import harness

QUERY_ROWS = ("query_sum", "query_history", "query_oplog")
READ_ROWS = ("read_ext4", "read_unmounted", "read_mounted", "read_ratio", "read_mounted_ratio")

FILES_PER_DIRECTORY = 50
FILES_PER_VERSION = 50_000
SMALL_VERSIONS = 300
RUNS = 5

PARQUET_BYTES = 100 << 20
_ROW_BYTES = 28  # what a row of the file below takes in Parquet, measured
_GROUP_ROWS = 1 << 18
_QUERY = "SELECT kind, count(*) AS n, sum(a) AS a, avg(b) AS b FROM {} GROUP BY kind ORDER BY kind"

_NATIVE = """
import sys
class NoPandas:  # as pond: only importing it would take a third of the time
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NoPandas())
import datafusion
context = datafusion.SessionContext()
context.register_parquet("t", sys.argv[1])
print(context.sql(sys.argv[2]).to_pydict())
"""


def query(place: Place) -> Figures:
    """Ask a pond of a million files, which nobody has mounted, what people ask."""
    if not isinstance(place.target, Pond):
        return {}
    pond = Pond(place.target.base / "query")
    Tree(pond.store, place.count(1_000_000, 2000)).build()
    try:
        sums = [
            _timed(pond, "SELECT count(*) AS n, sum(size) AS bytes FROM nodes") for _ in range(RUNS)
        ]
        lives = [_timed(pond, f"SELECT * FROM history('{HOT}')") for _ in range(RUNS)]
        oplog = [
            _timed(pond, "SELECT op, count(*) AS n FROM oplog GROUP BY op") for _ in range(RUNS)
        ]
    finally:
        pond.close()
    return {
        "query_sum": median(sums),
        "query_history": median(lives) * 1e3,
        "query_oplog": median(oplog),
    }


def read(place: Place) -> Figures:
    """Aggregate a Parquet file: DataFusion from ext4, then pond from the pond, in turn."""
    if not isinstance(place.target, Pond):
        return {}
    pond = Pond(place.target.base / "read")
    pond.open()
    try:
        source = pond.base / "t.parquet"
        _write_parquet(source, place.count(PARQUET_BYTES, 1 << 20) // _ROW_BYTES)
        harness.run(["cp", source, pond.root / "t.parquet"])
        pond.settle()
        pond.unmount()
        native = (sys.executable, "-c", _NATIVE, str(source), _QUERY.format("t"))
        asked = ("query", "--format", "json", _QUERY.format("read('/t.parquet')"))
        taken: dict[str, list[float]] = {name: [] for name in READ_ROWS[:3]}
        for _ in range(RUNS):
            taken["read_ext4"].append(seconds(harness.run, native))
            taken["read_unmounted"].append(seconds(pond.pond, *asked))
        pond.mount()
        for _ in range(RUNS):
            taken["read_mounted"].append(seconds(pond.pond, *asked))
    finally:
        pond.close()
    figures = {name: median(each) for name, each in taken.items()}
    return {
        **figures,
        "read_ratio": figures["read_unmounted"] / figures["read_ext4"],
        "read_mounted_ratio": figures["read_mounted"] / figures["read_ext4"],
    }


def _timed(pond: Pond, sql: str) -> float:
    started = time.perf_counter()
    answer = pond.pond("query", "--format", "json", sql)
    taken = time.perf_counter() - started
    assert json.loads(answer), sql
    return taken


def _write_parquet(path: Path, rows: int) -> None:
    dice = np.random.default_rng(7)
    schema = pa.schema(
        [("a", pa.int64()), ("b", pa.float64()), ("kind", pa.string()), ("t", pa.int64())]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _GROUP_ROWS):
            count = min(_GROUP_ROWS, rows - start)
            kind = dice.integers(0, 16, count)
            table = pa.table(
                {
                    "a": dice.integers(0, 1 << 62, count),
                    "b": dice.random(count),
                    "kind": pa.array(kind).cast(pa.string()),
                    "t": np.arange(start, start + count) + dice.integers(0, 1 << 40, count),
                },
                schema,
            )
            writer.write_table(table)


# --- a large tree ---------------------------------------------------------------------------------

HOT = "/dir00000/file0000000"
"""A file that some of the later versions changed."""

_FILE = stat.S_IFREG | 0o644
_DIRECTORY = stat.S_IFDIR | 0o755


class Tree:
    """A pond of many files, made by a few large versions and some small ones."""

    def __init__(self, store: Path, files: int) -> None:
        self._path = store
        self._files = files
        self._dice = random.Random(40)
        # Random numbers, as all nodes have, but for the hot file's.
        self._directories = [
            self._dice.randrange(2, 1 << 62) for _ in range(-(-files // FILES_PER_DIRECTORY))
        ]
        self._hot = self._dice.randrange(2, 1 << 62)
        self._version = 1

    def build(self, tell: Callable[[int], object] = lambda files: None) -> None:
        """Make it, where nothing is yet. *tell* hears how many files more there are."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        create(self._path)
        store = open_writer(self._path, mountpoint="", socket="")
        try:
            for start in range(0, self._files, FILES_PER_VERSION):
                stop = min(start + FILES_PER_VERSION, self._files)
                self._commit(store, list(self._made(start, stop)))
                tell(stop - start)
            for number in range(min(SMALL_VERSIONS, self._files // 10)):
                self._commit(store, self._changed(number))
        finally:
            store.close()

    def _commit(self, store: DeltaStore, rows: list[Row]) -> None:
        self._version += 1
        summary = Summary(message="made", operations=len(rows))
        store.commit(Cut(self._version, time.time_ns(), rows, summary))  # type: ignore[arg-type]

    def _made(self, start: int, stop: int) -> Iterator[Row]:
        now = time.time_ns()
        for number in range(start, stop):
            place, in_it = divmod(number, FILES_PER_DIRECTORY)
            directory = self._directories[place]
            if not in_it:
                name = b"dir%05d" % place
                yield Row("create", now, ROOT, directory, _DIRECTORY, name)
                attr = self._attr(_DIRECTORY, 0, now)
                yield Row("create", now, directory, directory, _DIRECTORY, attr=attr)
            node = self._hot if number == 0 else self._dice.randrange(2, 1 << 62)
            yield self._file(directory, node, b"file%07d" % number, now)

    def _changed(self, number: int) -> list[Row]:
        """A tenth of these versions is about the hot file, all bring a new one."""
        now = time.time_ns()
        directory = self._dice.choice(self._directories)
        rows = [self._file(directory, self._dice.randrange(2, 1 << 62), b"new%05d" % number, now)]
        if number % 10 == 0:
            rows.append(self._file(self._directories[0], self._hot, None, now))
        return rows

    def _file(self, directory: int, node: int, name: bytes | None, now: int) -> Row:
        data = self._dice.randbytes(self._dice.randrange(64))
        op = "update" if name is None else "create"
        content = Content(data, len(data)) if data else None
        return Row(
            op, now, directory, node, _FILE, name, attr=self._attr(_FILE, len(data), now),
            valid_below=0 if name is None else None,
            offset=0 if data else None, content=content,
        )  # fmt: skip

    def _attr(self, mode: int, size: int, now: int) -> AttrRow:
        links = 2 if stat.S_ISDIR(mode) else 1
        return mode, 1000, 100, links, 0, size, now, now, now
