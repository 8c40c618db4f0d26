"""The error reference is generated; exit codes mean one thing each."""

import re
from collections import defaultdict
from pathlib import Path

from docs.generate import ERRORS, errors_page
from pondfs import errors
from pondfs.cli.doctor import EXIT_CODES
from pondfs.cli.run import EXIT_BUG, EXIT_INTERRUPTED, EXIT_PIPE

CLI = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

# mount(8) lumps these together, so do we; everything else has a code of its own.
SHARED = {1, 2, 6}


def test_the_reference_is_current() -> None:
    assert ERRORS.read_text() == errors_page(), "run `make docs`"


def test_exit_codes_are_not_reused() -> None:
    users = defaultdict(set)
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, errors.PondError):
            users[found.exit_code].add(found.__name__)
    assert not {
        code: names for code, names in users.items() if len(names) > 1 and code not in SHARED
    }
    assert not set(users) & set(errors.VERDICTS)


def test_every_code_a_command_ends_with_is_in_the_list_of_commands() -> None:
    """What errors and verdicts say, and `cli.run` and `cli.main` have on top of it."""
    section = CLI.read_text().partition("\n## Exit codes\n")[2]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \| ", section, re.MULTILINE)}
    raised = {
        found.exit_code
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.PondError)
    }
    others = {0, EXIT_BUG, EXIT_INTERRUPTED, EXIT_PIPE, 128 + 1, 128 + 15}
    assert listed == raised | others | set(errors.VERDICTS)
    for code in others:
        assert re.search(rf"\b{code}\b", ERRORS.read_text())


def test_the_doctor_ends_with_what_is_told() -> None:
    assert set(EXIT_CODES.values()) - {0} <= set(errors.VERDICTS)
