"""The filesystem a store lies on: what it promises, what it can do, what room it has."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pondfs.doctor.finding import Finding, Severity, error, note, ok, warning
from pondfs.doctor.scene import Scene
from pondfs.mountinfo import Mount, find_mount_around
from pondfs.store.probe import has_nameless_files, try_publishing
from pondfs.store.table import POND_DIR

LOCAL = frozenset("ext3 ext4 xfs btrfs f2fs zfs bcachefs jfs nilfs2 reiserfs".split())
"""Filesystems that keep what fsync said they keep, if their disk does."""

MEMORY = frozenset("tmpfs ramfs rootfs".split())

NETWORK = frozenset(
    "nfs nfs4 cifs smb3 ceph lustre gpfs afs ocfs2 gfs2 glusterfs fuse.glusterfs fuse.sshfs "
    "fuse.s3fs fuse.rclone fuse.ceph-fuse fuse.mount-s3 fuse.juicefs".split()
)

HOSTS = frozenset("9p virtiofs vboxsf fuse.vmhgfs-fuse prl_fs drvfs".split())

NO_LINKS = frozenset("vfat msdos exfat fuse.exfat".split())

WITHOUT_FLUSH = frozenset(
    "nobarrier barrier=0 barrier=none fsync_mode=nobarrier volatile fsync=volatile".split()
)
"""Mount options with which an fsync does not reach what survives a power cut."""

FEW_BYTES, FEW_PARTS = 1 << 30, 20
"""Little room is less than 1 GiB: what an hour of work or a compaction may take at once (it writes
files of 128 MiB before it removes others). Of a small disk a twentieth: there 1 GiB is never left.
"""

NO_BYTES, NO_PARTS = 64 << 20, 100
"""No room is less than 64 MiB, two pieces of a large write, or of a small disk a hundredth."""

FEW_INODES, NO_INODES = 10_000, 200
"""A commit takes two inodes; with 200 there is room for some minutes of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a disk has left for who is not root."""

    free: int
    size: int
    free_inodes: int
    inodes: int

    @property
    def bytes_left(self) -> Severity:
        """How bad it is with bytes."""
        return _judge(self.free, self.size, (FEW_BYTES, FEW_PARTS), (NO_BYTES, NO_PARTS))

    @property
    def inodes_left(self) -> Severity:
        """How bad it is with inodes; some filesystems make them as they go, and count none."""
        if not self.inodes:
            return "ok"
        few, none = (FEW_INODES, FEW_PARTS), (NO_INODES, NO_PARTS)
        return _judge(self.free_inodes, self.inodes, few, none)


def look_at_filesystem(scene: Scene) -> Iterator[Finding]:
    """Whether what is synced stays, by the filesystem's kind and mount options."""
    for what, path in _parts(scene.store):
        mount = find_mount_around(path)
        if mount is None:
            yield note(f"{what}: no line of mountinfo says on which filesystem it lies")
            continue
        yield from judge_mount(what, mount)
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            yield error(
                f"{what}: {mount.mountpoint} is read-only: nothing can be committed. A disk with "
                "errors becomes that by itself: see dmesg",
                "mend the disk if that is why, then make it writable",
                f"sudo mount -o remount,rw {shlex.quote(str(mount.mountpoint))}",
            )
    if os.path.realpath(os.path.join(scene.store, POND_DIR)) != os.path.join(
        os.path.realpath(scene.store), POND_DIR
    ):
        yield note(f"{POND_DIR} is a link to another place: the journal is there, so what is "
                   "synced is as safe as that")  # fmt: skip


