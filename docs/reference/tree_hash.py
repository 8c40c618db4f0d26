"""The hash of a tree as `pond check --data` prints it, of any directory: python tree_hash.py DIR.

It is made of what copies keep; see check.md. As root, or what may not be read is missing.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator

KINDS = {
    stat.S_IFREG: b"file", stat.S_IFDIR: b"directory", stat.S_IFLNK: b"symlink",
    stat.S_IFIFO: b"fifo", stat.S_IFSOCK: b"socket", stat.S_IFBLK: b"block", stat.S_IFCHR: b"char",
}  # fmt: skip


def netstring(data: bytes) -> bytes:
    return b"%d:%b," % (len(data), data)


def fields(top: bytes, path: bytes, first: dict[tuple[int, int], bytes]) -> Iterator[bytes]:
    where = os.path.join(top, path) if path else top
    info = os.lstat(where)
    kind = stat.S_IFMT(info.st_mode)
    yield path
    if kind != stat.S_IFDIR and info.st_nlink > 1:
        before = first.setdefault((info.st_dev, info.st_ino), path)
        if before != path:
            yield b"link"
            yield before
            return
    yield KINDS[kind]
    yield b"%o" % stat.S_IMODE(info.st_mode)
    yield b"%d" % info.st_uid
    yield b"%d" % info.st_gid
    yield b"%d" % info.st_mtime_ns
    if kind == stat.S_IFREG:
        yield b"%d" % info.st_size
        with open(where, "rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest().encode()
    elif kind == stat.S_IFLNK:
        yield os.readlink(where)
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        yield b"%d:%d" % (os.major(info.st_rdev), os.minor(info.st_rdev))
    try:
        names = os.listxattr(where, follow_symlinks=False)
    except OSError:  # a filesystem that has none
        names = []
    for name in sorted(map(os.fsencode, names)):
        yield name
        yield os.getxattr(where, name, follow_symlinks=False)


def tree_hash(top: bytes) -> str:
    found = hashlib.sha256(b"pond tree 1\n")
    first: dict[tuple[int, int], bytes] = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        found.update(netstring(b"".join(map(netstring, fields(top, path, first)))))
        where = os.path.join(top, path) if path else top
        if os.path.isdir(where) and not os.path.islink(where):
            names = sorted(os.listdir(where), reverse=True)
            todo += [os.path.join(path, name) for name in names]
    return found.hexdigest()


if __name__ == "__main__":
    print(tree_hash(os.fsencode(sys.argv[1])))
