"""Copying into a pond: a file or a tree, from the host or from the pond as it is or was."""

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

from pondfs.cli.changing import make_parents
from pondfs.cli.output import format_path
from pondfs.cli.tally import Tally
from pondfs.cli.trees import Tree, walk
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.tree import NodeStat

if TYPE_CHECKING:
    from pondfs.api.backend import Backend

_NOT_OURS = (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSPC)
"""Why an extended attribute can't be kept: the mount has none, or not for us."""


def check(tree: Tree, path: bytes, info: NodeStat, pond: Tree, target: bytes, force: bool) -> None:
    """Refuse, before anything is written, to replace what is there already.

    Args:
        tree: what is copied from.
        path: what, there.
        info: what it is.
        pond: what is copied to.
        target: where, there.
        force: files may be replaced by files.
    Raises: UsageError naming the first that is in the way.
    """
    is_there = _check_one(info, pond, target, force)
    if is_there and stat.S_ISDIR(info.mode):
        for inner, facts in walk(tree, path, lambda _: None):
            _check_one(facts, pond, _reach(path, inner, target), force)


def _check_one(info: NodeStat, pond: Tree, target: bytes, force: bool) -> bool:
    try:
        there = pond.lstat(target)
    except NoSuchPath:
        return False
    shown = format_path(b"/" + target)
    if stat.S_ISDIR(there.mode) != stat.S_ISDIR(info.mode):
        is_dir = stat.S_ISDIR(there.mode)
        raise UsageError(
            f"'{shown}' is {'a' if is_dir else 'no'} directory, what is copied there is "
            f"{'none' if is_dir else 'one'}: move it away first"
        )
    if not force and not stat.S_ISDIR(info.mode):
        raise UsageError(f"'{shown}' is there already: --force replaces it")
    return True


def _reach(path: bytes, inner: bytes, target: bytes) -> bytes:
    """Return where *inner*, at or below *path*, is copied to."""
    if inner == path:
        return target
    return os.path.join(target, inner[len(path) + 1 :] if path else inner)


