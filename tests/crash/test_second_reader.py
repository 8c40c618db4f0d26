"""Two engines that know nothing of pondfs rebuild the tree from the Delta table, bit for bit."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.crash import delta_log
from tests.crash.second_reader import (
    Tree,
    assert_equivalent,
    assert_same,
    bytes_at,
    fold_by_dataframe,
    fold_by_sql,
)
from tests.mount.harness import PondMount

FOLDER, FILE = "00000000000000aa", "00000000000000bb"
MIB = 1 << 20

# A table by hand: (version, seq, part, node, name, removed, mode, size, valid_below, offset,
# content). Everything not given is null or 0.
HANDMADE = [
    (1, 0, f"{1:016x}", f"{1:016x}", None, False, 0o755, 0, None, None, b""),
    (1, 1, f"{1:016x}", FOLDER, b"dir", False, None, None, None, None, b""),
    (1, 2, FOLDER, FOLDER, None, False, 0o700, 0, None, None, b""),
    (2, 0, FOLDER, FILE, b"old", False, 0o644, 8, None, 0, b"ABCDEFGH"),
    # truncated to 6, to 3, and then grown to 12 again with "xy" at 4: "ABC\0xy" and 6 zeros
    (3, 0, FOLDER, FILE, None, False, 0o644, 6, 6, None, b""),
    (4, 0, FOLDER, FILE, None, False, 0o644, 12, 3, 4, b"xy"),
    # an extent of the same version that stands before the row that cuts loses too
    (5, 0, FOLDER, FILE, None, False, None, None, None, 10, b"ZZ"),
    (5, 1, FOLDER, FILE, None, False, 0o600, 12, 11, None, b""),
    # renamed to a name that is not UTF-8; and a name used again after its tombstone
    (6, 0, FOLDER, FILE, b"old", True, None, None, None, None, b""),
    (6, 1, FOLDER, FILE, b"new\xff", False, None, None, None, None, b""),
]
EXPECTED = b"ABC\0xy\0\0\0\0Z\0"


def handmade_rows() -> pl.DataFrame:
    """Return HANDMADE in the table's columns, shuffled: the order is in version and seq alone."""
    records = []
    for version, seq, part, node, name, removed, mode, size, below, offset, content in HANDMADE:
        text, raw = (None, name) if name and b"\xff" in name else (name and name.decode(), None)
        records.append(
            {"version": version, "seq": seq, "part_id": part, "node_id": node}
            | {"name": text, "name_bytes": raw, "removed": removed, "mode": mode, "size": size}
            | {"file_type": "file" if node == FILE else "directory", "valid_below": below}
            | {"offset": offset, "content": content, "length": len(content) or None}
            | dict.fromkeys(["uid", "gid", "nlink", "rdev", "mtime_ns"], 0)
        )
    random.Random(1).shuffle(records)
    schema = {"valid_below": pl.Int64, "offset": pl.Int64, "length": pl.Int64, "mode": pl.Int32}
    return pl.DataFrame(records, schema_overrides=schema)


@pytest.mark.parametrize("engine", ["sql", "dataframe"])
def test_the_folds_read_the_table_as_it_is_meant(tmp_path: Path, engine: str) -> None:
    """On a table made by hand, so that a fold and pondfs cannot agree on the same mistake."""
    rows = handmade_rows()
    half = tmp_path / "a.parquet", tmp_path / "b.parquet"
    rows[::2].write_parquet(half[0])
    rows[1::2].write_parquet(half[1])
    tree = fold_by_sql(half) if engine == "sql" else fold_by_dataframe(rows)
    assert sorted(tree.nodes) == [b"", b"dir", b"dir/new\xff"]
    file = tree.nodes[b"dir/new\xff"]
    assert (file.file_type, file.mode, file.size, file.ino) == ("file", 0o600, 12, 0xBB)
    assert bytes_at(tree.extents[0xBB], 0, 12) == EXPECTED


