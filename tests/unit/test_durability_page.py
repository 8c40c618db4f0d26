"""Each claim of docs/explanation/consistency-and-durability.md is shown by a test that is there."""

import re
from pathlib import Path

from pondfs.store.check import INVARIANTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/consistency-and-durability.md"


def test_each_invariant_is_broken_by_a_test() -> None:
    cases = (ROOT / "tests/unit/store/test_check.py").read_text()
    assert not [name for name in INVARIANTS if f'"{name}"' not in cases]


def test_each_test_that_shows_a_claim_is_there() -> None:
    """A claim whose test was renamed or removed would go on looking proven."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text())
    assert len(named) > 20
    for file, test in named:
        source = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {test or 'test_'}", source, re.MULTILINE), (file, test)
