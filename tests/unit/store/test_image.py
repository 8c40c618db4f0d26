import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.store.image import _span, narrow


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_narrowing_keeps_every_value(values: list[int]) -> None:
    assert narrow(np.array(values, np.int64)).tolist() == values


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], "uint8"), ([0, 255], "uint8"), ([0, 256], "uint16"), ([2**32 - 1], "uint32"),
        ([2**32], "int64"), ([-1, 5], "int8"), ([-1, 2**40], "int64"),
    ],
)  # fmt: skip
def test_narrowest_type(values: list[int], kind: str) -> None:
    assert narrow(np.array(values, np.int64)).dtype == kind


@given(st.lists(st.integers(0, 260)), st.integers(0, 260))
def test_span_finds_the_run_of_equal_values(values: list[int], wanted: int) -> None:
    column = narrow(np.array(sorted(values), np.int64))
    start, stop = _span(column, wanted)
    assert column[start:stop].tolist() == [v for v in values if v == wanted]
    assert start == sum(v < wanted for v in values) or start == stop
