"""Looking in processes of its own, one for each group of looks, and giving up what hangs."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pondfs.doctor.finding import Finding, error
from pondfs.doctor.looks import GROUPS
from pondfs.options import default_store, parse_store

START_S = 60.0
"""How long Python may take to start; nothing is looked at by then."""

PATIENCE_PARTS = 4
"""A daemon is waited for up to three times in one look, each time this part of the whole time."""


@dataclass(slots=True)
class Examination:
    """What was found.

    Attributes:
        store: the pond that was looked at, whether there is one or not.
        mountpoint: where it was found, if that was by a mount.
        findings: in the order of the looks.
    """

    store: Path
    mountpoint: Path | None = None
    findings: list[Finding] = field(default_factory=list)


class _Worker:
    """The process that does one group of looks."""

    def __init__(self, group: str, named: str | None, timeout_s: float) -> None:
        self.group = group
        self.findings: list[Finding] = []
        self.place: dict[str, Any] = {}
        self._look = group
        self._ended = False
        self._received = b""
        self._timeout_s = timeout_s
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            [
                # -P: what lies in the working directory is none of our modules.
                *(sys.executable, "-P", "-m", "pondfs.doctor.worker", group),
                *(json.dumps(named), str(timeout_s / PATIENCE_PARTS)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        assert self.process.stdout is not None
        self.pipe = self.process.stdout
        self.deadline = time.monotonic() + max(timeout_s, START_S)

    def take(self) -> bool:
        """Take what it tells; return whether there may be more."""
        chunk = os.read(self.pipe.fileno(), 1 << 16)
        self._received += chunk
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "begin" in told:
                self._look = told["begin"]
            elif "end" in told:
                self._ended = True
            elif "store" in told:
                self.place = told
            else:
                self.findings.append(Finding(**told))
            self.deadline = time.monotonic() + self._timeout_s
        if chunk:
            return True
        self._finish()
        return False

    def _finish(self) -> None:
        """Judge how it ended. Raises: RuntimeError for a bug of ours."""
        if self._ended:
            return
        try:
            code = self.process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:  # what it told with is closed, and it goes on
            self.give_up()
            return
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()
        if code > 0:
            raise RuntimeError(f"looking at {self._look}: {said.splitlines()[-1:]}")
        how = signal.Signals(-code).name if code else "no reason"
        ended = error(
            f"the process that looked at this was ended by {how}: what it read is damaged in a way "
            "that ends programs, a library is, or somebody killed it",
            "run it again; if that stays so, have the pond checked",
        )
        self.findings.append(replace(ended, look=self._look))

    def give_up(self) -> None:
        """Leave it to itself: it may be where nobody gets it back."""
        self.process.kill()
        hung = error(
            f"no answer within {self._timeout_s:g} s: what is looked at here hangs (a disk, a "
            "server, a mount of another program), or is very slow",
            "find out which (dmesg, df in another shell); or give it more time with --timeout",
        )
        self.findings.append(replace(hung, look=self._look))

    def stop(self) -> None:
        """End it, as nobody wants to know any more."""
        self.process.kill()
        self.pipe.close()
        self._complaints.close()


def examine(named: str | None, environ: Mapping[str, str], timeout_s: float) -> Examination:
    """Look at the machine and at the pond that is *named* (as `control.reach.locate` has it).

    Returns after *timeout_s* without news, whatever hangs; to start may take `START_S`.

    Args:
        named: as said; None when nobody named one.
        environ: says which is meant then.
        timeout_s: how long a look may take.

    Raises: UsageError when what is named can be no store.
    """
    found = Examination(parse_store(named) if named is not None else default_store(environ))
    workers = [_Worker(group, named, timeout_s) for group in GROUPS]
    try:
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.pipe, selectors.EVENT_READ, worker)
            while waiting := [key.data for key in selector.get_map().values()]:
                soonest = min(worker.deadline for worker in waiting)
                for key, _ in selector.select(max(soonest - time.monotonic(), 0)):
                    if not key.data.take():
                        selector.unregister(key.fileobj)
                for worker in waiting:
                    if worker.pipe in selector.get_map() and worker.deadline <= time.monotonic():
                        worker.give_up()
                        selector.unregister(worker.pipe)
    finally:
        for worker in workers:
            worker.stop()
    for worker in workers:
        found.findings += worker.findings
        if worker.place:
            found.store = Path(worker.place["store"])
            place = worker.place["mountpoint"]
            found.mountpoint = None if place is None else Path(place)
    return found
