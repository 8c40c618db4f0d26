import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.store import thrift
from pondfs.store.thrift import BINARY, I64, LIST, STRUCT, TRUE, ThriftError, read_struct


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=14))
def test_numbers_survive(numbers: list[int]) -> None:
    data = thrift.struct(*((i + 1, I64, thrift.integer(n)) for i, n in enumerate(numbers)))
    assert read_struct(data, 0) == ({i + 1: n for i, n in enumerate(numbers)}, len(data))


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_text_lists_and_structs_are_passed_over(texts: list[bytes]) -> None:
    inner = thrift.struct((3, TRUE, b""), (7, I64, thrift.integer(-5)))
    data = thrift.struct(
        (1, LIST, thrift.sequence(BINARY, map(thrift.binary, texts))),
        (2, STRUCT, inner),
        (3, LIST, thrift.sequence(STRUCT, [inner] * len(texts))),
        (9, I64, thrift.integer(1)),
    )
    found, stop = read_struct(b"xx" + data + b"yy", 2)
    assert found == {1: None, 2: {3: True, 7: -5}, 3: None, 9: 1}
    assert stop == 2 + len(data)


@given(st.binary(max_size=60))
def test_noise_is_read_or_refused_never_more(data: bytes) -> None:
    try:
        read_struct(data, 0)
    except (ThriftError, IndexError):
        pass


def test_a_number_that_does_not_end() -> None:
    with pytest.raises(ThriftError, match="does not end"):
        read_struct(b"\x16" + b"\xff" * 20, 0)
