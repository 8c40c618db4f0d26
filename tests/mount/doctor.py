"""Ask ``pond doctor`` and do what it says."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pondfs
from pondfs.doctor import looks
from pondfs.doctor.finding import Finding
from pondfs.doctor.scene import NoMore, Scene
from tests.mount.harness import BIN, command, require, run

CODES = {"ok": 0, "note": 0, "warning": 15, "error": 16}


@dataclass(frozen=True)
class Report:
    """What ``pond doctor --json`` said."""

    told: dict[str, Any]
    env: Mapping[str, str]

    def get(self, look: str, severity: str) -> dict[str, Any]:
        """Return the one finding of a look with that severity; fail with all there are."""
        found: list[dict[str, Any]] = [
            finding
            for finding in self.told["findings"]
            if (finding["look"], finding["severity"]) == (look, severity)
        ]
        assert len(found) == 1, (look, severity, self.worse_than("ok"))
        return found[0]

    def worse_than(self, severity: str, *looks: str) -> list[dict[str, Any]]:
        """Return what is worse, of all looks or of these."""
        order = list(CODES)
        return [
            finding
            for finding in self.told["findings"]
            if order.index(finding["severity"]) > order.index(severity)
            and (not looks or finding["look"] in looks)
        ]


def examine(env: Mapping[str, str], named: Path | str | None, *options: str, **how: Any) -> Report:
    """Return what ``pond doctor`` says of a pond, having checked that its exit code agrees.

    It has all the time it takes, on a machine that does other things as well, unless an option says
    otherwise.
    """
    names = [] if named is None else [str(named)]
    options = ("--timeout", "120", *options)
    done = run([command("pond"), "doctor", "--json", *options, *names],
               env=env, check=False, **how)  # fmt: skip
    assert done.returncode in CODES.values(), done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == CODES[told["verdict"]]
    assert told["verdict"] in {finding["severity"] for finding in told["findings"]}
    return Report(told, env)


def look_around(named: Path | str, env: Mapping[str, str]) -> Report:
    """Return what the looks at mounts and store find, in this process: that is much faster.

    Not for what hangs, and without what is in the environment.
    """
    scene = Scene(str(named), 30.0)
    found: list[Finding] = []
    for group in (looks.mounts, looks.store):
        with contextlib.suppress(NoMore):
            for name, look in group().items():
                for finding in look(scene):
                    found.append(replace(finding, look=name))  # noqa: PERF401  it may end early
    return Report({"findings": [finding.record() for finding in found]}, env)


def examine_as(uid: int, env: Mapping[str, str], *words: Path | str) -> Report:
    """Return what another user is told, who need not be able to get at Python as it is here.

    In a mount namespace of its own, where the directories above Python that are closed to others
    (root's home, say) are open, and hold nothing else.
    """
    wanted = [sys.base_prefix, str(BIN.parent), str(Path(pondfs.__file__).parents[1])]
    closed: dict[str, list[str]] = {}
    for path in wanted:
        for directory in reversed(Path(path).parents):
            if not directory.stat().st_mode & 0o001:
                closed.setdefault(str(directory), []).append(path)
                break
    with tempfile.TemporaryDirectory() as scratch:
        script = ["set -e"]
        for paths in closed.values():
            for path in paths:
                held = f"{scratch}/{len(script)}"
                Path(held).mkdir()
                script.append(f"mount --bind '{path}' '{held}'; at{wanted.index(path)}='{held}'")
        for above, paths in closed.items():
            script.append(f"mount -t tmpfs -o mode=755 none '{above}'")
            script += [
                f"mkdir -p '{path}'; mount --bind \"$at{wanted.index(path)}\" '{path}'"
                for path in paths
            ]
        script.append(f'exec setpriv --reuid={uid} --regid={uid} --clear-groups "$@"')
        doctor = [command("pond"), "doctor", "--json", "--timeout", "120", *words]
        done = run([require("unshare"), "-m", "sh", "-c", "\n".join(script), "sh", *doctor],
                   env=env, check=False, cwd="/")  # fmt: skip
    assert done.stderr == ""
    return Report(json.loads(done.stdout), env)


def obey(finding: dict[str, Any], env: Mapping[str, str]) -> None:
    """Type the command that a finding has."""
    assert finding["command"], finding
    path = f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin"
    run(["sh", "-c", finding["command"]], env={**env, "PATH": path})
