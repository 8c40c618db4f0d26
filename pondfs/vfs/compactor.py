"""Keeping data files few while the pond is mounted: a process now and then, beside the daemon.

A process, because writing rows anew is Python at work: in a thread it would hold up everybody.
"""

import json
import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import trio

from pondfs.errors import PondError
from pondfs.vfs.swap import swap_files

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.compact")

LOOK_S = 5.0
"""How often it is looked whether there are many small data files."""

PAUSE_S = 20.0
"""After a compaction: each holds up commits for some 10 ms, and has the saved image moved."""

FIRST_RETRY_S, LAST_RETRY_S = 60.0, 3600.0
"""After a failure, which is no harm but for the files that stay: the wait doubles."""

FAREWELL_S = 2.0
"""How long an unmount waits for the process to clear away what it was writing."""

_MODULE = "pondfs.store.compact_worker"


class Compactor:
    """Has small data files put together when there are many."""

    def __init__(self, vfs: "Vfs", store: str | os.PathLike[str]) -> None:
        self._vfs = vfs
        self._store = os.fspath(store)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            await trio.sleep(LOOK_S)
            if not self._vfs.store.has_many_files() or self._vfs.committer.failure is not None:
                continue
            try:
                await self._compact()
            except Exception as error:
                # Whatever it is: ending the mount would lose what is pending.
                known = isinstance(error, OSError | PondError | ValueError)
                log.warning(
                    "compacting failed, which harms nothing; again in %.0f s: %s",
                    retry_s, error, exc_info=not known,
                )  # fmt: skip
                await trio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            else:
                retry_s = FIRST_RETRY_S
                await trio.sleep(PAUSE_S)

    async def _compact(self) -> None:
        started = time.monotonic()
        # Not as `python -m` from where we are: what lies there is not ours.
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", _MODULE, self._store],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            answer = await _read_answer(process.stdout)
            if error := answer.get("error"):
                raise OSError(str(error))
            if request := answer.get("request"):
                try:
                    await swap_files(self._vfs, request, now=False)
                except trio.Cancelled:
                    # A thread may just be putting the new files in place: the process must not
                    # find that they are in vain, and remove them.
                    process.kill()
                    raise
                log.info(
                    "put %d data files with %.1f MB together in %.1f s",
                    answer["files"], answer["bytes"] / 1e6, time.monotonic() - started,
                )  # fmt: skip
        finally:
            await _say_farewell(process)


async def _read_answer(stdout: trio.abc.ReceiveStream) -> dict[str, Any]:
    """Return the line the process prints. Raises: ValueError when it died without a word."""
    data = b""
    while not data.endswith(b"\n"):
        part = await stdout.receive_some()
        if not part:
            raise ValueError("its process died")
        data += part
    answer: dict[str, Any] = json.loads(data)
    return answer


async def _say_farewell(process: trio.Process) -> None:
    """Let the process end, which takes a moment; also when we are being cancelled."""
    with trio.CancelScope(shield=True):
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.move_on_after(FAREWELL_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()
