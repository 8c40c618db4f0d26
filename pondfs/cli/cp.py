"""``pond cp``: copy a file or a tree, as it was, out of the pond."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

import click

from pondfs.cli.mounted import MountedTree
from pondfs.cli.output import format_count, format_path, format_size, progress
from pondfs.cli.reach import find_place, path_in_pond, pond_option
from pondfs.cli.trees import Failures, Tree, at_option, follow, open_tree, walk
from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.tree import NodeStat

_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR)


@click.command("cp", short_help="Copy a file or a tree out, as it was.")
@click.argument("path")
@click.argument("dest", type=click.Path())
@at_option
@click.option("--force", is_flag=True, help="Replace files that are there already.")
@pond_option
def command(path: str, dest: str, at: str | None, force: bool) -> int:
    """Copy PATH, a file or a directory with all that is in it, to DEST outside or inside the mount.

    DEST is the copy's name, or a directory to put it into. Kept are modes, times, symlinks, hard
    links among what is copied, holes, extended attributes, special files and, for root, owners.
    Nothing is replaced without --force; what is only at DEST stays there. Without --at it is copied
    as it is now.

    \b
    Example:
      pond cp --at yesterday notes/plan.txt .
      pond cp --at 42 notes /tmp/notes-as-of-42
      pond cp --at 42 / /tmp/everything
    """
    place = find_place()
    with progress("reading"):
        tree = open_tree(place, at)
    try:
        where, info = follow(tree, path_in_pond(place, path), last=False)
        target = _target(os.fsencode(dest), where, info)
        _refuse_itself(tree, where, info, target)
        copy = _Copy(tree, force)
        with progress(f"copying {path}"):
            copy.check(where, info, target)
            copy.run(where, info, target)
    finally:
        tree.close()
    click.echo(
        f"copied {format_count(copy.count)} file{'' if copy.count == 1 else 's'}, "
        f"{format_size(copy.bytes)}, to {format_path(target)}"
    )
    for note in copy.notes():
        click.echo(f"pond: {note}", err=True)
    return copy.failed.code


def _target(dest: bytes, path: bytes, info: NodeStat) -> bytes:
    """Return the copy's name, as cp(1) finds it.

    The root has no name of its own: what is in it goes into DEST.
    """
    name = path.rpartition(b"/")[2]
    if os.path.isdir(dest):
        return os.path.join(dest, name) if name else dest
    if dest.endswith(b"/") and not stat.S_ISDIR(info.mode):
        raise UsageError(f"'{format_path(dest)}' is no directory: make it, or leave the slash out")
    dest = dest.rstrip(b"/")
    above = os.path.dirname(dest) or b"."
    if not os.path.isdir(above):
        raise UsageError(f"there is no directory '{format_path(above)}': make it first")
    return dest


def _refuse_itself(tree: Tree, path: bytes, info: NodeStat, target: bytes) -> None:
    """Refuse to copy a live directory into itself, which would never end."""
    if not isinstance(tree, MountedTree) or tree.live_at is None or not stat.S_ISDIR(info.mode):
        return
    source = os.stat(os.path.join(tree.live_at, path))
    above = os.path.realpath(target)
    while True:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(above), source):
                raise UsageError(
                    f"'{format_path(target)}' is inside what is to be copied: copy a version of "
                    "it (--at latest)"
                )
        if above == b"/":
            return
        above = os.path.dirname(above)


class _Copy:
    """One copying, and what became of it.

    Attributes:
        count: files and all else that is no directory, copied.
        bytes: their content.
        failed: what could not be read or made, and was left out.
    """

    def __init__(self, tree: Tree, force: bool) -> None:
        self.count = 0
        self.bytes = 0
        self.failed = Failures()
        self._tree = tree
        self._force = force
        self._links: dict[int, bytes] = {}
        self._is_root = os.geteuid() == 0
        self._owners_lost = 0
        self._xattrs_lost = 0

    def check(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Refuse, before anything is written, to replace what is there already.

        Raises: UsageError naming the first such file.
        """
        if not os.path.lexists(target):
            return
        self._check_one(info, target)
        if not stat.S_ISDIR(info.mode):
            return
        for inner, facts in walk(self._tree, path, lambda _: None):
            self._check_one(facts, _inside(path, inner, target))

    def _check_one(self, info: NodeStat, target: bytes) -> None:
        try:
            there = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError):
            return
        shown = format_path(target)
        if stat.S_ISDIR(there.st_mode) != stat.S_ISDIR(info.mode):
            is_dir = stat.S_ISDIR(there.st_mode)
            raise UsageError(
                f"'{shown}' is {'a' if is_dir else 'no'} directory, what is copied there is "
                f"{'none' if is_dir else 'one'}: move it away first"
            )
        if not self._force and not stat.S_ISDIR(info.mode):
            raise UsageError(f"'{shown}' is there already: --force replaces it")

    def run(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Copy what is at *path*, a directory with all that is in it."""
        self._make(path, info, target)
        if not stat.S_ISDIR(info.mode):
            return
        # Making what is in a directory changes its times, and its mode may forbid it.
        open_dirs = [(path, info, target)]
        for inner, facts in walk(self._tree, path, self.failed):
            while not _is_below(inner, open_dirs[-1][0]):
                self._finish(*open_dirs.pop())
            inner_target = _inside(path, inner, target)
            self._make(inner, facts, inner_target)
            if stat.S_ISDIR(facts.mode):
                open_dirs.append((inner, facts, inner_target))
        while open_dirs:
            self._finish(*open_dirs.pop())

    def _make(self, path: bytes, info: NodeStat, target: bytes) -> None:
        if stat.S_ISDIR(info.mode):
            try:
                os.mkdir(target, 0o700)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(target).st_mode):
                    raise
            return
        try:
            with self._placed(target) as name:
                if not self._link(info, name):
                    self._make_new(path, info, name)
                    self._finish(path, info, name)
        except NoSuchPath:
            return  # gone since it was listed
        except PermissionError as error:
            # Ours to read it is not, or to make a device; disk full and the like end it all.
            if not isinstance(error.filename, str | bytes):
                error.filename = format_path(target)
            self.failed(error)
            return
        if info.nlink > 1:
            self._links.setdefault(info.ino, target)
        self.count += 1

    def _link(self, info: NodeStat, target: bytes) -> bool:
        """Make a hard link to the copy of the same node; return False if there is none."""
        first = self._links.get(info.ino) if info.nlink > 1 else None
        if first is None:
            return False
        try:
            os.link(first, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            return False  # a filesystem without them (vfat), or with fewer
        return True

    @contextlib.contextmanager
    def _placed(self, target: bytes) -> Iterator[bytes]:
        """Give a name to make a file under; it is *target* once it is whole.

        What is replaced stays until then, and nothing half made is left.
        """
        replaces = self._force and os.path.lexists(target)
        above, _, name = target.rpartition(b"/")
        unnamed = b".%s.%s" % (name[:200], secrets.token_hex(4).encode())
        made = (above + b"/" + unnamed if above else unnamed) if replaces else target
        try:
            yield made
        except FileExistsError:
            raise  # somebody else's
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
        if replaces:
            os.replace(made, target)
            # rename(2) does nothing if both names are one file: a link that was there already.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)

    def _make_new(self, path: bytes, info: NodeStat, target: bytes) -> None:
        kind = stat.S_IFMT(info.mode)
        if kind == stat.S_IFREG:
            self._make_file(path, info, target)
        elif kind == stat.S_IFLNK:
            os.symlink(self._tree.readlink(path), target)
        elif kind in _SPECIAL:
            try:
                os.mknod(target, kind | 0o600, info.rdev)
            except PermissionError as error:
                raise PermissionError(
                    error.errno, "only root can make a device", format_path(target)
                ) from None

    def _make_file(self, path: bytes, info: NodeStat, target: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        pieces = self._tree.read(path)
        # Opened for reading before anything is made.
        first = next(pieces, None)
        with open(os.open(target, flags, 0o600), "wb", buffering=0) as file:
            end = 0
            while first is not None:
                offset, data = first
                file.seek(offset)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                end = offset + len(data)
                self.bytes += len(data)
                first = next(pieces, None)
            # A hole at the end; but what grew meanwhile is taken as it is.
            if info.size_bytes > end:
                file.truncate(info.size_bytes)

    def _finish(self, path: bytes, info: NodeStat, target: bytes) -> None:
        """Give the copy its attributes, in the order in which none undoes another.

        chown drops set-id bits and capabilities; user xattrs need write permission, which the mode
        may not give; all but the times moves the times.
        """
        is_link = stat.S_ISLNK(info.mode)
        mode = self._own(info, target)
        self._put_xattrs(path, target)
        if not is_link:
            os.chmod(target, mode)
        os.utime(target, ns=(info.atime_ns, info.mtime_ns), follow_symlinks=False)

    def _own(self, info: NodeStat, target: bytes) -> int:
        """Give the copy its owner as far as we may; return the mode it may have then."""
        mode = stat.S_IMODE(info.mode)
        if self._is_root:
            os.chown(target, info.uid, info.gid, follow_symlinks=False)
            return mode
        now = os.lstat(target)
        if now.st_gid != info.gid:
            with contextlib.suppress(PermissionError):
                os.chown(target, -1, info.gid, follow_symlinks=False)
                now = os.lstat(target)
        if (now.st_uid, now.st_gid) != (info.uid, info.gid):
            self._owners_lost += 1
            # Set-id for somebody it was not meant for would be a hole.
            if now.st_uid != info.uid:
                mode &= ~stat.S_ISUID
            if now.st_gid != info.gid and not stat.S_ISDIR(info.mode):
                mode &= ~stat.S_ISGID
        return mode

    def _put_xattrs(self, path: bytes, target: bytes) -> None:
        try:
            xattrs = self._tree.xattrs(path)
        except NoSuchPath:
            return  # gone since it was copied
        for name, value in xattrs.items():
            try:
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSPC):
                    raise
                self._xattrs_lost += 1

    def notes(self) -> Iterator[str]:
        """Yield what the copies lack, one line each."""
        if self._owners_lost:
            yield f"{format_count(self._owners_lost)} of them had another owner: root keeps owners"
        if self._xattrs_lost:
            yield (
                f"{format_count(self._xattrs_lost)} extended attributes could not be kept: the "
                "place does not have them, or only root may set them"
            )


def _inside(path: bytes, inner: bytes, target: bytes) -> bytes:
    """Return where *inner*, below *path*, is copied to."""
    return os.path.join(target, inner[len(path) + 1 :] if path else inner)


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
