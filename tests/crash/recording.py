"""One life of a pond, recorded: the system calls on its disk, and what was acknowledged when.

``python -m tests.crash.recording RECORDING LINE KIND SEED TARGET`` makes an image again, with the
directory that a test left behind and what its message says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.crash import recorded_work
from tests.crash.disk_images import Cut, Disk, Image
from tests.crash.disk_trace import STRACE, Sync, Trace
from tests.crash.image_check import Promise
from tests.mount import harness

RECORD_TIMEOUT_S = 240.0


class Recording:
    """What is in the directory *place*, where `record` put it.

    Attributes:
        disk: the directory that stands for the disk. It holds the store, in the end.
        trace: what happened to it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.disk = place / "disk"
        lines = (place / "trace").read_text(errors="backslashreplace").splitlines()
        self.trace = Trace(lines, self.disk, place / "journal")
        records = [(mark, json.loads(mark.data)) for mark in self.trace.marks]
        self._begun = [mark.end for mark, record in records if record != "ok"]
        self._done = [mark.start for mark, record in records if record == "ok"]
        steps = [record for _, record in records if record != "ok"]
        self._promise = Promise.of(steps, len(steps))

    def promise(self, line: int) -> Promise:
        """Return what the pond owes when the power goes at *line*."""
        begun = sum(end <= line for end in self._begun)
        # What it was told it may have acted on before it wrote that down.
        done = sum(start <= line for start in self._done)
        return self._promise.upto(begun, done)

    def disk_images(self, ignores: Callable[[Sync], bool] = lambda sync: False) -> Disk:
        """Return what makes images; see `Disk`."""
        return Disk(self.trace, ignores)

    def explain(self, cut: Cut, image: Image) -> str:
        """Return what somebody has to know who looks into what came of an image."""
        return (
            f"{cut}; again: python -m tests.crash.recording {self.place} {cut.line} "
            f"'{cut.kind}' {cut.seed} TARGET\n" + "\n".join(image.choices)
        )


def record(place: Path, env: dict[str, str], fsync: str, seed: int) -> Recording:
    """Have `recorded_work` done under strace, in the directory *place*, which is empty.

    Raises: AssertionError when it does not get to its end.
    """
    (place / "disk").mkdir()
    mnt = place / "mnt"
    mnt.mkdir()
    try:
        harness.run(
            [
                *(harness.require("strace"), *STRACE, "--seccomp-bpf", "-o", str(place / "trace")),
                *(sys.executable, "-S", "-E", "-m", recorded_work.__name__, sys.executable),
                *(str(place / "disk" / "pond"), str(mnt), str(place / "journal")),
                *(str(seed), fsync),
            ],
            timeout_s=RECORD_TIMEOUT_S,
            env=env,
            cwd=Path(__file__).parents[2],
        )
    finally:
        harness.sweep(mnt)
    return Recording(place)


def main() -> None:
    """Make an image again."""
    place, line, kind, seed, target = sys.argv[1:]
    recording = Recording(Path(place))
    cut = Cut(int(line), kind, int(seed))
    image = recording.disk_images().image(cut)
    image.write(Path(target))
    print(recording.explain(cut, image))


if __name__ == "__main__":
    main()
