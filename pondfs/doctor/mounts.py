"""Mounts of ponds, the daemons that serve them, their sockets, and who holds the store's lock.

A mount is never touched before its daemon has been asked: see `processes.errno_of_statvfs`.
"""

import errno
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pondfs.control.client import Client
from pondfs.control.protocol import find_all_sockets, find_sockets
from pondfs.doctor.finding import Finding, error, note, ok, warning
from pondfs.doctor.machine import user_name
from pondfs.doctor.processes import (
    STOPPED,
    errno_of_statvfs,
    find_listener,
    find_lock_holder,
    find_process,
    has_mapped,
    sees_all_locks,
)
from pondfs.doctor.scene import Scene
from pondfs.errors import DaemonGone, NotPermitted
from pondfs.mountinfo import FSTYPE, Mount, find_ponds_of, load_mounts
from pondfs.store.lock import LOCK_FILE, find_holder


def look_at_mounts(scene: Scene) -> Iterator[Finding]:
    """Whether daemons answer: of the mounts of the pond that was named, else of all there are."""
    for mount in find_ponds_of(scene.place.store) if scene.is_named else _ponds():
        yield from _look_at_mount(mount, scene.patience_s)


def look_at_pond(scene: Scene) -> Iterator[Finding]:
    """Whether the pond that is meant is mounted."""
    if places := [str(mount.mountpoint) for mount in find_ponds_of(scene.place.store)]:
        yield ok(f"{scene.store} is mounted at {', '.join(places)}")
    else:
        yield ok(f"{scene.store} is not mounted")


def look_at_sockets(scene: Scene) -> Iterator[Finding]:
    """Whether control sockets lie about that no mount is behind.

    Whose a silent one was can't be found out; so when a pond was named, only dead ones are told.
    """
    used = {path for mount in _ponds() for path in _sockets_of(mount)}
    dead: list[Path] = []
    for path in find_all_sockets(os.geteuid()):
        if path in used:
            continue
        pid = find_listener(path)
        process = None if pid is None else find_process(pid)
        if pid is None:
            dead.append(path)
        elif scene.is_named:
            continue  # `look_at_lock` knows better
        elif process is not None and process.trouble:
            yield warning(
                f"process {pid}, whose mount is gone, {process.trouble}: it has not ended",
                "let it go on, so that it can make its last commit",
                f"kill -CONT {pid}" if process.state in STOPPED else "",
            )
        else:
            yield from _look_at_ending(path, scene.patience_s)
    if dead:
        yield note(
            f"{len(dead)} control socket{'s' * (len(dead) > 1)} of daemons that were killed: "
            f"{', '.join(map(str, dead[:3]))}{' …' * (len(dead) > 3)}. They do no harm: the next "
            "mount at the same place takes its socket over, and a reboot removes all",
            "remove them if you like",
            "rm " + " ".join(shlex.quote(str(path)) for path in dead) if len(dead) <= 3 else "",
        )
    else:
        yield ok("no control socket lies about")


def look_at_lock(scene: Scene) -> Iterator[Finding]:
    """Who has the pond open for writing, and whether that is a mount."""
    path = Path(scene.store, "_pond", LOCK_FILE)
    try:
        told = find_holder(os.fspath(path.parent)) or {}
        said = told.get("pid")
        pid = find_lock_holder(path, said if isinstance(said, int) else None)
    except (FileNotFoundError, NotADirectoryError):
        return  # no pond, or one that never was open for writing
    except PermissionError:
        yield note(f"who has the pond open is not for {user_name(os.geteuid())} to see",
                   "ask as its owner or as root", _as_root(scene.store))  # fmt: skip
        return
    if pid is None:
        yield from _look_at_last_holder(told)
        return
    place = told.get("mountpoint")
    process = find_process(pid)
    name = process.name if process else "somebody outside this container"
    if not place:
        yield ok(f"{name} (process {pid}) has the pond open for writing, without a mount")
    elif any(str(mount.mountpoint) == place for mount in _ponds()):
        yield ok(f"the daemon of {place} (process {pid}) has the pond open for writing")
    elif process is None:
        yield note(f"the pond is mounted outside this container, at {place}")
    else:
        does = process.trouble or "is about to mount it, or makes its last commit, or that fails"
        yield warning(
            f"process {pid} has the pond open for writing, but it is not mounted at {place}: the "
            f"process {does}",
            f"wait a little; what keeps it is in {scene.store}/_pond/log (a full disk? free space)",
            f"kill -CONT {pid}" if process.state in STOPPED else "",
        )


def _look_at_last_holder(told: dict[str, object]) -> Iterator[Finding]:
    host = told.get("host")
    if not told:
        yield ok("nobody has the pond open for writing")
    elif host != socket.gethostname():
        yield warning(
            f"the pond was last opened for writing on host {host}, which did not close it: if it "
            "is still mounted there, a second writer here gets in its way",
            f"make sure that nothing on {host} has it open",
        )
    elif not sees_all_locks():
        yield note(
            f"process {told.get('pid')}, which had the pond open for writing, can't be seen from "
            "here if it is outside this container: it has it open still, or was killed",
            "ask outside of it",
        )
    else:
        yield note(
            f"process {told.get('pid')}, which had the pond open for writing, was killed or the "
            "power went: nothing that was synced is lost, and the next mount goes on from there"
        )


