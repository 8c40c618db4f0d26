"""Runs pondfs's commands, each in a process of its own, without the 0.4 s that starting one takes.

``python -m tests.crash.fork_server`` reads JSON lines, ``["pond", "--pond", STORE, "tag", …]``, and
answers each with ``{"code", "stderr"}``. Everything was imported before the fork, nothing used, so
what runs there is the command as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.mount.harness import COMMAND_TIMEOUT_S


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stderr: str


class ForkServer:
    """The test's side. Commands have the environment that the server was started with."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )

    def run(self, *args: str) -> Ended:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(args) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], answer["stderr"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(COMMAND_TIMEOUT_S)
        self._process.stdout.close()


def _serve() -> None:
    import importlib

    from pondfs.cli import VERBS, pond
    from pondfs.cli.run import run

    for verb in VERBS:
        importlib.import_module(f"pondfs.cli.{verb}")
    for name in ("pondfs.store.delta", "pondfs.store.prune", "pondfs.store.compact_files"):
        importlib.import_module(name)
    for line in sys.stdin:
        name, *args = json.loads(line)
        assert name == "pond"
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            child = os.fork()
            if not child:
                code = 70
                try:
                    os.dup2(errors.fileno(), 2)
                    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                    os.dup2(1, 0)
                    code = run(pond, name, args)
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            errors.seek(0)
            answer = {"code": os.waitstatus_to_exitcode(status), "stderr": errors.read()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
