"""Tables over ``pond://``, of a pond that is not mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

import pondfs
from pondfs.api.fs import PondFileSystem
from tests.unit.api.readers_suite import Options, ReaderTests


@pytest.fixture
def options(tmp_path: Path) -> Options:
    pondfs.init(tmp_path / "pond")
    return {"store": str(tmp_path / "pond")}


@pytest.fixture
def pond_fs(options: Options) -> PondFileSystem:
    return PondFileSystem(**options)


class TestUnmounted(ReaderTests):
    pass
