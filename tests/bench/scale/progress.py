"""Saying on stderr what is done and how far it is: a row may take minutes."""

from __future__ import annotations

import sys
import time

_TERMINAL_S, _LOG_S = 0.2, 15.0  # how often a step that goes on is told again


class Progress:
    """One line that changes, on a terminal; elsewhere a line for each step, and now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = _TERMINAL_S if self._is_terminal else _LOG_S
        self._begin = time.monotonic()
        self._told = 0.0
        self._section = self._text = ""
        self._done = self._total = 0

    def section(self, name: str) -> None:
        """Begin with the row called *name*."""
        self._section = name
        self.step("begins")

    def step(self, text: str, total: int = 0) -> None:
        """Begin something that has *total* parts, if that is known."""
        self._text, self._done, self._total = text, 0, total
        self._tell()

    def advance(self, parts: int = 1) -> None:
        """So much more is done. Cheap enough for a loop."""
        self._done += parts
        if time.monotonic() - self._told >= self._every_s:
            self._tell()

    def say(self, text: str) -> None:
        """Tell something that stays."""
        self.clear()
        print(f"bench-scale: {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line that changes away."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _tell(self) -> None:
        self._told = time.monotonic()
        minutes, seconds = divmod(int(self._told - self._begin), 60)
        line = f"{minutes:3}:{seconds:02} {self._section}: {self._text}"
        if self._total:
            line += f" {self._done:,}/{self._total:,}"
        self.clear()
        print(line, end="" if self._is_terminal else "\n", file=sys.stderr, flush=True)
