"""What an instance's file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pondfs.cli.maintain import steps
from pondfs.errors import UsageError
from pondfs.instance import Maintenance, find_instance, load_instance

LEAST = 'store = "/srv/pond"\nmountpoint = "/mnt/pond"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "field.toml"
    path.write_text(text)
    return path


def test_the_least(tmp_path: Path) -> None:
    found = load_instance(written(tmp_path, LEAST))
    assert found.name == "field"
    assert (found.mount.store, found.mount.mountpoint) == (Path("/srv/pond"), Path("/mnt/pond"))
    assert found.mount.foreground
    assert found.maintain.policy.is_empty
    assert found.resources.nice is None


def test_all_of_it(tmp_path: Path) -> None:
    found = load_instance(
        written(
            tmp_path,
            LEAST
            + 'options = ["allow_other,commit=30", "cache=64M"]\n'
            + "[resources]\nnice = -5\noom_score_adjust = -500\nopen_files = 4096\n"
            + '[maintain]\nkeep_last = 10\nkeep_daily = -1\nkeep_within = "1y6m"\ncheck = "data"\n',
        )
    )
    assert found.mount.allow_other
    assert found.mount.commit_s == 30
    assert found.mount.cache_bytes == 64 << 20
    assert found.resources.open_files == 4096
    assert steps(found.maintain, dry_run=False) == [
        "prune --keep-last 10 --keep-within 1y6m --keep-daily unlimited".split(),
        ["compact"],
        ["check", "--data"],
    ]
    assert steps(found.maintain, dry_run=True)[0][-1] == "--dry-run"


def test_nothing_is_pruned_unless_asked_for() -> None:
    assert steps(Maintenance(), dry_run=False) == [["compact"], ["check"]]
    assert steps(Maintenance(compact=False, check="off"), dry_run=False) == []


WRONG = {
    "mountpont": ('store = "/a"\nmountpont = "/b"\n', "unknown field `mountpont`"),
    "no store": ('mountpoint = "/b"\n', "missing required field `store`"),
    "a number": ('store = 1\nmountpoint = "/b"\n', "expected `str`, got `int` (key `store`)"),
    "not TOML": ("store = = 1\n", "line 1"),
    "relative": ('store = "a"\nmountpoint = "/b"\n', "give the whole path"),
    "an option": (LEAST + 'options = ["comit=3"]\n', "unknown option 'comit=3'"),
    "a value": (LEAST + 'options = ["commit=soon"]\n', "takes a number of seconds"),
    "nice": (LEAST + "[resources]\nnice = 44\n", "(key `resources.nice`)"),
    "a span": (LEAST + '[maintain]\nkeep_within = "a year"\n', "is no duration"),
    "a check": (LEAST + '[maintain]\ncheck = "all"\n', "(key `maintain.check`)"),
    "keep": (LEAST + "[maintain]\nkeep_dayly = 3\n", "unknown field `keep_dayly`"),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as told:
        load_instance(path)
    assert str(told.value).startswith(f"{path}: ")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "field.toml"
    path.write_bytes(b'store = "/a\xff"\n')
    with pytest.raises(UsageError, match="utf-8"):
        load_instance(path)


def test_where_a_name_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, LEAST)
    assert find_instance(str(path), {}) == path
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (tmp_path / "pondfs").mkdir()
    moved = path.rename(tmp_path / "pondfs" / "field.toml")
    assert find_instance("field", {"XDG_CONFIG_HOME": str(tmp_path)}) == moved
    with pytest.raises(UsageError, match=r"other\.toml"):
        find_instance("other", {"XDG_CONFIG_HOME": str(tmp_path)})
    for name in ("", "-x", "a b", "ä"):
        with pytest.raises(UsageError, match="is no name"):
            find_instance(name, {})
