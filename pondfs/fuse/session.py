"""One kernel mount: begin it, serve it, end it.

pyfuse3 keeps its session in module globals, so there is one for each process.
"""

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from pondfs.errors import MountFailed, SystemFailure
from pondfs.fuse import loop
from pondfs.fuse.operations import Operations
from pondfs.fuse.talk import Answer, refuse_all
from pondfs.mountinfo import load_mounts
from pondfs.options import MountOptions
from pondfs.vfs.base import Stale
from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.fuse")

READ_AHEAD_KB = 4096
"""What the kernel reads ahead of a sequential reader: four requests of the largest size FUSE has
at once, where the default of 128 sends a small one at a time (2.5 GB/s against 1.0, 2026-11)."""

MAX_TASKS = 64
"""Requests in work at once. Those that wait (for a commit, for the disk) must not keep others
out; the kernel itself sends at most 12 in the background (max_background)."""

LINGER_S = 3.0
"""How long a signalled daemon waits for programs to close files after it detached the mount."""

MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Bytes(str):
    """An option with bytes beyond ASCII, which is all that pyfuse3 would encode."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return os.fsencode(str(self))


class Session:
    """The mount of one Vfs."""

    def __init__(self, vfs: Vfs, options: MountOptions, answer: Answer = refuse_all) -> None:
        self._operations = Operations(vfs, options, answer)
        self._vfs = vfs
        self._options = options
        self._mountpoint = os.fspath(options.mountpoint)
        self.device = 0  # st_dev of the mount; 0 before `check`
        self._over = trio.Event()
        vfs.invalidate = self._invalidate
        vfs.mounted_below = self._mounted_below

    def _mounted_below(self) -> list[tuple[bytes, ...]]:
        """Return the paths in this mount on which something else is mounted."""
        mounts = load_mounts()
        device = (os.major(self.device), os.minor(self.device))
        tops = [mount.mountpoint for mount in mounts if mount.device == device]
        return [
            tuple(os.fsencode(name) for name in mount.mountpoint.relative_to(top).parts)
            for mount in mounts
            for top in tops
            if mount.device != device and mount.mountpoint.is_relative_to(top)
        ]

    async def _invalidate(self, stale: Stale) -> None:
        """Have the kernel forget. In a thread: it may wait for requests that we must answer.

        The tree has changed, so also when whoever changed it went away.
        """
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_invalidate, stale)

    def mount(self) -> None:
        """Mount; requests wait in the kernel until `serve`.

        Raises: MountFailed with what libfuse said.
        """
        words = _Capture()
        try:
            with words:
                pyfuse3.init(self._operations, self._mountpoint, self._kernel_options())
        except RuntimeError as error:
            said = words.text() or str(error)
            raise MountFailed(f"cannot mount on {self._mountpoint}: {said}") from None

    async def serve(self) -> None:
        """Answer the kernel until the mount is gone."""
        logging.getLogger("pyfuse3").addFilter(_is_news)
        loop.install()
        try:
            async with trio.open_nursery() as nursery:
                self._operations.talks.nursery = nursery
                await pyfuse3.main(max_tasks=MAX_TASKS)
                self._operations.talks.nursery = None
                nursery.cancel_scope.cancel()
        finally:
            self._over.set()

    def close(self) -> None:
        """Let go of the kernel's side."""
        pyfuse3.close(unmount=True)

    async def detach(self) -> None:
        """End the mount from our side (a signal): nothing that programs wrote is left behind.

        The kernel's dirty pages come down while we still serve; after LINGER_S open files are cut
        off, as their owner asked us to end.
        """
        if self._over.is_set():
            return  # unmounted already: what is left is the last commit
        try:
            await trio.to_thread.run_sync(self._flush_and_unmount)
        except (OSError, SystemFailure) as error:
            log.error("%s: ending all the same", error)
        with trio.move_on_after(LINGER_S):
            await self._over.wait()
        if not self._over.is_set():
            pyfuse3.terminate()

    def _flush_and_unmount(self) -> None:
        """Runs in a thread: each step waits for requests that the trio thread answers.

        Raises: OSError, SystemFailure.
        """
        if not self.device:
            # The signal came before `check`: programs may have written all the same.
            self.device = os.stat(self._mountpoint).st_dev
        place = self._find_mountpoint()
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.fstat(root).st_dev != self.device:
                raise SystemFailure(f"another filesystem is mounted over {place}")
            _libc.syncfs(root)
            unmount_lazily(place)
            # What was written between the two; the mount is out of reach for new programs now.
            _libc.syncfs(root)
        finally:
            os.close(root)

    def _find_mountpoint(self) -> str:
        """Return where the mount is now: a directory above it may have been renamed."""
        device = (os.major(self.device), os.minor(self.device))
        for mount in load_mounts():
            if mount.device == device:
                return os.fspath(mount.mountpoint)
        raise SystemFailure(f"{self._mountpoint} is not mounted any more")

    def _kernel_options(self) -> set[str]:
        options = self._options
        source = os.fspath(options.store).replace("\\", "\\\\").replace(",", "\\,")
        chosen = {"default_permissions", "subtype=pond", _Bytes(f"fsname={source}")}
        if os.geteuid() == 0:
            # As for any filesystem that root mounts: mount(8)'s defaults. But who owns the store
            # can write any row into it, a set-user-id file of root's as well.
            ours = os.stat(options.store)
            chosen |= (
                {"nosuid", "nodev"} if ours.st_uid or ours.st_mode & 0o022 else {"suid", "dev"}
            )
        for option in options.kernel:
            # As asked: root may say that it trusts that owner.
            if option in ("nosuid", "nodev", "suid", "dev"):
                name = option.removeprefix("no")
                chosen -= {name, f"no{name}"}
            chosen.add(option)
        if options.ro:
            chosen.add("ro")
        if options.allow_other:
            chosen.add("allow_other")
        return chosen

    def check(self) -> None:
        """Ask the mount for its root as any program would, and raise its read-ahead.

        Blocks, and needs `serve` to answer: call from a thread.

        Raises: OSError if the mount does not answer as it should.
        """
        device = self.device = os.stat(self._mountpoint).st_dev
        bdi = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        # Only root may; others keep the kernel's default.
        with contextlib.suppress(OSError):
            Path(bdi).write_text(str(READ_AHEAD_KB))


