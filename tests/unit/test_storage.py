"""The daemon's look at what its store takes: not more often than pays, and never in the way."""

from pathlib import Path

import trio

from pondfs.vfs.storage import Storage
from tests.unit.store.support import file_row, log_entry, make_cut, new_pond


def test_figures_are_kept_for_a_while(tmp_path: Path) -> None:
    store = new_pond(tmp_path / "pond")
    storage = Storage(store)

    async def main() -> None:
        first = await storage.look()
        assert first.figures is not None
        assert first.figures.live_bytes == 0
        store.commit(make_cut(2, [file_row(10, b"abc", b"f")]))
        assert await storage.look() is first
        assert first.age_s > 0
        whole = await storage.look(whole=True)
        assert whole.figures is not None
        assert whole.figures.live_bytes == 3

    trio.run(main)
    store.close()


def test_what_can_not_be_counted_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pond"
    store = new_pond(path)
    store.commit(make_cut(2, [file_row(10, b"abc", b"f")]))
    storage = Storage(store)

    async def main() -> None:
        aside = log_entry(path, 1).rename(path / "aside")
        found = await storage.look()
        assert found.figures is None
        assert log_entry(path, 1).name in found.error
        aside.rename(log_entry(path, 1))
        found = await storage.look(whole=True)
        assert (found.error, found.figures is None) == ("", False)

    trio.run(main)
    store.close()
