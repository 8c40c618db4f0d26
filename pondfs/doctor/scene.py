"""What is looked at: the machine, and a pond on it if there is one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pondfs.control.reach import Place, locate
from pondfs.doctor.finding import Finding

Look = Callable[["Scene"], Iterator[Finding]]


class NoMore(Exception):
    """The looks that would come next in this group have nothing to look at."""


@dataclass(frozen=True)
class Scene:
    """What the looks of one process have in common.

    Attributes:
        named: the pond as it was named, with ``--pond`` or as an argument; None when it was not.
        patience_s: how long a daemon may take to answer.
    """

    named: str | None
    patience_s: float

    @cached_property
    def place(self) -> Place:
        """Which pond is meant. May hang where a directory above it does."""
        return locate(self.named, os.environ)

    @property
    def store(self) -> str:
        """The pond's directory."""
        return os.fspath(self.place.store)

    @property
    def is_named(self) -> bool:
        """Whether somebody said which pond is meant, so that one must be there."""
        return self.named is not None or bool(os.environ.get("POND"))
