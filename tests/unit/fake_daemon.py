"""A control server on a real socket, in a thread of its own because its clients block."""

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from pondfs.control.server import serve

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass
class Daemon:
    """A running `serve`, ended by `stop`."""

    path: Path
    handlers: Mapping[str, Handler]
    farewell: Callable[[], dict[str, Any]] | None = None
    hello: dict[str, Any] = field(
        default_factory=lambda: {"pid": os.getpid(), "mountpoint": "/mnt/pond"}
    )
    failed: BaseException | None = None

    def __post_init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Daemon":
        self._thread.start()
        assert self._started.wait(10)
        if self.failed is not None:
            raise self.failed
        return self

    def soon(self, function: Callable[[], object]) -> None:
        """Have *function* called on the server's thread."""
        self._token.run_sync_soon(function)

    def stop(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseExceptionGroup as group:
            (self.failed,) = group.exceptions
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve)
                self._started.set()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        await serve(
            self.path,
            lambda: self.hello,
            self.handlers,
            farewell=self.farewell,
            task_status=task_status,
        )


StartDaemon = Callable[..., Daemon]
