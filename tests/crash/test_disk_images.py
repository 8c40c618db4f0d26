"""The disk of the crash images keeps what was synced, and may do anything else: by small traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.crash.disk_images import KINDS, Cut, Disk, Entry
from tests.crash.disk_trace import Trace

SEEDS = range(25)
OLD, NEW = b"o" * 1024, b"n" * 1024


def hexed(text: str | bytes) -> str:
    """Return a string as ``strace -xx`` prints it."""
    data = text.encode() if isinstance(text, str) else text
    return "".join(f"\\x{byte:02x}" for byte in data)


def at(fd: int, path: str) -> str:
    return f"{fd}<{hexed(path)}>"


def opened(fd: int, path: str, flags: str) -> str:
    return f'1 openat(AT_FDCWD<{hexed("/")}>, "{hexed(path)}", {flags}, 0600) = {at(fd, path)}'


def written(fd: int, path: str, data: bytes, offset: int) -> str:
    size = len(data)
    return f'1 pwrite64({at(fd, path)}, "{hexed(data)}", {size}, {offset}) = {size}'


def synced(fd: int, path: str) -> str:
    return f"1 fsync({at(fd, path)}) = 0"


def renamed(old: str, new: str) -> str:
    return f'1 rename("{hexed(old)}", "{hexed(new)}") = 0'


MAKE = [opened(3, "/d/f", "O_RDWR|O_CREAT"), written(3, "/d/f", OLD, 0)]
KEEP = [synced(3, "/d/f"), synced(4, "/d")]


def images(lines: Sequence[str]) -> list[dict[str, Entry]]:
    """Return what the disk may hold after *lines*: many of the images there can be."""
    disk = Disk(Trace(lines, Path("/d"), Path("/marks")))
    cuts = [Cut(len(lines), kind, seed) for kind in KINDS for seed in SEEDS]
    return [disk.image(cut).entries for cut in cuts]


def contents(lines: Sequence[str], name: str = "f") -> set[Entry]:
    """Return what a file may hold; None where it is not there."""
    return {image.get(name) for image in images(lines)}


def test_what_was_synced_is_there() -> None:
    assert contents(MAKE + KEEP) == {OLD}


def test_a_synced_file_may_have_no_name() -> None:
    assert contents([*MAKE, KEEP[0]]) == {OLD, None}


def test_a_synced_name_may_lead_to_anything_of_its_file() -> None:
    """Nothing, its size without its bytes, garbage, and some of its sectors."""
    found = contents([*MAKE, KEEP[1]])
    assert {b"", OLD, bytes(1024), OLD[:512], OLD[:512] + bytes(512)} <= found
    assert any(data and set(data) - {0, ord("o")} for data in found)
    assert None not in found


def test_a_write_over_old_bytes_is_torn_by_sectors() -> None:
    found = contents([*MAKE, *KEEP, written(3, "/d/f", NEW, 0)])
    old, new = OLD[:512], NEW[:512]
    assert found == {old + old, old + new, new + old, new + new}


def test_a_later_write_may_be_there_without_an_earlier_one() -> None:
    lines = [*MAKE, *KEEP, written(3, "/d/f", NEW[:512], 0), written(3, "/d/f", NEW[:512], 512)]
    assert OLD[:512] + NEW[:512] in contents(lines)
    assert contents([*lines, synced(3, "/d/f")]) == {NEW}


def test_a_sync_says_nothing_of_what_had_not_ended_before_it_began() -> None:
    write = written(3, "/d/f", NEW, 0)
    begun, _, ended = write.rpartition(") = ")
    during = [
        begun.replace("1 ", "2 ", 1) + " <unfinished ...>",
        synced(3, "/d/f"),
        f"2 <... pwrite64 resumed>) = {ended}",
    ]
    assert {OLD, NEW} <= contents([*MAKE, *KEEP, *during])
    assert contents([*MAKE, *KEEP, *during, synced(3, "/d/f")]) == {NEW}
    # Nor has the write to have ended for its bytes to be there.
    disk = Disk(Trace([*MAKE, *KEEP, *during], Path("/d"), Path("/marks")))
    cuts = [Cut(5, kind, seed) for kind in KINDS for seed in SEEDS]
    assert {OLD, NEW} <= {disk.image(cut).entries["f"] for cut in cuts}


def test_a_rename_happens_or_does_not() -> None:
    temporary = [opened(5, "/d/t", "O_RDWR|O_CREAT"), written(5, "/d/t", NEW, 0)]
    lines = [*MAKE, *KEEP, *temporary, synced(5, "/d/t"), synced(4, "/d"), renamed("/d/t", "/d/f")]
    assert {(image.get("f"), image.get("t")) for image in images(lines)} == {
        (OLD, NEW),
        (NEW, None),
    }
    assert contents([*lines, synced(4, "/d")]) == {NEW}
    # Renamed without a sync of the new bytes, as many programs do: neither has to be there.
    careless = contents([*MAKE, *KEEP, *temporary, renamed("/d/t", "/d/f"), synced(4, "/d")])
    assert b"" in careless
    assert OLD not in careless


def test_an_unlinked_name_may_come_back() -> None:
    lines = [*MAKE, *KEEP, f'1 unlink("{hexed("/d/f")}") = 0']
    assert contents(lines) == {OLD, None}
    assert contents([*lines, synced(4, "/d")]) == {None}


def test_an_ordered_disk_has_a_prefix() -> None:
    lines = [*MAKE, *KEEP, written(3, "/d/f", NEW[:512], 0), written(3, "/d/f", NEW[:512], 512)]
    disk = Disk(Trace(lines, Path("/d"), Path("/marks")))
    found = {
        disk.image(Cut(line, kind, seed)).entries["f"]
        for line in range(3, len(lines) + 1) for kind in ("ordered", "torn") for seed in SEEDS
    }  # fmt: skip
    assert NEW in found
    assert OLD[:512] + NEW[:512] not in found


def test_an_ignored_sync_counts_for_nothing() -> None:
    trace = Trace([*MAKE, *KEEP], Path("/d"), Path("/marks"))
    disk = Disk(trace, lambda sync: sync.path == "/d")
    assert disk.image(Cut(4, "none", 0)).entries == {}
