import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pondfs.cli.run import run
from pondfs.errors import MountFailed, NotAPond, PondError


def command_raising(error: BaseException) -> click.Command:
    @click.command("verb")
    @click.argument("name", required=False)
    def command(name: str | None) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NotAPond("no pond\n  here"), 3, "pond: no pond here"),
        (MountFailed("in use"), 32, "pond: in use"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "/x: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), 2, "pond: Input/output error"),
        (KeyError("x"), 70, "bug: KeyError: 'x': please report it"),
        (click.UsageError("No such thing."), 1, "pond: No such thing: see"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command_raising(error), "pond", []) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert printed.err.count("\n") == 1


def test_a_name_does_not_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.EIO, "no", "a\x1b[31mb\udcff")
    assert run(command_raising(error), "pond", []) == 2
    assert capsys.readouterr().err == "pond: a\\x1b[31mb\\udcff: no\n"


@pytest.mark.parametrize(
    ("shell", "code", "err"),
    [
        ('exec "$@" --version >&-', 2, "pond: Bad file descriptor\n"),
        ('exec "$@" --version >&- 2>&-', 2, ""),
        ('exec "$@" --version <&- 2>&-', 0, ""),
        ('exec "$@" --pond /none status 2>&-', 3, ""),
        ('exec "$@" --pond /none status 2>/dev/full', 3, ""),
    ],
)
def test_without_standard_streams(shell: str, code: int, err: str) -> None:
    """What cron and some daemons start may have none: an exit code, but no traceback."""
    pond = Path(sys.executable).with_name("pond")
    done = subprocess.run(["sh", "-c", shell, "sh", pond], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, err)


def test_an_interrupt_is_no_error_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_raising(KeyboardInterrupt()), "pond", []) == 130
    assert capsys.readouterr().err.strip() == ""


def test_debugging_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POND_DEBUG", "1")
    assert run(command_raising(KeyError("x")), "pond", []) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_option_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command_raising(KeyError("x")), "pond", ["--nonsense"]) == 1
    assert capsys.readouterr().err == "pond: No such option '--nonsense': see pond --help\n"


def test_a_reader_that_stops_reading_is_no_bug() -> None:
    """``pond log | head -1``."""
    code = (
        "import click, sys\n"
        "from pondfs.cli.run import run\n"
        "@click.command()\n"
        "def command():\n"
        "    for _ in range(100_000): print('x' * 100)\n"
        "sys.exit(run(command, 'pond', []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("name", ["pond", "mount.pond", "umount.pond"])
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_installed_commands_answer(name: str, option: str) -> None:
    command = Path(sys.executable).parent / name
    done = subprocess.run(
        [command, option], capture_output=True, text=True, env={}, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


@pytest.mark.parametrize(
    "module", ["pondfs.cli", "pondfs.cli.mount_pond", "pondfs.cli.umount_pond"]
)
def test_starting_a_command_imports_nothing_heavy(module: str) -> None:
    """``pond --help`` imports every verb, and still answers in 150 ms."""
    code = (
        f"import sys, importlib; importlib.import_module({module!r})\n"
        "import pondfs.cli as cli\n"
        "[importlib.import_module(f'pondfs.cli.{verb}') for verb in cli.VERBS]\n"
        "heavy = {'trio', 'pyarrow', 'deltalake', 'numpy', 'pyfuse3', 'rich', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout == "[]\n"


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    documented = (Path(__file__).parents[3] / "docs/reference/cli.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", documented, re.MULTILINE)}
    raised = {PondError.exit_code, 0, 70, 129, 130, 141, 143}
    pending = list(PondError.__subclasses__())
    while pending:
        error = pending.pop()
        raised.add(error.exit_code)
        pending += error.__subclasses__()
    assert listed == raised
