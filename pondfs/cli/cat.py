"""``pond cat``: a file's bytes, now or then."""

import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

import click

from pondfs.cli.globs import expand_all
from pondfs.cli.output import format_path, progress
from pondfs.cli.reach import find_place, pond_option
from pondfs.cli.trees import Tree, at_option, open_tree
from pondfs.errors import UsageError
from pondfs.node import FILE_TYPES
from pondfs.store.tree import PIECE_BYTES

_LOOK_BYTES = 64 << 10
"""How much of a file says whether it is text."""

_ROW_BYTES = 16

# Control characters that text has: backspace (man pages), tab, newlines, escape (colours).
_TEXT_CONTROLS = frozenset(b"\b\t\n\f\r\x1b")


@click.command("cat")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@at_option
@pond_option
def command(paths: tuple[str, ...], at: str | None) -> None:
    """Print the bytes of the file at PATH, or of several, one after the other.

    A terminal gets text as it is, and a hex dump of anything else. Without --at it is the file as
    it is now; of a pond that is not mounted, the newest version.

    \b
    Example:
      pond cat notes/plan.txt --at yesterday
      pond cat photo.jpg --at 42 > photo.jpg
      pond cat 'raw/2026-*.csv'
    """
    place = find_place()
    with progress("reading"):
        tree = open_tree(place, at)
    out = sys.stdout.buffer
    try:
        for found in expand_all(tree, place, paths, as_seen=at is None):
            where, info = found.follow(tree)
            if stat.S_ISDIR(info.mode):
                raise UsageError(f"'/{format_path(where)}' is a directory: see pond ls")
            if not stat.S_ISREG(info.mode):
                kind = FILE_TYPES[stat.S_IFMT(info.mode)]
                raise UsageError(f"'/{format_path(where)}' is a {kind}: it has no content")
            pieces = whole(tree, where, info.size_bytes)
            if sys.stdout.isatty():
                _show(pieces, out)
            else:
                for piece in pieces:
                    out.write(piece)
    finally:
        tree.close()
    out.flush()


def whole(tree: Tree, path: bytes, size_bytes: int) -> Iterator[bytes]:
    """Yield a file's bytes, holes as zeros.

    A file that grows meanwhile is taken as it is; *size_bytes* only says where a hole at the end
    ends.
    """
    at = 0
    for offset, data in tree.read(path):
        yield from _zeros(offset - at)
        yield data
        at = offset + len(data)
    yield from _zeros(size_bytes - at)


def _zeros(count: int) -> Iterator[bytes]:
    zeros = bytes(max(0, min(count, PIECE_BYTES)))
    for done in range(0, count, PIECE_BYTES):
        yield zeros[: count - done]


def is_text(data: bytes) -> bool:
    """Return whether the beginning of a file looks like text: UTF-8 without odd controls."""
    look = data[:_LOOK_BYTES]
    try:
        look.decode()
    except UnicodeDecodeError as error:
        # A character cut in two at the end is none of the file's fault.
        if error.reason != "unexpected end of data" or len(data) < _LOOK_BYTES:
            return False
    return all(byte >= 0x20 or byte in _TEXT_CONTROLS for byte in set(look))


def _show(pieces: Iterator[bytes], out: BinaryIO) -> None:
    first = next(pieces, b"")
    if is_text(first):
        out.write(first)
        for piece in pieces:
            out.write(piece)
        return
    offset = 0
    last = b""
    is_repeated = False
    for row in _rows(first, pieces):
        # As hexdump(1): rows like the one before are one star.
        if row == last:
            if not is_repeated:
                out.write(b"*\n")
            is_repeated = True
        else:
            out.write(_dump_row(offset, row))
            is_repeated = False
        last = row
        offset += len(row)
    out.write(b"%08x\n" % offset)


def _rows(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = first
    while rest:
        full = len(rest) - len(rest) % _ROW_BYTES
        for at in range(0, full, _ROW_BYTES):
            yield rest[at : at + _ROW_BYTES]
        rest = rest[full:]
        more = next(pieces, b"")
        if not more:
            break
        rest += more
    if rest:
        yield rest


def _dump_row(offset: int, row: bytes) -> bytes:
    digits = row[:8].hex(" ") + "  " + row[8:].hex(" ")
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
    return f"{offset:08x}  {digits:<49} |{shown}|\n".encode()
