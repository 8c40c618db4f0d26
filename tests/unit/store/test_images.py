"""The saved image: used only when it is right, and never in the way."""

import os
import random
import threading
from pathlib import Path

import pytest

from pondfs.errors import NoSuchVersion
from pondfs.node import NodeId, Version
from pondfs.store import imagefile, images, records
from pondfs.store.delta import DeltaStore
from pondfs.store.image import TableImage
from pondfs.store.scan import in_order
from tests.unit.store.histories import Walk
from tests.unit.store.support import extent_row, file_row, make_cut, open_pond, size_row
from tests.unit.store.test_fold_over import same_tree


@pytest.fixture(autouse=True)
def _save_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WORTH_ROWS", 1)


@pytest.fixture
def pond(tmp_path: Path) -> Path:
    """A pond with some random history and a saved image of its newest version."""
    import trio

    walk = Walk(tmp_path / "pond", 5)
    trio.run(walk.run, 150, 0.2)
    walk.close()
    assert saved(tmp_path / "pond").exists()
    return tmp_path / "pond"


def saved(pond: Path) -> Path:
    return pond / "_pond" / "image"


def check(pond: Path) -> None:
    """Compare what is loaded with what a fold of everything makes."""
    reader = DeltaStore.open_reader(pond)
    found = reader.load_image()
    image = saved(pond)
    aside = image.rename(image.with_name("aside")) if image.exists() else None
    same_tree(found, reader.load_image())
    if aside is not None:
        aside.rename(image)
    reader.close()


def test_what_came_after_it_is_laid_over_it(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(pond)
    store = open_pond(pond)
    newest = store.load_image().version
    monkeypatch.setattr(images, "WORTH_ROWS", 100)
    store.commit(make_cut(newest + 1, [file_row(77, b"seventy-seven", b"new")]))
    store.commit(make_cut(newest + 2, [extent_row(77, 3, b"XX"), size_row(77, 13)]))
    before = saved(pond).read_bytes()
    store.close()
    assert saved(pond).read_bytes() == before
    check(pond)


def test_a_large_tree_is_saved_at_closing_after_any_row(
    pond: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each opening takes all of the image into memory, to lay a few rows over it."""
    monkeypatch.setattr(images, "WORTH_ROWS", 100)
    monkeypatch.setattr(images, "MANY_NODES", 1)
    store = open_pond(pond)
    newest = store.load_image().version
    store.commit(make_cut(newest + 1, [file_row(77, b"seventy-seven", b"new")]))
    store.close()
    loaded = open_pond(pond)
    assert loaded.load_image().is_mapped
    loaded.close()
    check(pond)


def test_it_is_only_loaded_for_versions_it_is_not_newer_than(pond: Path) -> None:
    reader = DeltaStore.open_reader(pond)
    newest = reader.load_image().version
    for version in (1, newest // 2, newest - 1, newest):
        assert reader.load_image_at(Version(version)).version == version
    with pytest.raises(NoSuchVersion):
        reader.load_image_at(Version(newest + 1))
    reader.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_one_is_told_of_and_not_used(
    pond: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    data = bytearray(saved(pond).read_bytes())
    dice = random.Random(seed)
    if seed % 2:
        del data[dice.randrange(len(data)) :]
    else:
        data[dice.randrange(64, 1000)] ^= 1 << dice.randrange(8)  # behind the first header
    saved(pond).write_bytes(data)
    check(pond)
    assert "is not used" in caplog.text


def test_it_is_outdated_when_data_files_were_exchanged(
    pond: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from deltalake import DeltaTable

    DeltaTable(pond).optimize.compact()
    with caplog.at_level("INFO"):
        check(pond)
    assert "outdated" in caplog.text
    # The next writer saves one that knows the new files.
    open_pond(pond).close()
    store = open_pond(pond)
    store.load_image()
    store.close()
    caplog.clear()
    with caplog.at_level("INFO"):
        check(pond)
    assert "outdated" not in caplog.text


def test_a_full_disk_leaves_the_one_before(
    pond: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = saved(pond).read_bytes()

    def fail(*args: object) -> int:
        raise OSError(28, "No space left on device")

    store = open_pond(pond)
    newest = store.load_image().version
    store.commit(make_cut(newest + 1, [file_row(78, b"x", b"another")]))
    monkeypatch.setattr(records, "checksum", fail)
    store.close()
    monkeypatch.undo()
    assert "could not be written" in caplog.text
    assert saved(pond).read_bytes() == before
    assert sorted(os.listdir(pond / "_pond")).count("image.tmp") == 0
    check(pond)


def test_one_is_saved_while_the_pond_is_open(pond: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_pond(pond)
    newest = store.load_image().version
    before = saved(pond).stat().st_ino
    rows = [file_row(1000 + number, b"x", b"many%d" % number) for number in range(60)]
    store.commit(make_cut(newest + 1, rows))
    assert store.rows_since_image >= 60
    image = store.save_image()
    assert image is not None
    assert image.is_mapped
    assert image.version == newest + 1
    assert store.rows_since_image == 0
    assert saved(pond).stat().st_ino != before
    again = saved(pond).stat().st_ino
    assert store.save_image() is not None
    assert saved(pond).stat().st_ino == again  # it is the newest: nothing is written
    monkeypatch.setattr(images, "WORTH_ROWS", 1 << 40)
    store.close()
    check(pond)
    reader = DeltaStore.open_reader(pond)
    assert reader.load_image().find_node(NodeId(1059)) is not None
    reader.close()


def test_what_is_committed_while_one_is_saved_is_not_forgotten(
    pond: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the image that is given back, nor for the next, nor for what is counted."""
    store = open_pond(pond)
    newest = store.load_image().version
    store.close()
    monkeypatch.setattr(images, "WORTH_ROWS", 40)
    store = open_pond(pond)
    began, go_on = threading.Event(), threading.Event()
    save = imagefile.save

    def slow(path: str, image: TableImage) -> None:
        began.set()
        assert go_on.wait(60)
        save(path, image)

    def commit(version: int) -> None:
        rows = [file_row(version * 1000 + at, b"x", b"%d %d" % (version, at)) for at in range(60)]
        store.commit(make_cut(version, rows))

    commit(newest + 1)
    monkeypatch.setattr(imagefile, "save", slow)
    found: list[TableImage | None] = []
    saving = threading.Thread(target=lambda: found.append(store.save_image()))
    saving.start()
    assert began.wait(60)
    commit(newest + 2)
    go_on.set()
    saving.join()
    assert found[0] is not None
    assert found[0].version == newest + 1
    assert store.rows_since_image >= 60
    store.close()
    reader = DeltaStore.open_reader(pond)
    files = in_order(reader._files, None)
    saved_image = imagefile.load(os.fspath(pond), files, None)
    reader.close()
    assert saved_image is not None
    assert saved_image[0].version == newest + 2
