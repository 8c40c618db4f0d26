"""What happened to one path, and which paths there ever were, against a small model of a tree."""

import random
import stat
from pathlib import Path

import pytest

from pondfs.change import Event
from pondfs.errors import NoSuchPath, UsageError
from pondfs.interfaces import Lives, PastContent
from pondfs.store.lives import CREATED, REPLACED, WRITTEN, load_history, load_touching
from tests.unit.store.support import DIRECTORY, SYMLINK, read_bytes
from tests.unit.store.test_changes import Facts, Life, Tree


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


# --- what was removed and came back ---


def test_a_file_that_was_removed_and_restored_keeps_its_history(life: Life) -> None:
    tree = life.tree
    tree.make(b"plan", data=b"one")
    life.commit()  # 3
    tree.rename(b"plan", b"d/plan")
    life.commit()  # 4
    tree.remove(b"d/plan")
    life.commit()  # 5
    tree.make(b"d/plan", DIRECTORY)
    life.commit()  # 6: its name is another thing's meanwhile
    tree.remove(b"d/plan")
    life.commit()  # 7
    tree.make(b"d/plan", data=b"back again")
    life.commit()  # 8
    assert history(life, b"d/plan") == [
        (8, "created", "d/plan", 10),
        (5, "removed", "d/plan", None),
        (4, "renamed from plan", "d/plan", 3),
        (3, "created", "plan", 3),
    ]
    assert touching(life, b"d/plan") == [3, 4, 5, 8]


def test_a_file_that_was_moved_away_takes_its_history_along(life: Life) -> None:
    """Whether it was removed there or not: a new file in its old place has only its own."""
    tree = life.tree
    tree.make(b"plan", data=b"one")
    life.commit()  # 3
    tree.rename(b"plan", b"d/plan")
    life.commit()  # 4
    tree.make(b"plan", data=b"another")
    life.commit()  # 5
    assert history(life, b"plan") == [(5, "created", "plan", 7)]
    tree.remove(b"d/plan")
    tree.remove(b"plan")
    life.commit()  # 6
    tree.make(b"plan", data=b"a third")
    life.commit()  # 7
    assert [version for version, *_ in history(life, b"plan")] == [7, 6, 5]
    assert [version for version, *_ in history(life, b"d/plan")] == [6, 4, 3]


def test_one_of_two_names_removed_is_no_removal(life: Life) -> None:
    tree = life.tree
    tree.make(b"a", data=b"one")
    tree.link(b"a", b"b")
    life.commit()  # 3
    tree.remove(b"a")
    life.commit()  # 4
    tree.make(b"a", data=b"another")
    life.commit()  # 5
    assert [version for version, *_ in history(life, b"a")] == [5]
    assert [version for version, *_ in history(life, b"b")] == [3]


def test_bytes_over_bytes_are_compared_where_they_were_written(life: Life) -> None:
    """Written over with the same, cut off and grown back as a hole, another byte in the middle."""
    tree = life.tree
    tree.make(b"a", data=b"hello world")
    life.commit()  # 3
    node_id = tree.find(b"a")[2]
    tree.say(node_id, data=b"hello world"[:5])
    life.commit()  # 4: the same bytes over the first five
    tree.say(node_id, below=5)
    tree.nodes[node_id].data = b"hello" + bytes(6)
    tree.say(node_id)
    life.commit()  # 5: shorter and longer in one version
    tree.say(node_id, below=5)
    life.commit()  # 6: there is nothing left to cut off
    tree.nodes[node_id].data = b"jello" + bytes(6)
    tree.say(node_id, data=b"j")
    life.commit()  # 7
    assert [version for version, *_ in history(life, b"a")] == [7, 5, 3]


# --- all paths that ever were ---


def read(life: Life, lives: Lives, content: PastContent) -> bytes:
    data = bytearray(content.attr[5])
    for extent in lives.load_extents(content):
        data[extent.offset : extent.offset + extent.length] = read_bytes(
            life.store, extent.content, extent.skip, extent.length
        )
    return bytes(data)