def live(root: Path, remount: Callable[[], object]) -> None:
    """Give the tree a life of many commits, with every way a file's bytes can change."""
    rng = random.Random(7)
    root.chmod(0o755)
    _make_everything(root, rng)
    remount()
    _change_bytes(root, rng)
    _sync(root)
    _change_names(root)
    _sync(root / "moved")
    _change_bytes_again(root, rng)
    _write_much_twice(root, rng)


def _make_everything(mnt: Path, rng: random.Random) -> None:
    for folder in ("a", "a/b", "a/b/c", "empty", "doomed"):
        (mnt / folder).mkdir()
    for number in range(200):
        (mnt / "a" / f"small{number}").write_bytes(rng.randbytes(rng.randrange(3000)))
        (mnt / "doomed" / f"file{number}").write_bytes(b"doomed")
    (mnt / "large").write_bytes(rng.randbytes(20 * MIB))
    with (mnt / "sparse").open("wb") as sparse:  # 3 TiB with bytes at three places
        for offset in (5, 7 << 30, (3 << 40) - 100):
            sparse.seek(offset)
            sparse.write(rng.randbytes(100))
    for name in ("cut", "grown", "reborn", "patched", "edges"):
        # As most files are, they can be compressed.
        (mnt / name).write_bytes((rng.randbytes(5000) * 700)[: 3 * MIB + 17])
    _sync(mnt)
    for raw in (b"latin-\xe9", b"\xff\xfe", b"new\nline", "schön".encode(), b"x" * 255):
        (mnt / "a" / os.fsdecode(raw)).write_bytes(raw)
    (mnt / "a" / os.fsdecode(b"dir-\xe9")).mkdir()
    (mnt / "a" / os.fsdecode(b"dir-\xe9") / "inside").write_bytes(b"inside")
    (mnt / "link").symlink_to("a/b/../small1")
    (mnt / "dangling").symlink_to(os.fsdecode(b"\xc3(") + "/" + "n" * 200)
    os.link(mnt / "a" / "small2", mnt / "a" / "b" / "hard")
    os.link(mnt / "large", mnt / "empty" / "large too")
    os.mkfifo(mnt / "fifo", 0o640)
    os.mknod(mnt / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(mnt / "socket", 0o755 | stat.S_IFSOCK)


def _change_bytes(mnt: Path, rng: random.Random) -> None:
    os.truncate(mnt / "cut", 100_001)
    os.truncate(mnt / "grown", 9 * MIB)
    os.truncate(mnt / "reborn", 0)
    _patch(mnt / "reborn", 50, rng.randbytes(9))  # the old bytes 0 to 49 must not come back
    _patch(mnt / "sparse", 7 << 30, rng.randbytes(50))
    for _ in range(30):
        _patch(mnt / "patched", rng.randrange(3 * MIB), rng.randbytes(rng.randrange(1, 9000)))
    for offset in (4095, 4096, 8191, 128 * 1024 - 1, MIB - 1, MIB, 3 * MIB + 16):
        _patch(mnt / "edges", offset, rng.randbytes(2))
    for number in range(0, 200, 3):
        (mnt / "a" / f"small{number}").write_bytes(rng.randbytes(rng.randrange(3000)))


def _change_names(mnt: Path) -> None:
    (mnt / "a" / "b").rename(mnt / "moved")
    (mnt / "a" / "small4").rename(mnt / "moved" / "small4")
    (mnt / "a" / "small5").rename(mnt / "a" / "small7")
    (mnt / "moved" / "hard").rename(mnt / "moved" / "harder")
    (mnt / "a" / "small2").unlink()
    (mnt / "a" / os.fsdecode(b"latin-\xe9")).rename(mnt / "a" / "latin")
    (mnt / "a" / "small8").rename(mnt / "a" / os.fsdecode(b"small\x80"))
    for number in range(200):
        (mnt / "doomed" / f"file{number}").unlink()
    (mnt / "doomed").rmdir()
    (mnt / "doomed").write_bytes(b"a file where a directory was")


def _change_bytes_again(mnt: Path, rng: random.Random) -> None:
    os.truncate(mnt / "cut", 0)
    os.truncate(mnt / "cut", 2 * MIB)
    _patch(mnt / "cut", 70_000, rng.randbytes(10))
    os.truncate(mnt / "grown", 3 * MIB)
    os.truncate(mnt / "grown", 4 * MIB)
    os.truncate(mnt / "sparse", 6 << 30)
    os.truncate(mnt / "sparse", 8 << 30)
    with (mnt / "reborn").open("r+b") as file:  # several truncations within one version
        for size in (40, 900, 20, 700):
            file.truncate(size)
            file.seek(size - 5)
            file.write(rng.randbytes(9))
            file.flush()
    (mnt / "moved").chmod(0o2751)
    (mnt / "large").chmod(0o4711)
    os.chown(mnt / "moved" / "small4", 1234, 5678)
    os.utime(mnt / "link", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(mnt / "fifo", ns=(5, -6_000_000_007))


def _write_much_twice(mnt: Path, rng: random.Random) -> None:
    """Truncate between two bursts larger than what the daemon holds in memory.

    Both bursts are staged for the same version; of the first only what the truncation left counts.
    """
    block = rng.randbytes(MIB)
    with (mnt / "burst").open("wb", buffering=0) as file:
        for number in range(80):
            file.write(number.to_bytes(8, "big") + block[8:])
        file.truncate(5 * MIB + 3)
        file.seek(60 * MIB)
        for number in range(80, 120):
            file.write(number.to_bytes(8, "big") + block[8:])


def _patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fold_by_every_engine(store: Path) -> dict[str, Tree]:
    """Read the table in three ways: DuckDB, Polars over Delta, plain pyarrow over the files."""
    files = delta_log.data_files(store)
    plain = ds.dataset([str(path) for path in files], format="parquet").to_table()
    rows = pl.read_delta(str(store))
    assert rows.height == plain.num_rows, "Polars and pyarrow see different numbers of rows"
    assert rows.select("version", "seq").is_unique().all(), "(version, seq) is no total order"
    return {
        "DuckDB": fold_by_sql(files),
        "Polars": fold_by_dataframe(rows),
        "pyarrow": fold_by_dataframe(pl.from_arrow(plain)),  # type: ignore[arg-type] # a frame
    }


def test_other_engines_see_the_same_tree(pond_unmounted: PondMount, tmp_path: Path) -> None:
    """Names, types, inode numbers, modes, owners, link counts, times, sizes and bytes.

    Compared with the mounted tree, and with what the same program made of an ordinary directory:
    the mount reads the table too, so what the table lacks both would lack.
    """
    pond = pond_unmounted.mount("commit=3600")
    live(pond.mnt, pond.remount)
    twin = tmp_path / "twin"
    twin.mkdir()
    live(twin, lambda: None)
    for compacted in (False, True):
        if compacted:
            pond.pond("compact")
        assert codecs(pond.store) == ({"UNCOMPRESSED", "ZSTD"} if compacted else {"UNCOMPRESSED"})
        pond.remount()  # so that nothing compared comes from the kernel's caches
        for engine, tree in fold_by_every_engine(pond.store).items():
            print(engine, compacted)
            assert_same(tree, pond.mnt)
            assert_equivalent(tree, twin)


def codecs(store: Path) -> set[str]:
    """Return how contents are compressed."""
    found = set()
    for path in delta_log.data_files(store):
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            found.add(metadata.row_group(number).column(metadata.num_columns - 1).compression)
    return found


def test_content_is_in_the_table_once(pond_unmounted: PondMount) -> None:
    """``length`` is the content's; a row without content says null, not 0, and holds no bytes."""
    pond = pond_unmounted.mount("commit=3600")
    (pond.mnt / "file").write_bytes(b"once only" * 1000)
    (pond.mnt / "empty").write_bytes(b"")
    pond.umount()
    columns = ["content", "length"]
    found = [
        (row["content"], row["length"])
        for path in delta_log.data_files(pond.store)
        for row in pq.ParquetFile(path).read(columns=columns).to_pylist()
    ]
    assert [pair for pair in found if pair[1]] == [(b"once only" * 1000, 9000)]
    assert all(content == b"" for content, length in found if not length)
