"""The commands: one verb per file.

- ``run``: how every command ends; errors become one line and an exit code
- ``reach``: which pond is meant, and how to get at it (daemon's socket or store)
- ``output``: tables, JSON, human units, progress
- ``trees`` ``mounted``: the tree as it is, or was, from a mount or the store; ``patch``: two of
  them as text
- ``init`` ``status`` ``ls`` ``cat`` ``find`` ``describe`` ``du`` ``cp`` ``log`` ``diff``
  ``history`` ``commit`` ``umount``: the verbs of ``pond``
- ``globs``: wildcards in paths; ``changing``: a pond to change, mounted or not, and its commit;
  ``targets`` ``host`` ``copy_in`` ``copy_out`` ``tally``: where copies go, and making them
- ``mount_pond`` ``umount_pond``: the mount helpers
- ``show`` ``sync`` ``recover``: the oplog's rows; durable now; what a crash left;
  ``check`` ``repair``: whether all is as it should be; ``findings``: how both tell it;
  ``ls_pending``: what ``ls --pending`` marks; ``doctor``: what the pond stands on
- ``query``: SQL; ``query_text`` ``query_run``: its statements, and running them; ``query_prompt``
  ``query_worker``: the prompt, and the process that works for it
- ``criteria``: what ``find`` looks for; ``completion``: of commands in a shell

Nothing here may import trio, pyarrow or deltalake at module level: ``pond --help`` answers in well
under 150 ms because verbs import what is heavy when they run.
"""

import contextlib
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

import click

from pondfs import __version__
from pondfs.cli.reach import pond_option
from pondfs.cli.run import EXIT_INTERRUPTED, run

SECTIONS = {
    "Files": {
        "ls": "List directories, now or as they were.",
        "cat": "Print files, now or as they were.",
        "cp": "Copy files and trees in, out, or as of then.",
        "mkdir": "Make directories.",
        "touch": "Make empty files; set files' times.",
        "mv": "Rename or move, many at once by wildcards.",
        "ln": "Make a symlink, or another name for a file.",
        "rm": "Remove files and trees.",
        "find": "Find files by name, type, size or change.",
        "du": "Show what takes how much space, and which versions do.",
        "describe": "Say all there is to say of a path.",
    },
    "The past": {
        "log": "Show the versions, newest first.",
        "diff": "Show what changed between two versions.",
        "history": "Show what happened to one file, newest first.",
        "restore": "Put files or trees back as they were.",
        "undo": "Take back what one version changed.",
        "tag": "Name a version, so that it is kept; list or remove names.",
    },
    "Questions": {
        "query": "Ask in SQL: history, the tree, data in files.",
        "show": "Show the oplog's rows: every change, as it is stored.",
    },
    "The pond": {
        "init": "Make an empty pond.",
        "status": "Show what is pending and what the daemon does.",
        "doctor": "Look at what the pond stands on, and say what to do.",
        "health": "Say in a line whether it does its work; for monitoring.",
        "commit": "Make what is pending a version.",
        "sync": "Make everything durable, as sync(1) does.",
        "recover": "Bring what a crash left in the journal into the table.",
        "prune": "Forget versions and free the space only they used.",
        "compact": "Put many small data files together.",
        "check": "Check everything, each byte if asked to; hash the tree.",
        "repair": "Mend what a check found, as a new version.",
        "serve": "Mount what /etc/pondfs/NAME.toml says; for systemd.",
        "maintain": "Prune, compact and check as that file says; for a timer.",
        "umount": "Unmount a pond; return when everything is durable.",
        "completion": "Print what makes a shell complete pond's commands.",
    },
}
"""As ``pond --help`` shows them; each is a module here with a ``command``. What they are for stands
here, so that the list needs none of them."""

VERBS = tuple(verb for verbs in SECTIONS.values() for verb in verbs)


class _Verbs(click.Group):
    """A group that imports a verb when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: Any = importlib.import_module(f"pondfs.cli.{cmd_name}")
        command: click.Command = verb.command
        if "_POND_COMPLETE" in os.environ:
            from pondfs.cli.completion import equip

            equip(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pond")
@pond_option
def pond() -> None:
    """Work with a pond: a filesystem that never forgets.

    The pond is the one named by --pond, else by $POND, else the mount you stand in, else the
    default place (/var/lib/pond for root, ~/.local/share/pond for others).

    \b
    Example:
      mount.pond /mnt/pond                    mount it (see mount.pond --help)
      pond commit -m 'harvest'                make what is pending a version
      pond diff yesterday                     what changed since
      pond cp --at 42 notes/plan.txt .        get a file back
      pond query "SELECT * FROM read('/logs/*.csv')"
      pond umount /mnt/pond                   commit, and be sure it is down
    """


class NoPandas:
    """Says that there is no pandas: pyarrow and datafusion import it where it is, for 0.2 s and
    25 MB, and no command has a use for it. Not for `import pondfs`, whose users may.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; see `importlib.abc.MetaPathFinder`."""
        if name == "pandas":
            raise ModuleNotFoundError("pond does without pandas", name=name)


def main() -> NoReturn:
    """Run ``pond`` and end the process with its exit code."""
    ended_by: list[int] = []

    def end(number: int, _: object) -> None:
        ended_by.append(number)
        raise KeyboardInterrupt  # and what is half done is taken back, as at Ctrl-C

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, end)
    sys.meta_path.insert(0, NoPandas())
    # numpy comes with a linear algebra library that would start a thread for each core: 10 ms.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run(pond, "pond")
    if ended_by and code == EXIT_INTERRUPTED:
        code = 128 + ended_by[0]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Nothing is left to be closed; taking numpy and pyarrow down in good order takes 20 ms more.
    os._exit(code)
