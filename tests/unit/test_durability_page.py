"""The page of consistency and durability: its list is made from the check, its tests are there."""

import re
from pathlib import Path

from docs.generate import DURABILITY, durability_page
from pondfs.store.check import INVARIANTS

ROOT = Path(__file__).parents[2]


def test_the_list_of_invariants_is_current() -> None:
    assert DURABILITY.read_text() == durability_page(), "run `make docs`"


def test_each_invariant_is_broken_by_a_test() -> None:
    cases = (ROOT / "tests/unit/store/test_check.py").read_text()
    assert not [name for name in INVARIANTS if f'"{name}"' not in cases]


def test_each_test_that_shows_a_claim_is_there() -> None:
    """A claim whose test was renamed or removed would go on looking proven."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DURABILITY.read_text())
    assert len(named) > 20
    for file, test in named:
        source = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {test or 'test_'}", source, re.MULTILINE), (file, test)
