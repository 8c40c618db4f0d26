"""``pond cp``: copy files and trees, between the host and a pond or within a pond."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from pondfs.cli.changing import ChangingCommand, Work, changing, commit_options, tell
from pondfs.cli.copy_in import CopyIn, check
from pondfs.cli.copy_out import CopyOut
from pondfs.cli.globs import Found, expand_all, has_magic
from pondfs.cli.host import Target, allow_depth, open_sources, open_target, refuse_itself
from pondfs.cli.output import format_path, progress
from pondfs.cli.reach import Place, find_place, pond_option
from pondfs.cli.tally import Tally
from pondfs.cli.targets import (
    directories_above,
    fill,
    find_in_pond,
    has_captures,
    refuse_same,
    refuse_several,
    require_directory,
)
from pondfs.cli.trees import Tree, at_option, open_tree, voucher_of
from pondfs.errors import UsageError

_SIDES = ("pond", "host")


@dataclass(frozen=True, slots=True)
class _Job:
    """What the command line says.

    Attributes:
        sources: without prefixes.
        dest: without its prefix.
        is_pattern: whether a source has wildcards, and so *dest* may name what they stood for.
    """

    place: Place
    sources: tuple[str, ...]
    dest: str
    is_pattern: bool
    force: bool
    parents: bool
    dry_run: bool

    def fill(self, found: Found) -> str:
        """Return DEST for one source."""
        return fill(self.dest, found.captures) if self.is_pattern else self.dest

    @property
    def is_one_dest(self) -> bool:
        """Whether all goes to one DEST, which must be a directory for several things."""
        return not (self.is_pattern and has_captures(self.dest))


@click.command("cp", cls=ChangingCommand)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("dest", metavar="DEST")
@at_option
@click.option("--force", "-f", is_flag=True, help="Replace files that are there already.")
@click.option("--parents", "-p", is_flag=True, help="Make the directories that DEST lacks.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be copied where.")
@click.option("-r", "-R", "-a", "_", is_flag=True, help="As always: trees, and all that is kept.")
@commit_options
@click.option("--json", "as_json", is_flag=True, help="Print {version, dry_run, …} as JSON.")
@pond_option
def command(
    sources: tuple[str, ...],
    dest: str,
    at: str | None,
    force: bool,
    parents: bool,
    dry_run: bool,
    _: bool,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> int:
    """Copy SRC, a file or a directory with all that is in it, to DEST.

    pond: and host: in front say where a path is. Without any, SRC is in the pond and DEST on the
    host; with one, what has none is on the other side. So pond: on both sides copies in the pond.
    A host path may lead into the mount, which is the same.

    DEST is the copy's name, or a directory to put it into. Kept are modes, times, symlinks, hard
    links among what is copied, holes, extended attributes, special files and, for root, owners.
    Nothing is replaced without --force; what is only at DEST stays there. --at is for an SRC in the
    pond. If SRC has wildcards, $0, $1, … in DEST are what they stood for, in their order.

    \b
    Example:
      pond cp --at yesterday notes/plan.txt .
      pond cp --at 42 / /tmp/everything
      pond cp host:/etc/hosts host:/etc/fstab pond:etc/
      pond cp --at 42 pond:notes pond:notes-as-of-42
      pond cp -p 'pond:raw/**/*.csv' 'host:/tmp/csv/$0/$1.csv'
    """
    from_pond, bare, to_pond, target = _sides(sources, dest)
    if at is not None and not from_pond:
        raise UsageError("--at is for what is in the pond: SRC is on the host")
    if not to_pond and (message is not None or no_commit):
        raise UsageError("-m and --no-commit are for changes in the pond: DEST is on the host")
    is_pattern = any(has_magic(source) for source in bare)
    job = _Job(find_place(), bare, target, is_pattern, force, parents, dry_run)
    tally = Tally()
    if not to_pond:
        return _copy_out(job, at, tally, as_json)
    return _copy_in(job, from_pond, at, tally, message, no_commit, as_json)


def _sides(sources: Sequence[str], dest: str) -> tuple[bool, tuple[str, ...], bool, str]:
    """Return whether the sources are in the pond, they, whether DEST is, and it."""
    split = [_side(source) for source in sources]
    given = {side for side, _ in split if side}
    if len(given) > 1 or (given and any(not side for side, _ in split)):
        raise UsageError("what is copied is all in the pond or all on the host: prefix all alike")
    to, target = _side(dest)
    other = {"": "", "pond": "host", "host": "pond"}
    side = "".join(given) or other[to] or "pond"
    to = to or other[side]
    if side == to == "host":
        raise UsageError("both are on the host: cp does that; pond: says what is in the pond")
    return side == "pond", tuple(path for _, path in split), to == "pond", target


def _side(text: str) -> tuple[str, str]:
    side, colon, path = text.partition(":")
    if colon and side in _SIDES:
        return side, path or ("/" if side == "pond" else "")
    return "", text


# --- to the host ----------------------------------------------------------------------------------


def _copy_out(job: _Job, at: str | None, tally: Tally, as_json: bool) -> int:
    with progress("reading"):
        tree = open_tree(job.place, at)
    try:
        voucher = voucher_of(job.place)
        found = expand_all(tree, job.place, job.sources, tally.failed, as_seen=at is None)
        missing = [_missing_directory(job, one, len(found)) for one in found]
        if len(found) > 1 and job.is_one_dest and not (missing[0] or os.path.isdir(job.dest)):
            refuse_several(job.dest)
        # All is looked up before anything is made.
        ends = list[bytes]()
        for one, directory in zip(found, missing, strict=True):
            dest = os.fsencode(job.fill(one))
            if directory:
                into = dest.endswith(b"/") or (job.is_one_dest and len(found) > 1)
                ends.append(os.path.join(dest, os.path.basename(one.path)) if into else dest)
                continue
            with open_target(dest, one.path, one.info) as target:
                refuse_itself(tree, one.path, one.info, target)
                CopyOut(tree, target, tally, force=job.force, voucher=voucher).check(
                    one.path, one.info
                )
                ends.append(target.call(target.name))
        refuse_same(zip((one.typed for one in found), ends, strict=True))
        if not job.dry_run:
            for directory in filter(None, missing):
                os.makedirs(directory, exist_ok=True)
            allow_depth()
            with tally.showing():
                copy: CopyOut | None = None
                for one, target in _targets(job, found):
                    if copy is None or not job.is_one_dest:
                        copy = CopyOut(tree, target, tally, force=job.force, voucher=voucher)
                    copy.target = target
                    copy.run(one.path, one.info)
    finally:
        tree.close()
    moved = [("pond:/", one.path, "host:", end) for one, end in zip(found, ends, strict=True)]
    where = ends[0] if len(ends) == 1 else os.fsencode(job.dest)
    _tell(job, None, tally, moved, where, as_json)
    return tally.failed.code


def _missing_directory(job: _Job, one: Found, count: int) -> str:
    """Return the directory that ``--parents`` has to make; empty for none."""
    if not job.parents:
        return ""
    dest = job.fill(one)
    is_into = (count > 1 and job.is_one_dest) or (
        dest.endswith("/") and not stat.S_ISDIR(one.info.mode)
    )
    directory = dest if is_into else os.path.dirname(dest.rstrip("/"))
    return "" if not directory or os.path.isdir(directory) else directory


def _targets(job: _Job, found: Sequence[Found]) -> Iterator[tuple[Found, Target]]:
    """Yield each source with where its copy goes, held open until the next is asked for."""
    if not job.is_one_dest:
        for one in found:
            with open_target(os.fsencode(job.fill(one)), one.path, one.info) as target:
                yield one, target
        return
    first = found[0]
    with open_target(os.fsencode(job.fill(first)), first.path, first.info) as target:
        for one in found:
            if len(found) > 1:
                target = replace(target, name=os.path.basename(one.path))
            yield one, target


# --- to the pond ----------------------------------------------------------------------------------


def _copy_in(
    job: _Job,
    from_pond: bool,
    at: str | None,
    tally: Tally,
    message: str | None,
    no_commit: bool,
    as_json: bool,
) -> int:
    with contextlib.ExitStack() as opened:
        work = opened.enter_context(changing(job.place, message, no_commit, dry_run=job.dry_run))
        found = list(_find_sources(job, from_pond, at, work.tree, opened))
        into = len(found) > 1 and job.is_one_dest
        if into:
            dest = require_directory(work.tree, job.place, job.dest, parents=job.parents)
            job = replace(job, dest=dest)
        targets = []
        for tree, one in found:
            target = find_in_pond(
                work.tree,
                job.place,
                job.fill(one),
                os.path.basename(one.path),
                parents=job.parents,
                is_directory=stat.S_ISDIR(one.info.mode) and not into,
            )
            if tree is work.tree and target == one.path and not stat.S_ISDIR(one.info.mode):
                raise UsageError(f"'{one.typed}' would become itself: name another DEST")
            if tree is work.tree and one.path in (b"", target, *directories_above(target)):
                raise UsageError(
                    f"'/{format_path(target)}' is inside what is to be copied: copy a version of "
                    "it (--at latest)"
                )
            check(tree, one.path, one.info, work.tree, target, job.force)
            targets.append(target)
        refuse_same((one.typed, end) for (_, one), end in zip(found, targets, strict=True))
        if not job.dry_run:
            copies: dict[int, CopyIn] = {}
            with tally.showing():
                for (tree, one), target in zip(found, targets, strict=True):
                    if id(tree) not in copies:
                        copies[id(tree)] = CopyIn(
                            tree, work.backend, tally,
                            force=job.force, keep_going=work.is_mounted, parents=job.parents,
                        )  # fmt: skip
                    copies[id(tree)].run(one.path, one.info, target)
        side = "pond:/" if from_pond else "host:"
        moved = [
            (side, one.path if from_pond else os.fsencode(one.typed), "pond:/", end)
            for (_, one), end in zip(found, targets, strict=True)
        ]
    where = b"/" + (targets[0] if len(targets) == 1 else os.fsencode(job.dest).lstrip(b"/"))
    _tell(job, work, tally, moved, where, as_json)
    return tally.failed.code


def _find_sources(
    job: _Job, from_pond: bool, at: str | None, pond: Tree, opened: contextlib.ExitStack
) -> Iterator[tuple[Tree, Found]]:
    """Yield what is to be copied, each with the tree it is in."""
    if not from_pond:
        for source in job.sources:
            host, found = open_sources(source)
            opened.callback(host.close)
            yield from ((host, one) for one in found)
        return
    tree = pond
    if at is not None:
        with progress("reading"):
            tree = open_tree(job.place, at)
        opened.callback(tree.close)
    for one in expand_all(tree, job.place, job.sources, as_seen=at is None):
        yield tree, one


# --- what was done --------------------------------------------------------------------------------


def _tell(
    job: _Job,
    work: Work | None,
    tally: Tally,
    moved: Sequence[tuple[str, bytes, str, bytes]],
    where: bytes,
    as_json: bool,
) -> None:
    done: list[dict[str, Any]] = [
        {"op": "copy", "from": side + os.fsdecode(source), "path": to + os.fsdecode(end)}
        for side, source, to, end in moved
    ]
    if job.dry_run:
        lines = [f"{format_path(source)} -> {format_path(end)}" for _, source, _, end in moved]
    else:
        lines = [f"copied {tally.text}, to {format_path(where)}"]
    version = None if work is None else work.version
    tell(
        version, done, lines,
        as_json=as_json, dry_run=job.dry_run, files=tally.count, bytes=tally.bytes,
    )  # fmt: skip
    for note in tally.notes():
        click.echo(f"pond: {note}", err=True)
