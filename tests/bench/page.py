"""The tables in docs/reference/performance.md: each between two marks, prose around is by hand.

<!-- bench: million -->
…
<!-- end -->
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "performance.md"
_BLOCK = re.compile(r"<!-- bench: ([\w-]+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


class Page:
    """The page, as a file."""

    def __init__(self, path: Path) -> None:
        """Take the page there. Raises: OSError; ValueError if a mark has no end."""
        self.path = path
        text = path.read_text()
        if text.count("<!-- bench: ") != len(_BLOCK.findall(text)):
            raise ValueError(f"{path} has a mark `<!-- bench: … -->` without an `<!-- end -->`")

    def names(self) -> set[str]:
        """Return what there are tables of."""
        return {name for name, _ in _BLOCK.findall(self.path.read_text())}

    def write(self, name: str, content: str) -> None:
        """Put *content*, lines of Markdown, in the place of the table called *name*."""
        assert name in self.names(), f"{self.path} has no `<!-- bench: {name} -->`"

        def put(found: re.Match[str]) -> str:
            if found[1] != name:
                return found[0]
            return f"<!-- bench: {name} -->\n\n{content.strip()}\n\n<!-- end -->\n"

        changed = _BLOCK.sub(put, self.path.read_text())
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.write_text(changed)
        os.replace(beside, self.path)
