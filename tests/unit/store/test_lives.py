from pathlib import Path

import pytest

from pondfs.errors import NoSuchPath, UsageError
from pondfs.store.lives import Event, load_history, load_touching
from tests.unit.store.support import DIRECTORY
from tests.unit.store.test_changes import Life


@pytest.fixture
def life(tmp_path: Path) -> Life:
    life = Life(tmp_path / "pond")
    life.tree.make(b"d", DIRECTORY)
    life.tree.make(b"d/sub", DIRECTORY)
    life.tree.make(b"x", data=b"other")
    life.commit()
    return life


def brief(event: Event) -> tuple[int, str, str, int | None]:
    came = f" from {event.source.decode()}" if event.source is not None else ""
    return event.version, "+".join(event.what) + came, event.path.decode(), event.size


def history(life: Life, path: bytes) -> list[tuple[int, str, str, int | None]]:
    return [brief(event) for event in load_history(life.path, path.split(b"/"))]


def touching(life: Life, path: bytes) -> list[int]:
    found = load_touching(life.path, path.split(b"/"))
    assert found is not None
    return sorted(found)


def test_through_three_renames_and_a_deletion(life: Life) -> None:
    tree = life.tree
    tree.make(b"a", data=b"one")
    life.commit()  # 3
    tree.rename(b"a", b"d/a")
    life.commit()  # 4
    tree.write(b"d/a", b"three")
    life.commit()  # 5
    tree.say(tree.find(b"d/a")[2])
    life.commit()  # 6: its times alone
    tree.rename(b"d", b"e")
    life.commit()  # 7
    tree.write(b"e/a", b"three")
    life.commit()  # 8: the same bytes
    tree.write(b"e/a", b"2")
    tree.rename(b"e/a", b"b")
    life.commit()  # 9
    tree.write(b"x", b"something else")
    life.commit()  # 10
    expected: list[tuple[int, str, str, int | None]] = [
        (9, "written+renamed from e/a", "b", 1),
        (7, "renamed from d/a", "e/a", 5),
        (5, "written", "d/a", 5),
        (4, "renamed from a", "d/a", 3),
        (3, "created", "a", 3),
    ]
    assert history(life, b"b") == expected
    assert touching(life, b"b") == [3, 4, 5, 6, 8, 9]
    tree.remove(b"b")
    life.commit()  # 11
    tree.write(b"x", b"still something else")
    life.commit()
    expected.insert(0, (11, "removed", "b", None))
    assert history(life, b"b") == expected
    assert touching(life, b"b")[-1] == 11


def test_a_save_by_rename_does_not_end_the_history(life: Life) -> None:
    tree = life.tree
    tree.make(b"plan", data=b"one")
    life.commit()
    tree.make(b"plan.tmp", data=b"two")
    tree.rename(b"plan.tmp", b"plan")
    # The live tree coalesces: the new node never had another name.
    tree.rows = [row for row in tree.rows if row.name != b"plan.tmp"]
    life.commit()
    assert history(life, b"plan") == [(4, "replaced", "plan", 3), (3, "created", "plan", 3)]
    assert touching(life, b"plan") == [3, 4]


def test_parts_written_and_cut_off(life: Life) -> None:
    tree = life.tree
    tree.make(b"a", data=b"hello")
    life.commit()
    node = tree.nodes[tree.find(b"a")[2]]
    node.data = b"he"
    tree.say(tree.find(b"a")[2], below=2)
    life.commit()
    node.data = b"he\0\0"
    tree.say(tree.find(b"a")[2])
    life.commit()
    assert [size for _, _, _, size in history(life, b"a")] == [4, 2, 5]


def test_what_touched_a_directory(life: Life) -> None:
    tree = life.tree
    tree.make(b"d/sub/f", data=b"1")
    life.commit()  # 3
    tree.write(b"x", b"elsewhere")
    life.commit()  # 4
    tree.rename(b"x", b"d/x")
    life.commit()  # 5
    tree.rename(b"d/sub", b"sub")
    life.commit()  # 6
    tree.write(b"sub/f", b"no longer in it")
    life.commit()  # 7
    tree.link(b"d/x", b"y")
    life.commit()  # 8: the file's row is in another partition
    tree.write(b"y", b"by its other name")
    life.commit()  # 9
    tree.rename(b"d", b"renamed")
    life.commit()  # 10
    tree.chmod(b"sub", 0o700)
    life.commit()  # 11
    assert touching(life, b"renamed") == [2, 3, 5, 6, 8, 9, 10]
    assert touching(life, b"sub") == [2, 3, 6, 7, 11]
    assert load_touching(life.path, ()) is None


def test_what_has_no_history(life: Life) -> None:
    with pytest.raises(UsageError, match="'/d' is a directory"):
        history(life, b"d")
    with pytest.raises(NoSuchPath, match="no version has '/d/none'"):
        history(life, b"d/none")
    with pytest.raises(NoSuchPath):
        touching(life, b"x/none")
