"""The error reference is generated; exit codes mean one thing each."""

from collections import defaultdict

from docs.generate import ERRORS, errors_page
from pondfs import errors

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
