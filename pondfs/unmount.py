"""Unmounting: commit, detach, and return when the daemon is gone and everything is durable.

The kernel does not wait for a FUSE daemon: umount(2) returns while the daemon still commits. And
once detached, a commit that fails has nobody left to tell. So we ask for the commit first, while
refusing is still possible, and wait for the daemon's process afterwards.
"""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from pondfs.control.client import Client
from pondfs.control.protocol import find_sockets
from pondfs.errors import DaemonGone, DaemonRefused, MountFailed, PondError, SystemFailure
from pondfs.mountinfo import Mount, find_pond_at, load_mounts

FORCE_TIMEOUT_S = 10.0
"""How long a forced or lazy unmount waits for the commit it then does without."""


def unmount(mountpoint: str | Path, *, force: bool = False, lazy: bool = False) -> None:
    """Unmount the pond at *mountpoint*.

    Args:
        mountpoint: where it is mounted.
        force: detach even when the commit fails or the daemon does not answer.
        lazy: detach the name now; the daemon ends when the last user lets go. Does not wait.
    Raises: MountFailed if no pond is mounted there, it is in use, or the commit fails;
        NotPermitted if it is somebody else's.
    Durability: everything written before the call is committed, unless *force* or *lazy*.
    """
    mount = find_pond_at(mountpoint)
    if mount is None:
        raise MountFailed(_why_not_a_pond(mountpoint))
    client = _connect(mount, hurry=force or lazy)
    try:
        if client is not None:
            _commit(client, mount, hurry=force or lazy)
        _detach(mount, lazy=lazy, abort=force and client is None)
        if client is not None and not lazy:
            _wait(client, mount)
    finally:
        if client is not None:
            client.close()


def flush_kernel(mountpoint: Path) -> None:
    """Make the kernel write the pages it holds back for the mount to the daemon.

    The kernel does not pass syncfs(2) on to a FUSE daemon, but it does this much.

    A first error may be an old one: the kernel keeps the failure of a write for the next syncfs,
    though it has told the writer. Only what fails twice is still in the way.

    Raises: OSError if a page could not be written.
    """
    try:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # root on somebody's private mount: detaching writes the pages as well
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0 and libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(mountpoint))
    finally:
        os.close(fd)


def _why_not_a_pond(mountpoint: str | Path) -> str:
    real = Path(os.path.realpath(mountpoint))
    for mount in reversed(load_mounts()):
        if mount.mountpoint == real:
            return f"{mountpoint} is no pond but {mount.fstype}: umount {mountpoint}"
    return f"{mountpoint} is not mounted"


def _connect(mount: Mount, *, hurry: bool) -> Client | None:
    """Return a connection to the daemon; None if it is dead, or deaf and we are in a *hurry*."""
    for path in find_sockets(mount.mountpoint, mount.owner_uid):
        try:
            return Client(path)
        except DaemonGone as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT) and not hurry:
                raise MountFailed(
                    f"{mount.mountpoint} stays mounted: {error}: try again, or detach it with -f"
                ) from None
    return None


def _commit(client: Client, mount: Mount, *, hurry: bool) -> None:
    try:
        if not hurry:
            flush_kernel(mount.mountpoint)
        client.call("commit", timeout_s=FORCE_TIMEOUT_S if hurry else None, **{"for": "umount"})
    except (DaemonRefused, DaemonGone, OSError) as error:
        if not hurry:
            why = error if isinstance(error, PondError) else error.strerror
            raise MountFailed(
                f"{mount.mountpoint} stays mounted: its last changes can't be committed ({why}): "
                "mend that and try again, or lose them with -f"
            ) from None


def _wait(client: Client, mount: Mount) -> None:
    farewell = client.wait_exit()
    if farewell is not None and not farewell.get("ok"):
        raise MountFailed(
            f"{mount.mountpoint} is unmounted, but what changed last was not committed: "
            f"{farewell.get('error')}: see {mount.source}/_pond/log"
        )


def _detach(mount: Mount, *, lazy: bool, abort: bool) -> None:
    """Take the mount off its mountpoint.

    Args:
        mount: what to detach.
        lazy: detach even while in use.
        abort: end the connection first; every call on the mount then fails, so it is for a daemon
            that answers nobody.
    """
    place = os.fspath(mount.mountpoint)
    if os.geteuid() == 0:
        # -i: without the helper /sbin/umount.fuse.pond, which is us.
        tool = [_program("umount"), "-i", *(["-l"] if lazy else []), *(["-f"] if abort else [])]
    else:
        tool = [_program("fusermount3"), "-u", *(["-z"] if lazy or abort else [])]
    done = subprocess.run(
        [*tool, place],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip() or f"{tool[0]} exited with {done.returncode}"
    if "busy" in said:
        users = find_users(mount)
        by = " by " + ", ".join(users[:3]) + (" and others" if len(users) > 3 else "")
        raise MountFailed(
            f"{place} is in use{by if users else ''}: leave it and try again, or detach it with -l"
        )
    if "/etc/mtab" in said:
        # fusermount3 wants it; a minimal installation has none.
        said += ": sudo ln -s ../proc/self/mounts /etc/mtab, then try again"
    raise MountFailed(f"cannot unmount {place}: {said}")


def find_users(mount: Mount) -> list[str]:
    """Return ``bash (1234)`` for every process we may look at that uses *mount*.

    Only the names of links under /proc are read, so the mount itself is not asked.
    """
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid != os.getpid() and any(
            Path(link).is_relative_to(mount.mountpoint) for link in _links_of(pid)
        ):
            try:
                command = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
            except OSError:
                continue  # ended meanwhile
            found.append(f"{command} ({pid})")
    return found


def _links_of(pid: int) -> list[str]:
    names = ["cwd", "root", "exe"]
    found = []
    try:
        names += [f"fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
        names += [f"map_files/{area}" for area in os.listdir(f"/proc/{pid}/map_files")]
    except OSError:
        pass  # somebody else's process: what can be read has to do
    for name in names:
        try:
            found.append(os.readlink(f"/proc/{pid}/{name}"))
        except OSError:
            continue
    return found


def detach_lazily(mount: Mount) -> None:
    """Take a mount whose daemon is gone off its mountpoint. Raises: MountFailed, SystemFailure."""
    _detach(mount, lazy=True, abort=False)


def _program(name: str) -> str:
    """Return the path of a system program; mount(8) may run us without PATH."""
    for directory in ("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/local/bin"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise SystemFailure(f"{name} is not installed: it is needed to unmount (Debian: fuse3, mount)")
