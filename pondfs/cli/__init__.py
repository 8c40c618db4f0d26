"""The commands: one verb per file.

- ``run``: how every command ends; errors become one line and an exit code
- ``reach``: which pond is meant, and how to get at it (daemon's socket or store)
- ``output``: tables, JSON, human units, progress
- ``trees`` ``mounted``: the tree as it is, or was, from a mount or the store; ``patch``: two of
  them as text
- ``init`` ``status`` ``ls`` ``cat`` ``find`` ``cp`` ``log`` ``diff`` ``history`` ``commit``
  ``umount``: the verbs of ``pond``
- ``mount_pond`` ``umount_pond``: the mount helpers

Nothing here may import trio, pyarrow or deltalake at module level: ``pond --help`` answers in well
under 150 ms because verbs import what is heavy when they run.
"""

import contextlib
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from pondfs import __version__
from pondfs.cli.reach import pond_option
from pondfs.cli.run import run

VERBS = (
    "init", "status", "ls", "cat", "find", "cp", "log", "diff", "history", "restore", "undo", "tag",
    "commit", "prune", "umount",
)  # fmt: skip
"""In the order in which ``pond --help`` shows them; each is a module here with a ``command``."""


class _Verbs(click.Group):
    """A group that imports a verb when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: Any = importlib.import_module(f"pondfs.cli.{cmd_name}")
        command: click.Command = verb.command
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pond")
@pond_option
def pond() -> None:
    """Work with a pond: a filesystem that never forgets.

    The pond is the one named by --pond, else by $POND, else the mount you stand in, else the
    default place (/var/lib/pond for root, ~/.local/share/pond for others).

    \b
    Example:
      mount.pond /mnt/pond          mount it (see mount.pond --help)
      pond status                   what is pending, what the daemon does
      pond commit -m 'harvest'      make what is pending a version
      pond log -n 5                 the last five versions
      pond diff 41..42              what changed in version 42
      pond umount /mnt/pond         commit, and be sure it is down
    """


def main() -> NoReturn:
    """Run ``pond`` and end the process with its exit code."""
    # numpy comes with a linear algebra library that would start a thread for each core: 10 ms.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run(pond, "pond")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Nothing is left to be closed; taking numpy and pyarrow down in good order takes 20 ms more.
    os._exit(code)
