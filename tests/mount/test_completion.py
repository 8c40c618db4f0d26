"""What ``pond completion`` prints works in the shells it is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.harness import BIN, PondMount, require, run

# Shells complete by calling a function with the words in variables; its answer is in COMPREPLY.
BASH = """
eval "$(pond completion bash)"
complete -p pond >&2
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_pond_completion pond
printf '%s\\n' "${COMPREPLY[@]}"
"""

# zsh has its completion functions only while a line is edited: these stand in for them.
ZSH = """
compdef() { print -r "compdef $*" >&2 }
compadd() { print -rl -- ${(P)@[-1]} }
_describe() { local -a found; found=(${(P)3}); print -rl -- ${found%%:*} }
eval "$(pond completion zsh)"
words=("$@"); CURRENT=$#
_pond_completion
"""

FISH = """
pond completion fish | source
complete -C "$argv" | string replace -r '\\t.*' ''; true
"""

SHELLS = ("bash", "zsh", "fish")


class Shell:
    """A shell that knows how to complete."""

    def __init__(self, name: str, pond: PondMount) -> None:
        self.name = name
        self.pond = pond

    def complete(self, *words: str, cwd: Path | None = None) -> list[str]:
        """Return how the last of *words* may go on; of a path that is the whole of it."""
        env = self.pond.env | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.pond.store)}
        if cwd is None:
            env["POND"] = str(self.pond.store)
        line = " ".join(word.replace(" ", "\\ ") for word in words)
        call = {
            "bash": ["--norc", "-c", BASH, "bash", *words],
            "zsh": ["-f", "-c", ZSH, "zsh", *words],
            "fish": ["--no-config", "-c", FISH, line],
        }[self.name]
        done = run([require(self.name), *call], env=env, cwd=cwd or "/")
        return sorted(filter(None, done.stdout.splitlines()))


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, pond: PondMount) -> Shell:
    (pond.mnt / "notes" / "deep").mkdir(parents=True)
    (pond.mnt / "notes" / "a file").write_text("")
    (pond.mnt / "notes" / "*").write_text("")
    (pond.mnt / "notes" / ".hidden").write_text("")
    (pond.mnt / "new, ones").mkdir()
    pond.commit()
    pond.pond("tag", "before-upgrade")
    (pond.mnt / "notes" / "deep").rmdir()
    return Shell(request.param, pond)


def test_commands_and_options(shell: Shell) -> None:
    assert shell.complete("pond", "his") == ["history"]
    assert set(shell.complete("pond", "")) >= {"init", "ls", "find", "du", "completion"}
    assert shell.complete("pond", "log", "--si") == ["--since"]
    assert shell.complete("pond", "find", "--type", "") == sorted("fdlpsbc")
    assert shell.complete("pond", "completion", "z") == ["zsh"]


def test_paths_of_a_mounted_pond(shell: Shell) -> None:
    assert shell.complete("pond", "ls", "not") == ["notes/"]
    assert shell.complete("pond", "cat", "notes/") == ["notes/*", "notes/a file"]
    assert shell.complete("pond", "cat", "notes/.") == ["notes/.hidden"]
    assert shell.complete("pond", "history", "/notes/a") == ["/notes/a file"]
    assert shell.complete("pond", "restore", "notes/a", "n") != []
    assert shell.complete("pond", "ls", "nothing/") == []


def test_paths_as_they_were(shell: Shell) -> None:
    assert shell.complete("pond", "ls", "--at", "2", "notes/d") == ["notes/deep/"]
    assert shell.complete("pond", "ls", "notes/d") == []


def test_paths_from_where_one_stands(shell: Shell) -> None:
    assert shell.complete("pond", "ls", "a", cwd=shell.pond.mnt / "notes") == ["a file"]


def test_tags(shell: Shell) -> None:
    assert shell.complete("pond", "ls", "--at", "bef") == ["before-upgrade"]
    assert shell.complete("pond", "diff", "before-upgrade..la") == ["before-upgrade..latest"]


def test_an_unmounted_pond_has_no_paths_and_no_errors(shell: Shell) -> None:
    shell.pond.umount()
    if shell.name == "bash":
        assert shell.complete("pond", "ls", "no") == []
    assert shell.complete("pond", "hist") == ["history"]
