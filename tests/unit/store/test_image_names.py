from typing import Any

import numpy as np
import pytest

from pondfs.store.image import Blob, Ints, are_names


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (b"a", True), (b"...", True), (b".a", True), (b"a.", True), (b"..a", True),
        (b"\xff", True), (b"x" * 255, True),
        (b".", False), (b"..", False), (b"a/b", False), (b"/", False), (b"\0", False),
        (b"x" * 256, False), (b"", False),
    ],
)  # fmt: skip
def test_names(kind: type[np.integer[Any]], name: bytes, is_one: bool) -> None:
    data = b"ab" + name + b"c"
    ends: Ints = np.array([0, 2, 2 + len(name), 3 + len(name)], kind)
    assert are_names(data, ends) == is_one
    assert are_names(Blob(data), ends) == is_one


def test_no_names() -> None:
    assert are_names(b"", np.zeros(1, np.int64))
