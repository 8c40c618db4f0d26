import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pondfs.entry import NAME_MAX, check_name, encode_name
from pondfs.errors import FileError


def test_longest_name_is_255_bytes_not_characters() -> None:
    check_name(b"x" * NAME_MAX)
    with pytest.raises(FileError) as caught:
        check_name("ä".encode() * 128)
    assert caught.value.errno == errno.ENAMETOOLONG


@given(st.binary(min_size=1, max_size=20))
def test_any_bytes_survive_encoding(name: bytes) -> None:
    text, raw = encode_name(name)
    assert (raw if raw is not None else text.encode()) == name


def test_readable_name_shows_what_it_can_of_bytes_that_are_no_utf8() -> None:
    assert encode_name(b"caf\xe9") == ("caf\ufffd", b"caf\xe9")
    assert encode_name("café".encode()) == ("café", None)
