"""What people read and write tables with, over ``pond://``: for a pond, mounted or not.

Whoever runs it gives the fixtures ``pond_fs`` and ``options``, the storage options for it.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pondfs.api.fs import PondFileSystem

ROWS = {"sensor": ["a", "b", "a"], "value": [1.5, 2.0, -3.25]}

Options = dict[str, Any]


class ReaderTests:
    def test_pandas(self, pond_fs: PondFileSystem, options: Options) -> None:
        frame = pd.DataFrame(ROWS)
        pond_fs.mkdir("/sensors")
        frame.to_csv("pond:///sensors/a.csv", index=False, storage_options=options)
        assert pond_fs.cat("/sensors/a.csv").startswith(b"sensor,value\na,1.5\n")
        back = pd.read_csv("pond:///sensors/a.csv", storage_options=options)
        pd.testing.assert_frame_equal(back, frame)
        frame.to_csv("pond:///sensors/a.csv.gz", index=False, storage_options=options)
        back = pd.read_csv("pond:///sensors/a.csv.gz", storage_options=options)
        pd.testing.assert_frame_equal(back, frame)
        frame.to_parquet("pond:///sensors/a.parquet", storage_options=options)
        back = pd.read_parquet("pond:///sensors/a.parquet", storage_options=options)
        pd.testing.assert_frame_equal(back, frame)

    def test_pandas_reads_an_old_version(self, pond_fs: PondFileSystem, options: Options) -> None:
        pd.DataFrame(ROWS).to_csv("pond:///a.csv", storage_options=options)
        pond_fs.commit()
        at = pond_fs.pond.version
        pd.DataFrame({"x": [1]}).to_csv("pond:///a.csv", storage_options=options)
        old = pd.read_csv("pond:///a.csv", storage_options={**options, "at": at}, index_col=0)
        pd.testing.assert_frame_equal(old, pd.DataFrame(ROWS))

    def test_polars(self, pond_fs: PondFileSystem, options: Options) -> None:
        # Its own reader of URLs knows no schemes but its own; pyarrow's does.
        frame = pl.DataFrame(ROWS)
        frame.write_parquet("/a.parquet", use_pyarrow=True, pyarrow_options={"filesystem": pond_fs})
        found = pl.read_parquet("pond:///a.parquet", use_pyarrow=True, storage_options=options)
        assert found.equals(frame)
        pond_fs.pipe_file("/a.csv", b"n\n1\n2\n")
        found = pl.read_csv("pond:///a.csv", use_pyarrow=True, storage_options=options)
        assert found.to_dict(as_series=False) == {"n": [1, 2]}
        lazy = pl.scan_pyarrow_dataset(ds.dataset("/a.parquet", filesystem=pond_fs))
        assert lazy.filter(pl.col("value") > 0).collect().height == 2

    def test_polars_with_files(self, pond_fs: PondFileSystem) -> None:
        frame = pl.DataFrame(ROWS)
        for write, read, name in (
            (frame.write_csv, pl.read_csv, "/a.csv"),
            (frame.write_parquet, pl.read_parquet, "/a.parquet"),
            (frame.write_ipc, pl.read_ipc, "/a.arrow"),
            (frame.write_ndjson, pl.read_ndjson, "/a.ndjson"),
        ):
            with pond_fs.open(name, "wb") as file:
                write(file)
            with pond_fs.open(name, "rb") as file:
                assert read(file).equals(frame)

    def test_duckdb(self, pond_fs: PondFileSystem) -> None:
        with duckdb.connect() as connection:
            connection.register_filesystem(pond_fs)
            connection.execute("CREATE TABLE t AS SELECT range AS n, n % 7 AS k FROM range(10000)")
            pond_fs.mkdir("/out")
            for name in ("/out/t.csv", "/out/t.parquet"):
                connection.execute(f"COPY t TO 'pond://{name}'")
                found = connection.sql(f"SELECT count(*), sum(n) FROM 'pond://{name}'").fetchall()
                assert found == [(10000, 49995000)]
            connection.execute("COPY t TO 'pond:///parts' (FORMAT parquet, PARTITION_BY (k))")
            found = connection.sql(
                "SELECT count(*), count(DISTINCT k) FROM read_parquet('pond:///parts/*/*.parquet')"
            ).fetchall()
            assert found == [(10000, 7)]
        assert len(pond_fs.glob("/parts/k=*/*.parquet")) == 7

    def test_pyarrow_dataset(self, pond_fs: PondFileSystem) -> None:
        table = pa.table(ROWS)
        ds.write_dataset(
            table, "/data", filesystem=pond_fs, format="parquet", partitioning=["sensor"]
        )
        assert len(pond_fs.find("/data")) == 2
        data = ds.dataset("/data", filesystem=pond_fs, partitioning=["sensor"])
        only_a = data.to_table(filter=ds.field("sensor") == "a")
        assert sorted(only_a.column("value").to_pylist()) == [-3.25, 1.5]

    def test_pyarrow_dataset_in_a_transaction(self, pond_fs: PondFileSystem) -> None:
        pond_fs.commit()
        before = pond_fs.pond.version
        table = pa.table({"k": [n % 5 for n in range(1000)], "n": range(1000)})
        with pond_fs.transaction:
            ds.write_dataset(
                table, "/data", filesystem=pond_fs, format="parquet", partitioning=["k"]
            )
        assert pond_fs.pond.version == before + 1
        assert ds.dataset("/data", filesystem=pond_fs).count_rows() == 1000

    def test_pyarrow_parquet(self, pond_fs: PondFileSystem) -> None:
        table = pa.table({"n": range(100_000)})
        pq.write_table(table, "/t.parquet", filesystem=pond_fs)
        assert pq.read_table("/t.parquet", filesystem=pond_fs).equals(table)
