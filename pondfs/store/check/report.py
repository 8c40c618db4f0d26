"""What a check says: findings, each of an invariant that does not hold, and the verdict."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, ParamSpec

from pondfs.node import Version

CLEAN, REPAIRABLE, DAMAGED = "clean", "repairable", "damaged"

MOST_FINDINGS = 100
"""Of one invariant, told one by one."""

MOST_PATHS = 1000
"""Paths listed in one finding."""

_P = ParamSpec("_P")


class Wrong(NamedTuple):
    """Something that is not as an invariant says: in words, and the paths it is about."""

    message: str
    paths: tuple[bytes, ...] = ()


UNTOLD = Wrong("")
"""One more beyond `MOST_FINDINGS`, which is counted only: words for a million take minutes."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """What holds for every sound pond.

    Attributes:
        name: how findings call it.
        holds: what it says, for people.
        mend: what ``pond repair`` does where it does not hold; "" where it refuses.
        family: the module it is in.
    """

    name: str
    holds: str
    mend: str
    family: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        invariant: the name of what does not hold.
        message: what is wrong, where, and what to do, in one line.
        repairable: whether ``pond repair`` mends it.
        paths: files it is about, bytes from the pond's root; the first `MOST_PATHS`.
    """

    invariant: str
    message: str
    repairable: bool
    paths: tuple[bytes, ...] = ()


INVARIANTS: dict[str, Invariant] = {}
"""All there are, by name."""

FAMILIES = ("point", "log", "files", "versions", "tree", "extents", "caches", "data")
"""The modules they are in, in the order in which they are checked."""


def invariant(
    name: str, *, mend: str = ""
) -> Callable[[Callable[_P, Iterator[Wrong]]], Callable[_P, list[Finding]]]:
    """Make of a function that yields what is wrong one that returns findings.

    Its docstring says what holds; its first paragraph is what people read.
    """

    def decorate(look: Callable[_P, Iterator[Wrong]]) -> Callable[_P, list[Finding]]:
        holds = " ".join((look.__doc__ or "").split("\n\n")[0].split())
        INVARIANTS[name] = Invariant(name, holds, mend, look.__module__.rpartition(".")[2])

        @functools.wraps(look)
        def find(*args: _P.args, **kwargs: _P.kwargs) -> list[Finding]:
            findings: list[Finding] = []
            more = 0
            for wrong in look(*args, **kwargs):
                if len(findings) < MOST_FINDINGS:
                    findings.append(Finding(name, wrong.message, bool(mend), wrong.paths))
                else:
                    more += 1
            if more:
                findings.append(Finding(name, f"{more:,} more of this kind", bool(mend)))
            return findings

        return find

    return decorate


@dataclass(slots=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        store: the pond's directory.
        version: the version whose tree was checked.
        findings: what is wrong.
        notes: what is worth knowing and not wrong.
        versions: how many there are.
        nodes: in the tree: files, directories and the rest.
        data_files: how many the table has.
        data_bytes: what they have together.
        read_bytes: how much of that was read and compared with its checksums.
        tree_hash: see docs/reference/check.md; "" when contents were not read or can't all be
            believed, or the tree hangs together wrong.
        loose_tags: tags on versions that are not there.
    """

    store: str
    version: Version = Version(0)  # noqa: RUF009  a number
    findings: tuple[Finding, ...] = ()
    notes: list[str] = field(default_factory=list)
    versions: int = 0
    nodes: int = 0
    data_files: int = 0
    data_bytes: int = 0
    read_bytes: int = 0
    tree_hash: str = ""
    loose_tags: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``clean``, ``repairable`` (all of it), or ``damaged``."""
        if not self.findings:
            return CLEAN
        return REPAIRABLE if all(each.repairable for each in self.findings) else DAMAGED

    def add(self, *found: list[Finding]) -> bool:
        """Take down findings; return whether there were none."""
        self.findings += tuple(finding for some in found for finding in some)
        return not any(found)

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        facts = asdict(self)
        del facts["loose_tags"]
        return {
            **facts,
            "verdict": self.verdict,
            "tree_hash": self.tree_hash or None,
            "findings": [
                {**asdict(each), "paths": [path.decode("utf-8", "surrogateescape")
                                           for path in each.paths]}
                for each in self.findings
            ],
        }  # fmt: skip