def judge_mount(what: str, mount: Mount) -> Iterator[Finding]:
    """Say what a store on *mount* can hope for."""
    kind, options = mount.fstype, set(mount.options)
    disk = "keep the pond on a local disk with ext4, xfs, btrfs or zfs"
    where = f"{what} on {kind} ({mount.mountpoint})"
    without = sorted(options & WITHOUT_FLUSH)
    if without:
        yield error(
            f"{where} is mounted with {', '.join(without)}: fsync does not reach the disk, so what "
            "was synced is lost, or torn, when the power goes",
            "mount it without that",
        )
    if kind in MEMORY:
        yield error(f"{where} is in memory only: fsync keeps nothing there, and all of it is gone "
                    "after a reboot", disk)  # fmt: skip
    elif kind == "overlay":
        yield warning(
            f"{where} is a container's own layer: it goes when the container is removed, and what "
            "fsync means there depends on what is below",
            "keep the pond in a volume",
        )
    elif kind in NETWORK:
        soft = "soft" in options
        yield warning(
            f"{where} is on another computer: what fsync said is as good as that one's word, locks "
            "may not keep a second writer out"
            + soft
            * ", and with the option 'soft' an answer that comes late is an error",
            disk + ("; else mount it hard" if soft else ""),
        )
    elif kind in HOSTS:
        yield warning(f"{where} is a directory of the host: what fsync means there is up to it",
                      disk)  # fmt: skip
    elif kind in NO_LINKS:
        yield error(f"{where} has no hard links, by which a commit is published", disk)
    elif kind == "fuse.pond":
        yield warning(f"{where} is a pond in a pond: everything is kept twice, and never forgotten "
                      "by the outer one", disk)  # fmt: skip
    elif kind.startswith("fuse"):
        yield warning(f"{where}: what fsync means there is up to that program", disk)
    elif kind == "ext2":
        yield warning(f"{where} has no journal: after a crash names may be gone that were synced",
                      disk)  # fmt: skip
    elif kind not in LOCAL:
        yield note(f"{where} is of a kind whose promises are not known to pondfs")
    elif not without:
        yield ok(f"{where} keeps what is synced, if its disk does")
    if "data=writeback" in options and not without:
        yield note(f"{where} is mounted with data=writeback, which does no harm: what counts is "
                   "synced")  # fmt: skip


def look_at_publishing(scene: Scene) -> Iterator[Finding]:
    """Whether the filesystem can do what a commit takes; by trying, if we may write."""
    try:
        trouble = _try_publishing(scene.store)
    except PermissionError:
        return  # another look tells who may
    except OSError as refused:
        yield error(f"a file in the store can't be made and synced: {refused.strerror}")
        return
    if trouble:
        yield error(f"the store's filesystem can't take commits: {trouble}",
                    "keep the pond on a local disk with ext4, xfs, btrfs or zfs")  # fmt: skip
    elif not has_nameless_files(scene.store):
        yield note("the store's filesystem has no nameless files (O_TMPFILE): a commit uses a "
                   "hidden name instead, which takes a little longer")  # fmt: skip
    else:
        yield ok("files can be synced and linked, as a commit takes it")


def _try_publishing(store: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return try_publishing(store)
    # A mount that began just then has swept the file up; it does so once.
    return try_publishing(store)


def look_at_space(scene: Scene) -> Iterator[Finding]:
    """Whether there is room for what comes."""
    for what, path in _parts(scene.store):
        disk = os.statvfs(path)
        unit = disk.f_frsize
        room = Room(disk.f_bavail * unit, disk.f_blocks * unit, disk.f_favail, disk.f_files)
        yield from judge_room(what, room, f"pond --pond {shlex.quote(scene.store)}")


def judge_room(what: str, room: Room, pond: str) -> Iterator[Finding]:
    """Say whether *room* will do; *pond* is what a command about this pond begins with."""
    told = f"{_mib(room.free)} of {_mib(room.size)} are free"
    free_some = (
        "forget old versions (with tags and rules for those you want), or make room beside the "
        "pond. Deleting files in it frees nothing: their history stays"
    )
    prune = f"{pond} prune --keep-within 30d --dry-run"
    if room.bytes_left == "error":
        yield error(f"{what}: {told}: writing fails with ENOSPC now or soon", free_some, prune)
    elif room.bytes_left == "warning":
        yield warning(
            f"{what}: {told}: a large write, or putting small files together, may fill it",
            free_some,
            prune,
        )
    else:
        yield ok(f"{what}: {told}")
    if room.inodes_left != "ok":
        how = error if room.inodes_left == "error" else warning
        yield how(
            f"{what}: {room.free_inodes:,} of {room.inodes:,} inodes are free, and each commit "
            "takes two",
            "put data files together, or remove files beside the pond",
            f"{pond} compact",
        )


def _judge(free: int, size: int, few: tuple[int, int], none: tuple[int, int]) -> Severity:
    if free < min(none[0], size // none[1]):
        return "error"
    return "warning" if free < min(few[0], size // few[1]) else "ok"


def _parts(store: str) -> Iterator[tuple[str, str]]:
    """Yield the store and what of it is on another filesystem, with its name and real path."""
    top = os.path.realpath(store)
    yield "the store", top
    seen = {os.stat(top).st_dev}
    for name in (POND_DIR, "_delta_log"):
        path = os.path.realpath(os.path.join(top, name))
        try:
            device = os.stat(path).st_dev
        except FileNotFoundError:
            continue
        if device not in seen:
            seen.add(device)
            yield f"the store's {name}", path


def _mib(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.1f} MiB"
