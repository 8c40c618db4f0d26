"""How every command ends: errors in one line on stderr, and an exit code from one list.

The list is in ``docs/reference/cli.md``; `pondfs.errors` is where the codes come from.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from pondfs.errors import PondError, SystemFailure, UsageError

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an error nobody thought of, ours to mend."""

EXIT_INTERRUPTED = 130
"""As a shell shows a process that SIGINT ended."""

EXIT_PIPE = 141
"""As a shell shows a process that SIGPIPE ended (``pond log | head``)."""


def run(command: click.Command, name: str, args: Sequence[str] | None = None) -> int:
    """Run *command* and return its exit code; nothing it raises gets past here.

    ``POND_DEBUG=1`` in the environment shows the traceback as well.
    """
    _hold_streams()
    try:
        result = command.main(args=args, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):  # click makes sys.exit(1) of EPIPE
        # Python flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        print(help_wanted.format_message(), file=sys.stderr)
        return UsageError.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        _complain(name, f"{error.format_message().rstrip('.')}: see {path} --help", error)
        return UsageError.exit_code
    except PondError as error:
        _complain(name, str(error), error)
        return error.exit_code
    except OSError as error:
        what = error.strerror or str(error)
        _complain(name, f"{os.fsdecode(error.filename)}: {what}" if error.filename else what, error)
        return SystemFailure.exit_code
    except Exception as error:
        _complain(
            name,
            f"bug: {type(error).__name__}: {error}: please report it with what "
            "POND_DEBUG=1 in the environment shows",
            error,
        )
        return EXIT_BUG
    return result if isinstance(result, int) else 0


def _hold_streams() -> None:
    """Put something in the place of standard streams that were closed when we began.

    Else Python has none, and the next file that is opened, of a store perhaps, would be where
    others print to. What is printed to a closed stdout is an error, as everywhere (EBADF).
    """
    streams = (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    )
    for number, (name, flags, mode) in enumerate(streams):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            stream = open(number, mode, closefd=False, errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, stream)


def as_mount_says(code: int) -> int:
    """Return the exit code mount(8) has for what ended with *code*.

    Its codes are bits: 1 usage or permission, 2 system, 4 a bug, 8 interrupted, 32 not mounted.
    """
    return {0: 0, 1: 1, 2: 2, EXIT_BUG: 4, EXIT_INTERRUPTED: 8}.get(code, 32)


def _complain(name: str, message: str, error: Exception) -> None:
    if os.environ.get("POND_DEBUG"):
        import traceback

        traceback.print_exception(error)
    line = " ".join(message.split())
    # A name in it, which anybody may have given to a file, must not speak to the terminal.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    with contextlib.suppress(OSError):  # nobody hears it; the exit code is told all the same
        click.echo(click.style(f"{name}: ", fg="red") + line, err=True)
