"""Several changes as one version, or none: in a tree of their own until they are committed.

A pond that is not mounted is changed by nobody else, so there it is just not committed before the
end. Beside a mount the changes are made to a private copy of the newest version: what they write
goes into data files of the store that nothing refers to. In the end the daemon is told of those; it
does what they say as one version, unless others changed the same meanwhile.
"""

import errno
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pondfs.api.unmounted import LocalBackend, UnmountedBackend
from pondfs.control.reach import connect_mount
from pondfs.errors import CommitFailed, Conflict, DaemonGone, DaemonRefused
from pondfs.mountinfo import Mount, find_pond_at
from pondfs.node import Version
from pondfs.unmount import flush_kernel

if TYPE_CHECKING:
    from pondfs.api.backend import Backend
    from pondfs.control.client import Client


def begin(store: Path, mount: Mount | None) -> "Backend":
    """Return a tree to make changes in that only it shows, until its `commit`, which ends it.

    `discard`, or never committing, is as if nothing had been done; a handle's `fsync` does nothing.

    Args:
        store: the pond's directory.
        mount: where it is mounted, for writing; None when it is not.
    Raises: NotAPond; PondLocked; StoreDamaged; OSError. Of a mount: CommitFailed, as what is
        pending becomes a version first; DaemonGone; NotPermitted for who is neither its owner nor
        root; EROFS when it is read-only.
    """
    if mount is None:
        return UnmountedBackend(store, fsync_commits=False)
    return MountedTransaction(store, mount)


class MountedTransaction(LocalBackend):
    """Changes to a mounted pond that only this shows. Implements `backend.Backend`.

    Nodes made in it get new numbers when it is committed, and so do files whose bytes or mtime it
    changed.
    """

    def __init__(self, store: Path, mount: Mount) -> None:
        """Begin, at the newest version. Raises: see `begin`."""
        if "ro" in mount.options:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(mount.mountpoint))
        self._mountpoint = mount.mountpoint
        with connect_mount(mount) as client:
            _flush(mount.mountpoint)
            _call(client, "commit")
            use_acl = bool(client.hello["options"]["acl"])

        from pondfs.store.scratch import ScratchStore
        from pondfs.vfs.base import VfsOptions
        from pondfs.vfs.vfs import Vfs

        scratch = self._store = ScratchStore.open_reader(store)
        try:
            vfs = Vfs(scratch, VfsOptions(acl=use_acl, commit_s=math.inf))
            self._base = vfs.committer.version
            super().__init__(
                vfs,
                f"the transaction on {mount.mountpoint}",
                finish=scratch.close,
                live_at=os.fsencode(mount.mountpoint),
                fsync_commits=False,
            )
        except BaseException:
            scratch.close()
            raise

    def commit(self, message: str = "") -> Version | None:
        """Make all of it one version, durable on return, and end; None when nothing was changed.

        Raises: Conflict naming what others changed since, and nothing was done; DaemonGone, also
            when it goes while it is at it: then all was done, or nothing; CommitFailed; OSError.
        """
        try:
            super().commit(message)
            taken = self._store.taken
            return None if taken is None else self._apply(*taken)
        finally:
            self.discard()

    def close(self) -> None:
        """As `discard`: what was not committed is not done."""
        self.discard()

    def _apply(self, files: list[str], message: str) -> Version | None:
        mount = find_pond_at(self._mountpoint)
        if mount is None:
            raise DaemonGone(
                f"the pond was unmounted from {self._mountpoint} meanwhile, and nothing of the "
                "transaction was done: begin again"
            )
        with connect_mount(mount) as client:
            # What others have written has to be there to be compared with.
            _flush(mount.mountpoint)
            return _call(client, "apply", base=self._base, files=files, message=message)


def _flush(mountpoint: Path) -> None:
    try:
        flush_kernel(mountpoint)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise
        why = "its daemon went away meanwhile, and nothing of the transaction was done"
        raise DaemonGone(f"{mountpoint} is mounted but {why}") from None


def _call(client: "Client", op: str, **fields: object) -> Version | None:
    """Have the daemon make a version and return it. Raises: CommitFailed, Conflict, and others."""
    try:
        version = client.call(op, timeout_s=None, **fields)["version"]
    except DaemonRefused as error:
        if error.exit_code == Conflict.exit_code:
            raise Conflict(str(error)) from None
        if error.exit_code == CommitFailed.exit_code:
            raise CommitFailed(str(error), error.errno) from None
        raise
    return None if version is None else Version(version)
