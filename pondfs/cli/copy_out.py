"""Copying out of a pond: a file or a tree to the host's own filesystem, safely."""

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pondfs.cli.host import HOLD, Target, allow_depth, identity, open_inside
from pondfs.cli.output import format_path
from pondfs.cli.tally import Tally
from pondfs.cli.trees import Tree, walk
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.tree import NodeStat, Piece

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_BY_FD = b"/proc/self/fd/"


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is being copied.

    Attributes:
        path: where it is in the tree.
        info: what it is there.
        fd: the copy, held open (O_PATH).
    """

    path: bytes
    info: NodeStat
    fd: int


@dataclass(frozen=True, slots=True)
class _Made:
    """A copy that others may be hard links to: where it is, and by what to know it again."""

    path: bytes
    identity: tuple[int, int]


class CopyOut:
    """One copying, and what became of it.

    The place may be another user's, who swaps what was just made for a symlink: directories are
    held open, what is made is opened once and gets its attributes by that, and no path is looked up
    twice.

    What goes into one directory, held open, may be several things: hard links among them are kept.

    And the pond may be another user's, who can have put any row into its table. So what root copies
    is set-user-id for nobody but that user, has no rights by an attribute, and is no device.

    Args:
        tree: what is copied from.
        target: where to.
        tally: what becomes of it.
        force: replace what is there.
        voucher: whose word the tree's owners and modes are; root's is believed. See `voucher_of`.
    """

    def __init__(
        self, tree: Tree, target: Target, tally: Tally, *, force: bool, voucher: int
    ) -> None:
        self.target = target
        self._tree = tree
        self._tally = tally
        self._force = force
        self._links: dict[int, _Made] = {}
        self._is_root = os.geteuid() == 0
        self._doubted = voucher if self._is_root and voucher else None

    def check(self, path: bytes, info: NodeStat) -> None:
        """Refuse, before anything is written, to replace what is there already.

        Raises: UsageError naming the first such file.
        """
        is_there = self._check_one(info, self.target.reach(b""))
        if is_there and stat.S_ISDIR(info.mode):
            for inner, facts in walk(self._tree, path, lambda _: None):
                self._check_one(facts, self.target.reach(_from(path, inner)))

    def _check_one(self, info: NodeStat, name: bytes) -> bool:
        try:
            there = os.stat(name or b".", dir_fd=self.target.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        shown = format_path(self.target.call(name))
        if stat.S_ISDIR(there.st_mode) != stat.S_ISDIR(info.mode):
            is_dir = stat.S_ISDIR(there.st_mode)
            raise UsageError(
                f"'{shown}' is {'a' if is_dir else 'no'} directory, what is copied there is "
                f"{'none' if is_dir else 'one'}: move it away first"
            )
        if not self._force and not stat.S_ISDIR(info.mode):
            raise UsageError(f"'{shown}' is there already: --force replaces it")
        return True

    def run(self, path: bytes, info: NodeStat) -> None:
        """Copy what is at *path*, a directory with all that is in it."""
        target = self.target
        if not stat.S_ISDIR(info.mode):
            self._make(path, info, target.fd, target.name)
            return
        allow_depth()
        # Making what is in a directory changes its times, and its mode may forbid it.
        held = list[_Directory]()
        try:
            held.append(_Directory(path, info, self._enter(target.fd, target.name)))
            for inner, facts in walk(self._tree, path, self._tally.failed):
                while not _is_below(inner, held[-1].path):
                    self._leave(held)
                name = target.reach(_from(path, inner))
                if stat.S_ISDIR(facts.mode):
                    held.append(_Directory(inner, facts, self._enter(held[-1].fd, name)))
                else:
                    self._make(inner, facts, held[-1].fd, name)
            while held:
                self._leave(held)
        finally:
            for directory in held:
                os.close(directory.fd)

    def _enter(self, above: int, path: bytes) -> int:
        """Make a directory, unless it is there, and hold it open."""
        with self._naming(path):
            name = os.path.basename(path)
            if not name:
                return os.dup(above)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
            return os.open(name, HOLD | os.O_NOFOLLOW, dir_fd=above)

    def _leave(self, held: list[_Directory]) -> None:
        directory = held[-1]
        with self._naming(self.target.reach(_from(held[0].path, directory.path))):
            self._finish(directory.path, directory.info, directory.fd)
        os.close(held.pop().fd)

    @contextlib.contextmanager
    def _naming(self, path: bytes) -> Iterator[None]:
        """Have errors name the copy as a person calls it, not relative to what is held open."""
        try:
            yield
        except OSError as error:
            # What the tree says names, as text, what it could not read.
            if not isinstance(error.filename, str):
                error.filename = format_path(self.target.call(path))
            raise

    def _make(self, path: bytes, info: NodeStat, above: int, where: bytes) -> None:
        """Copy what is no directory to *where*, whose directory is *above*.

        What is replaced stays until the copy is whole, and nothing half made is left.
        """
        final = os.path.basename(where)
        name = final
        if self._force:
            name = b".%s.%s" % (final[:200], secrets.token_hex(4).encode())
        try:
            with self._naming(where):
                identity = self._link(info, above, name) or self._make_new(path, info, above, name)
                if name != final:
                    _replace(name, final, above)
        except NoSuchPath:
            return  # gone since it was listed
        except PermissionError as error:
            # Ours to read it is not, or to make a device; disk full and the like end it all.
            self._tally.failed(error)
            return
        if info.nlink > 1:
            self._links.setdefault(info.ino, _Made(where, identity))
        self._tally.add_file()

    def _link(self, info: NodeStat, above: int, name: bytes) -> tuple[int, int] | None:
        """Make a hard link to the copy of the same node; return None if there can't be one."""
        first = self._links.get(info.ino) if info.nlink > 1 else None
        if first is None:
            return None
        try:
            fd = open_inside(self.target.fd, first.path)
        except OSError:
            return None
        try:
            # Not what somebody put in its place.
            if identity(fd) != first.identity:
                return None
            os.link(_BY_FD + b"%d" % fd, name, dst_dir_fd=above, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError:
            return None  # no hard links here, or no more; what else is wrong, a copy will tell
        finally:
            os.close(fd)
        return first.identity

    def _make_new(self, path: bytes, info: NodeStat, above: int, name: bytes) -> tuple[int, int]:
        """Make a copy with content and attributes; return by what to know it again."""
        kind = stat.S_IFMT(info.mode)
        pieces: Iterator[Piece] = iter(())
        if kind == stat.S_IFREG:
            pieces = self._tree.read(path)
            # Opened for reading before anything is made.
            first = list(itertools.islice(pieces, 1))
            pieces = itertools.chain(first, pieces)
            fd = os.open(name, _NEW, 0o600, dir_fd=above)
        else:
            if kind in (stat.S_IFBLK, stat.S_IFCHR) and self._doubted is not None:
                raise PermissionError(
                    errno.EPERM, f"user {self._doubted} has the pond, and may make no device"
                )
            if kind == stat.S_IFLNK:
                os.symlink(self._tree.readlink(path), name, dir_fd=above)
            else:
                self._make_special(kind, info, above, name)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            made = os.fstat(fd)
            if kind == stat.S_IFREG:
                self._fill(fd, pieces, info)
            elif stat.S_IFMT(made.st_mode) != kind or made.st_nlink > 1:
                # Only a regular file is opened by what makes it.
                raise FileExistsError(errno.EEXIST, "somebody replaced it while it was copied")
            self._finish(path, info, fd)
            return made.st_dev, made.st_ino
        except FileExistsError:
            raise  # somebody else's
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=above)
            raise
        finally:
            os.close(fd)

    @staticmethod
    def _make_special(kind: int, info: NodeStat, above: int, name: bytes) -> None:
        try:
            os.mknod(name, kind | 0o600, info.rdev, dir_fd=above)
        except PermissionError as error:
            raise PermissionError(error.errno, "only root can make a device") from None

    def _fill(self, fd: int, pieces: Iterator[Piece], info: NodeStat) -> None:
        end = 0
        for offset, data in pieces:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(fd, view, offset + len(data) - len(view)) :]
            end = offset + len(data)
            self._tally.add_bytes(len(data))
        # A hole at the end; but what grew meanwhile is taken as it is.
        if info.size_bytes > end:
            os.ftruncate(fd, info.size_bytes)

    def _finish(self, path: bytes, info: NodeStat, fd: int) -> None:
        """Give the copy its attributes, in the order in which none undoes another.

        chown drops set-id bits and capabilities; user xattrs need write permission, which the mode
        may not give; all but the times moves the times.
        """
        # For a symlink and what O_PATH opened, too, there is no fchmod(2): but this is that very
        # node, and no path that others could change leads to it (proc(5), magic links).
        copy = _BY_FD + b"%d" % fd
        mode = self._own(info, fd, copy)
        self._put_xattrs(path, copy)
        if not stat.S_ISLNK(info.mode):
            os.chmod(copy, mode)
        os.utime(copy, ns=(info.atime_ns, info.mtime_ns))

    def _own(self, info: NodeStat, fd: int, copy: bytes) -> int:
        """Give the copy its owner as far as we may; return the mode it may have then."""
        mode = stat.S_IMODE(info.mode)
        if self._is_root:
            os.chown(copy, info.uid, info.gid)
            if self._doubted is None:
                return mode
            kept = mode
            if info.uid != self._doubted:
                kept &= ~stat.S_ISUID
            if not stat.S_ISDIR(info.mode):
                # Which groups that user is in now says nothing of then.
                kept &= ~stat.S_ISGID
            self._tally.rights_lost += kept != mode
            return kept
        now = os.fstat(fd)
        if now.st_gid != info.gid:
            with contextlib.suppress(PermissionError):
                os.chown(copy, -1, info.gid)
                now = os.fstat(fd)
        if (now.st_uid, now.st_gid) != (info.uid, info.gid):
            self._tally.owners_lost += 1
            # Set-id for somebody it was not meant for would be a hole.
            if now.st_uid != info.uid:
                mode &= ~stat.S_ISUID
            if now.st_gid != info.gid and not stat.S_ISDIR(info.mode):
                mode &= ~stat.S_ISGID
        return mode

    def _put_xattrs(self, path: bytes, copy: bytes) -> None:
        try:
            xattrs = self._tree.xattrs(path)
        except NoSuchPath:
            return  # gone since it was copied
        for name, value in xattrs.items():
            if self._doubted is not None and name.startswith((b"security.", b"trusted.")):
                self._tally.rights_lost += 1
                continue
            try:
                os.setxattr(copy, name, value)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSPC):
                    raise
                self._tally.xattrs_lost += 1


def _from(path: bytes, inner: bytes) -> bytes:
    """Return *inner*, which is at or below *path*, from there."""
    return inner[len(path) + 1 :] if path else inner


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def _replace(name: bytes, final: bytes, above: int) -> None:
    try:
        os.replace(name, final, src_dir_fd=above, dst_dir_fd=above)
    finally:
        # It failed; or did nothing, as rename(2) does if both names are one file: a link that was
        # there already.
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=above)