def _invalidate(stale: Stale) -> None:
    for node_id in stale.contents:
        _quietly(pyfuse3.invalidate_inode, node_id, False)
    for node_id in stale.attributes:
        _quietly(pyfuse3.invalidate_inode, node_id, True)
    for parent, name in stale.entries:
        _quietly(pyfuse3.invalidate_entry, parent, name)


def _quietly(function: Callable[..., None], *args: object) -> None:
    """Call pyfuse3; ENOENT only says that the kernel did not remember it."""
    try:
        function(*args)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EBADF):
            log.warning("the kernel keeps something old in its cache: %s", error.strerror)


def _is_news(record: logging.LogRecord) -> bool:
    """Pass over what pyfuse3 calls an error and is none: a reply nobody waits for any more.

    The kernel answers ENOENT when the caller was killed or the mount ended meanwhile.
    """
    return not (
        "fuse_reply_* failed" in str(record.msg)
        and os.strerror(errno.ENOENT) in record.getMessage()
    )


def unmount_lazily(mountpoint: str) -> None:
    """Take the mount out of the tree; it ends when its last open file is closed.

    Raises: SystemFailure.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), MNT_DETACH) != 0:
            number = ctypes.get_errno()
            raise SystemFailure(f"cannot unmount {mountpoint}: {os.strerror(number)}")
        return
    helper = shutil.which("fusermount3", path="/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin")
    if helper is None:
        raise SystemFailure("fusermount3 is not installed: apt install fuse3")
    done = subprocess.run(
        [helper, "-u", "-z", mountpoint], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemFailure(f"cannot unmount {mountpoint}: {done.stderr.strip()}")


class _Capture:
    """Takes what a C library prints on stderr, so that it becomes part of one clear error line."""

    def __enter__(self) -> None:
        self._file = os.memfd_create("stderr")
        self._saved = os.dup(2)
        os.dup2(self._file, 2)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)
        size = os.fstat(self._file).st_size
        said = os.pread(self._file, size, 0).decode(errors="replace")
        os.close(self._file)
        self._text = "; ".join(line.strip() for line in said.splitlines() if line.strip())

    def text(self) -> str:
        """Return what was printed, as one line."""
        return self._text
