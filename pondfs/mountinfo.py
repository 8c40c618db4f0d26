"""What is mounted where, as the kernel tells it. Looking here never touches a mount itself.

That matters: a stat of a mount whose daemon hangs would hang with it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.pond"

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        device: ``st_dev`` of everything in it, as (major, minor).
        owner_uid: who mounted it, for a FUSE filesystem; else 0.
    """

    mountpoint: Path
    fstype: str
    source: str
    options: tuple[str, ...]
    device: tuple[int, int]
    owner_uid: int


def load_mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """Return everything mounted in our namespace, oldest first.

    Source: proc(5), /proc/pid/mountinfo. Blank, tab, newline and backslash are octal there.
    """
    with open(path, "rb") as file:
        return [_parse_line(line) for line in file.read().splitlines()]


def find_pond_at(directory: str | Path) -> Mount | None:
    """Return the pond mounted exactly on *directory*, or None when something else or nothing is.

    The name is compared as written before symlinks are followed in it, so that a mount whose
    daemon hangs is found without asking that daemon.
    """
    mounts = load_mounts()
    for spelling in (os.path.abspath, os.path.realpath):
        here = Path(spelling(directory))
        # What was mounted last covers the rest.
        top = next((mount for mount in reversed(mounts) if mount.mountpoint == here), None)
        if top is not None:
            return top if top.fstype == FSTYPE else None
    return None


def find_pond_around(directory: str | Path) -> Mount | None:
    """Return the pond that *directory* (absolute, without symlinks) lies in, or None.

    Another filesystem mounted further in takes its own tree out of the pond.
    """
    around = find_mount_around(directory)
    return around if around is not None and around.fstype == FSTYPE else None


def find_mount_around(directory: str | Path) -> Mount | None:
    """Return the filesystem that *directory* (absolute, without symlinks) lies in."""
    path = Path(directory)
    best: Mount | None = None
    for mount in load_mounts():
        deeper = best is None or len(mount.mountpoint.parts) >= len(best.mountpoint.parts)
        if deeper and path.is_relative_to(mount.mountpoint):
            best = mount
    return best


def find_ponds_of(store: Path) -> list[Mount]:
    """Return the mounts of one *store*, newest first (a writer and any read-only ones)."""
    real = os.path.realpath(store)
    return [
        mount
        for mount in reversed(load_mounts())
        if mount.fstype == FSTYPE and mount.source in (str(store), real) and is_believable(mount)
    ]


def is_believable(mount: Mount) -> bool:
    """Return whether a mount may be of the store that it says: any user can call one what he likes.

    Root may mount anything, and our own we know, of whomever the store is. Another user's is
    believed where the store is that user's too, or one that several share. Where we can't look,
    nobody is to be kept from anything.
    """
    if mount.owner_uid in (0, os.geteuid()):
        return True
    try:
        found = os.stat(mount.source)
    except OSError:
        return True
    return found.st_uid == mount.owner_uid or bool(found.st_mode & 0o022)


def _parse_line(line: bytes) -> Mount:
    left, _, right = line.partition(b" - ")
    fields = left.split(b" ")
    fstype, source, super_options = right.split(b" ", 2)
    options = (*fields[5].split(b","), *super_options.split(b","))
    owner = next((option[8:] for option in options if option.startswith(b"user_id=")), b"0")
    major, _, minor = fields[2].partition(b":")
    return Mount(
        mountpoint=Path(_text(fields[4])),
        fstype=_text(fstype),
        source=_text(source),
        options=tuple(_text(option) for option in options),
        device=(int(major), int(minor)),
        owner_uid=int(owner),
    )


def _text(raw: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), raw))