# --- one mount ---


def _ponds() -> list[Mount]:
    return [mount for mount in load_mounts() if mount.fstype == FSTYPE]


def _sockets_of(mount: Mount) -> list[Path]:
    try:
        return list(find_sockets(mount.mountpoint, mount.owner_uid))
    except NotPermitted:
        return []


def _look_at_mount(mount: Mount, patience_s: float) -> Iterator[Finding]:
    where = f"the pond at {mount.mountpoint}"
    silent: list[Path] = []
    try:
        for path in find_sockets(mount.mountpoint, mount.owner_uid):
            pid = find_listener(path)
            process = None if pid is None else find_process(pid)
            if process is not None and process.state in STOPPED:
                yield _hung(mount, where, pid)
                return
            try:
                with Client(path, timeout_s=patience_s) as client:
                    yield from _look_at_daemon(where, client.hello)
                return
            except DaemonGone as gone:
                if gone.errno == errno.ETIMEDOUT:
                    silent.append(path)
                elif gone.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                    yield warning(f"{where}: {gone}")
                    return
    except NotPermitted:
        yield note(f"{where} belongs to {user_name(mount.owner_uid)}, its daemon answers nobody "
                   "else", "ask as that user or as root")  # fmt: skip
        return
    if silent:
        yield _hung(mount, where, find_listener(silent[0]))
        return
    # Nobody listens: the daemon is dead, as a rule, and then this is answered at once.
    number = errno_of_statvfs(mount.mountpoint, patience_s)
    umount = f"pond umount {shlex.quote(str(mount.mountpoint))}"
    if number is None:
        yield _hung(mount, where, None)
    elif number in (errno.ENOTCONN, errno.ECONNABORTED):
        yield error(
            f"{where} is dead: its daemon is gone, and everything there fails with ENOTCONN. "
            "Nothing that was synced is lost",
            "take it away, then mount again",
            f"{umount} && mount.pond {shlex.quote(mount.source)} "
            f"{shlex.quote(str(mount.mountpoint))}",
        )
    else:
        yield warning(
            f"{where} answers, but its control socket is gone (something that cleans /run or /tmp "
            "up?): no command reaches its daemon, and unmounting does not wait for its last commit",
            "sync it, unmount it and mount it again",
            f"sync -f {shlex.quote(str(mount.mountpoint))} && {umount}",
        )


def _hung(mount: Mount, where: str, pid: int | None) -> Finding:
    process = None if pid is None else find_process(pid)
    waiting = _requests_waiting(mount)
    message = f"the daemon of {where} does not answer"
    if process is not None:
        message += f": process {process.pid} {process.trouble or 'runs, but does not come to it'}"
    if waiting:
        message += f"; {waiting} request{'s' * (waiting > 1)} of programs wait for it"
    if process is not None and process.state in STOPPED:
        return error(message, "let it go on", f"kill -CONT {process.pid}")
    return error(
        message + ". Whoever touches the mount hangs as well",
        f"look into {mount.source}/_pond/log, and at its disk; at worst detach the mount, which "
        "loses what was not synced",
        f"pond umount -f {shlex.quote(str(mount.mountpoint))}",
    )


def _requests_waiting(mount: Mount) -> int:
    """Return how many requests the kernel has for the daemon; 0 also when that is not known.

    Source: Documentation/filesystems/fuse.rst, "Control filesystem".
    """
    number = mount.device[0] << 20 | mount.device[1]  # the kernel's own dev_t
    try:
        return int(Path(f"/sys/fs/fuse/connections/{number}/waiting").read_text())
    except (OSError, ValueError):
        return 0


def _look_at_daemon(where: str, hello: dict[str, Any]) -> Iterator[Finding]:
    if trouble := hello.get("last_error"):
        yield error(
            f"{where} can't commit: {trouble}. What is pending is kept in memory, and tried again "
            "and again; it is lost if the daemon ends by force",
            f"mend that; more is in {hello['store']}/_pond/log",
        )
    turned_off = has_mapped(hello["pid"], "eatmydata")
    if turned_off is None:
        yield note(
            f"whether the daemon of {where} runs with libeatmydata, which turns fsync off, is not "
            "for this user to see",
            "ask as root",
            _as_root(hello["store"]),
        )
    elif turned_off:
        yield error(
            f"the daemon of {where} runs with libeatmydata, which turns fsync off: nothing it says "
            "it kept is kept when the power goes",
            "mount it again from an environment without LD_PRELOAD",
        )
    yield ok(f"{where} ({hello['store']}): process {hello['pid']} answers")


def _look_at_ending(path: Path, patience_s: float) -> Iterator[Finding]:
    """Look at a daemon whose mount is gone."""
    try:
        with Client(path, timeout_s=patience_s) as client:
            hello = client.hello
    except (DaemonGone, NotPermitted):
        return  # it has ended meanwhile
    if trouble := hello.get("last_error"):
        yield error(
            f"process {hello['pid']} can't make the last commit of {hello['store']}: {trouble}",
            "mend that (free space?), and it ends by itself; a second SIGTERM gives it up, and "
            "loses what was not committed",
        )
    else:
        yield note(f"process {hello['pid']} makes the last commit of {hello['store']}")


def _as_root(store: str) -> str:
    return f"sudo pond doctor {shlex.quote(store)}"