def change(tree: Tree, rng: random.Random, number: int) -> None:
    """Do something to something, as it comes."""
    listing = tree.listing()
    files = [path for path, facts in listing.items() if facts[2] is not None]
    folders = [b"", *(path + b"/" for path, facts in listing.items() if facts[2] is None)]
    name = rng.choice(folders) + rng.choice([b"a", b"b", b"c", b"\xff"])
    some = rng.choice(list(listing))
    data = b"%d" % number * rng.randrange(1, 3)
    match rng.randrange(8):
        case 0 if name not in listing:
            tree.make(name, DIRECTORY)
        case 1 if name not in listing:
            tree.make(name, data=data)
        case 2 | 3 if files:
            tree.write(rng.choice(files), data)
        case 4 if name not in listing and not name.startswith(some + b"/"):
            tree.rename(some, name)
        case 5 if files and name in files and name != some and some in files:
            tree.rename(some, name)
        case 6:
            tree.remove(some)
        case 7:
            tree.chmod(some, rng.choice([0o700, 0o755, 0o644]), rng.randrange(3))


@pytest.mark.parametrize("seed", range(6))
def test_every_path_that_ever_was(life: Life, seed: int) -> None:
    """Paths, contents and attributes are those of the versions; as `pond history` tells them."""
    rng = random.Random(seed)
    tree = life.tree
    trees: dict[int, dict[bytes, Facts]] = {life.version: tree.listing()}
    for number in range(60):
        for _ in range(rng.randrange(1, 4)):
            if not tree.nodes[1].children:
                tree.make(b"a", data=b"anew")
            change(tree, rng, number)
        life.commit()
        trees[life.version] = tree.listing()
    lives = life.store.open_lives()
    assert lives.newest == life.version

    found: set[bytes] = set()
    todo: list[tuple[bytes, ...]] = [()]
    for above in todo:
        names = lives.list_names(above)
        assert len(names) == len(set(names))
        for name, told in zip(names, lives.find_names(above, names), strict=True):
            assert told is not None
            path = b"/".join((*above, name))
            found.add(path)
            if stat.S_ISDIR(told.attr[0]):
                todo.append((*above, name))
            else:
                assert lives.list_names((*above, name)) == []
            last = max(v for v, listing in trees.items() if path in listing)
            was_directory = any(
                path in listing and listing[path][2] is None for listing in trees.values()
            )
            assert stat.S_ISDIR(told.attr[0]) == was_directory
            if last == life.version and (trees[last][path][2] is None) == was_directory:
                assert told.attr[:2] == trees[last][path][:2]
    assert found == {path for listing in trees.values() for path in listing}
    assert lives.find_names((), [b"never"]) == [None]

    for path in found:
        contents = lives.list_contents(path.split(b"/"))
        try:
            events = load_history(life.path, path.split(b"/"))
        except UsageError:
            continue  # a directory last
        events = [e for e in events if {CREATED, REPLACED, WRITTEN} & set(e.what)]
        assert [content.version for content in contents] == [e.version for e in events][::-1]
        for event, content in zip(reversed(events), contents, strict=True):
            mode, uid, data = trees[event.version][event.path]
            assert (content.attr[0], content.attr[1]) == (mode, uid)
            assert read(life, lives, content) == data
            assert content.allocated_bytes == len(data or b"")
            names = event.path.split(b"/")
            parents = [b"/".join(names[:n]) for n in range(1, len(names))]
            assert content.was_private == any(
                not trees[event.version][parent][0] & stat.S_IXOTH for parent in parents
            )
    lives.close()
    lives.close()


def test_a_name_that_was_a_directory_and_a_file(life: Life) -> None:
    tree = life.tree
    tree.make(b"both", DIRECTORY)
    tree.make(b"both/inside", data=b"one")
    tree.chmod(b"both", 0o750)
    life.commit()  # 3
    tree.remove(b"both")
    tree.make(b"both", data=b"a file")
    tree.make(b"link", SYMLINK, b"target")
    life.commit()  # 4
    lives = life.store.open_lives()
    assert lives.list_names((b"both",)) == [b"inside"]
    (told,) = lives.find_names((), [b"both"])
    assert told is not None
    assert told.attr[0] == stat.S_IFDIR | 0o750
    (content,) = lives.list_contents((b"both",))
    assert (content.version, read(life, lives, content)) == (4, b"a file")
    (content,) = lives.list_contents((b"both", b"inside"))
    assert content.was_private
    assert [content.target for content in lives.list_contents((b"link",))] == [b"target"]
    lives.close()