class CopyIn:
    """One copying, of any number of things from one tree.

    Args:
        tree: what is copied from.
        backend: the pond.
        tally: what becomes of it.
        force: replace what is there; it stays until its copy is whole.
        keep_going: leave out what can't be read, and tell; else it is an error.
        parents: make directories on the way.
    """

    def __init__(
        self,
        tree: Tree,
        backend: "Backend",
        tally: Tally,
        *,
        force: bool,
        keep_going: bool,
        parents: bool,
    ) -> None:
        self._tree = tree
        self._backend = backend
        self._tally = tally
        self._force = force
        self._keep_going = keep_going
        self._parents = parents
        self._links: dict[int, bytes] = {}
        self._made = set[int]()
        self._is_root = os.geteuid() == 0

    def run(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Copy what is at *path*, a directory with all that is in it, to *target* in the pond.

        Raises: UsageError for what came there meanwhile; OSError.
        """
        if self._parents:
            make_parents(self._backend, target)
        if not stat.S_ISDIR(info.mode):
            self._make(path, info, target)
            return
        # Making what is in a directory changes its times, and its mode may forbid it.
        held = [(path, info)]
        self._enter(target)
        for inner, facts in walk(self._tree, path, self._failed):
            while not _is_below(inner, held[-1][0]):
                self._leave(held, path, target)
            where = _reach(path, inner, target)
            if stat.S_ISDIR(facts.mode):
                if facts.ino in self._made:
                    raise UsageError(
                        f"'/{format_path(target)}' is inside what is to be copied, by the mount"
                    )
                held.append((inner, facts))
                self._enter(where)
            else:
                self._make(inner, facts, where)
        while held:
            self._leave(held, path, target)

    def _failed(self, error: OSError) -> None:
        if not self._keep_going:
            raise error
        self._tally.failed(error)

    def _enter(self, target: bytes) -> None:
        try:
            self._backend.mkdir(target, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            if not stat.S_ISDIR(self._backend.lstat(target).mode):
                raise
        else:
            self._made.add(self._backend.lstat(target).ino)

    def _leave(self, held: list[tuple[bytes, NodeStat]], path: bytes, target: bytes) -> None:
        inner, info = held.pop()
        self._finish(inner, info, _reach(path, inner, target))

    def _make(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Copy what is no directory; nothing half made is left."""
        above, final = os.path.split(target)
        name = target
        if self._force:
            name = os.path.join(above, b".%s.%s" % (final[:200], secrets.token_hex(4).encode()))
        try:
            if not self._link(info, name):
                self._make_new(path, info, name)
            if name != target:
                self._replace(name, target)
        except NoSuchPath:
            return  # gone since it was listed
        except OSError as error:
            if error.filename == "/" + os.fsdecode(name):
                error.filename = "/" + os.fsdecode(target)
            # Ours to read it is not, or to make a device; disk full and the like end it all.
            if not isinstance(error, PermissionError):
                raise
            self._failed(error)
            return
        if info.nlink > 1:
            self._links.setdefault(info.ino, target)
        self._tally.add_file()

    def _replace(self, name: bytes, target: bytes) -> None:
        try:
            self._backend.rename(name, target)
        finally:
            # It failed; or did nothing, as rename(2) does if both names are one file.
            with contextlib.suppress(OSError):
                self._backend.unlink(name)

    def _link(self, info: NodeStat, name: bytes) -> bool:
        """Make a hard link to the copy of the same node, if there is one."""
        first = self._links.get(info.ino) if info.nlink > 1 else None
        if first is None:
            return False
        try:
            self._backend.link(first, name)
        except FileNotFoundError:
            return False  # somebody took it away
        return True

    def _make_new(self, path: bytes, info: NodeStat, name: bytes) -> None:
        kind = stat.S_IFMT(info.mode)
        try:
            if kind == stat.S_IFREG:
                self._fill(path, info, name)
            elif kind == stat.S_IFLNK:
                self._backend.symlink(self._tree.readlink(path), name)
            else:
                self._backend.mknod(name, kind | 0o600, info.rdev)
        except FileExistsError:
            raise UsageError(f"'/{format_path(name)}' is there already, just now") from None
        try:
            self._finish(path, info, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self._backend.unlink(name)
            raise

    def _fill(self, path: bytes, info: NodeStat, name: bytes) -> None:
        pieces = self._tree.read(path)
        first = next(pieces, None)  # opened for reading before anything is made
        handle = self._backend.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            end = 0
            while first is not None:
                offset, data = first
                handle.pwrite(data, offset)
                end = offset + len(data)
                self._tally.add_bytes(len(data))
                first = next(pieces, None)
            # A hole at the end; but what grew meanwhile is taken as it is.
            if info.size_bytes > end:
                handle.truncate(info.size_bytes)
            handle.close()
        except BaseException:
            with contextlib.suppress(OSError):
                handle.close()
            with contextlib.suppress(OSError):
                self._backend.unlink(name)
            raise

    def _finish(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Give the copy its attributes, in the order in which none undoes another."""
        mode = self._own(info, target)
        try:
            xattrs = self._tree.xattrs(path)
        except NoSuchPath:
            xattrs = {}  # gone since it was copied
        for name, value in xattrs.items():
            try:
                self._backend.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
                self._tally.xattrs_lost += 1
        if not stat.S_ISLNK(info.mode):
            self._backend.chmod(target, mode)
        self._backend.utime(target, info.atime_ns, info.mtime_ns)

    def _own(self, info: NodeStat, target: bytes) -> int:
        """Give the copy its owner as far as we may; return the mode it may have then."""
        mode = stat.S_IMODE(info.mode)
        if self._is_root:
            self._backend.chown(target, info.uid, info.gid)
            return mode
        now = self._backend.lstat(target)
        if now.gid != info.gid:
            with contextlib.suppress(PermissionError):
                self._backend.chown(target, -1, info.gid)
                now = self._backend.lstat(target)
        if (now.uid, now.gid) != (info.uid, info.gid):
            self._tally.owners_lost += 1
            # Set-id for somebody it was not meant for would be a hole.
            if now.uid != info.uid:
                mode &= ~stat.S_ISUID
            if now.gid != info.gid and not stat.S_ISDIR(info.mode):
                mode &= ~stat.S_ISGID
        return mode


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
