"""Where something was measured: what a reader needs to know to compare."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.mount import harness


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, when the run began; *filesystem* is that of the folder that is measured."""

    date: str
    cpus: int
    memory_gib: int
    kernel: str
    python: str
    filesystem: str
    load: float
    root: bool

    @classmethod
    def here(cls, folder: Path) -> Machine:
        """Look at it."""
        filesystem = harness.run(["stat", "-f", "-c", "%T", folder]).stdout.strip()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            date=datetime.now(UTC).date().isoformat(),
            cpus=os.cpu_count() or 0,
            memory_gib=round(memory / (1 << 30)),
            kernel=platform.release(),
            python=platform.python_version(),
            filesystem={"ext2/ext3": "ext4"}.get(filesystem, filesystem),
            load=round(os.getloadavg()[0], 1),
            root=os.geteuid() == 0,
        )

    def json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)

    def text(self) -> str:
        """Return it in a line."""
        return (
            f"{self.cpus} cores, {self.memory_gib} GiB, kernel {self.kernel}, "
            f"Python {self.python}, {self.filesystem}, load {self.load:g} before"
        )

    def caption(self, command: str) -> str:
        """Return what stands over a table."""
        return f"Measured {self.date} by `{command}`: {self.text()}."
