"""A small tree as a value: taken from a directory, changed in thought, built again."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Node:
    """What one name leads to.

    ``inode`` is the first name, in byte order, of the same inode: hard links show in it, and two
    trees compare equal whatever numbers their filesystems gave out.
    """

    mode: int
    nlink: int
    content: bytes
    inode: bytes


# Relative name to node, the root's name being empty. Never changed once made.
Tree = Mapping[bytes, Node]


def take(root: Path) -> dict[bytes, Node]:
    """Return the tree at *root*; times, owners and sizes of directories are not part of it."""
    tree: dict[bytes, Node] = {}
    first_names: dict[int, bytes] = {}

    def visit(path: bytes, name: bytes) -> None:
        info = os.lstat(path)
        content = b""
        if stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                content = file.read()
            assert len(content) == info.st_size, f"{name!r}: {info.st_size=}, {len(content)=}"
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        inode = first_names.setdefault(info.st_ino, name)
        tree[name] = Node(info.st_mode, info.st_nlink, content, inode)
        if stat.S_ISDIR(info.st_mode):
            for entry in sorted(os.listdir(path)):
                visit(path + b"/" + entry, name + b"/" + entry if name else entry)

    visit(os.fsencode(root), b"")
    return tree


def build(tree: Tree, root: Path) -> None:
    """Make the directory *root* hold exactly *tree*."""
    top = os.fsencode(root)
    for entry in os.listdir(top):
        path = top + b"/" + entry
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    for name, node in tree.items():  # a directory comes before what is in it
        path = top + b"/" + name
        if node.inode != name:
            os.link(top + b"/" + node.inode, path, follow_symlinks=False)
        elif stat.S_ISLNK(node.mode):
            os.symlink(node.content, path)
        elif stat.S_ISDIR(node.mode):
            os.makedirs(path, exist_ok=True)
        elif stat.S_ISREG(node.mode):
            with open(path, "wb") as file:
                file.write(node.content)
        else:
            os.mknod(path, node.mode)
        if not stat.S_ISLNK(node.mode):
            os.chmod(path, stat.S_IMODE(node.mode))


def states_between(before: Tree, after: Tree) -> Iterator[Tree]:
    """Yield the trees that may be seen inside one create-truncate-write-close, oldest first.

    The kernel sends the create, then the truncation, then whole pages in their order when the file
    is closed; a commit may fall between any two of them. Every other operation is one request.
    """
    changed = [
        name
        for name, node in after.items()
        if stat.S_ISREG(node.mode) and (name not in before or before[name].content != node.content)
    ]
    if not changed:
        return
    old = before[changed[0]].content if changed[0] in before else b""
    new = after[changed[0]].content
    inode = after[changed[0]].inode
    starts = [old] if changed[0] in before else [b""]
    if old and changed[0] in before:
        starts.append(b"")  # O_TRUNC
    contents = []
    for start in starts:
        contents.append(start)
        contents += [new[:end] + start[end:] for end in range(PAGE_BYTES, len(new), PAGE_BYTES)]
    for content in contents:
        yield {
            name: replace(node, content=content) if node.inode == inode else node
            for name, node in after.items()
        }


def difference(one: Tree, two: Tree) -> str:
    """Say where two trees differ, briefly."""
    lines = []
    for name in sorted({*one, *two}):
        left, right = one.get(name), two.get(name)
        if left != right:
            lines.append(f"  {name!r}: {_brief(left)} | {_brief(right)}")
    return "\n".join(lines) or "  nothing"


def _brief(node: Node | None) -> str:
    if node is None:
        return "missing"
    runs = ", ".join(f"{value:#04x}*{count}" for value, count in Counter(node.content).items())
    return (
        f"{node.mode:o} nlink={node.nlink} {len(node.content)} bytes ({runs[:80]}) {node.inode!r}"
    )
