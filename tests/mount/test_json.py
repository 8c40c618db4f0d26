"""What ``--json`` prints is as docs/reference/json says, of mounted and of unmounted ponds.

The schemas allow no other keys and miss none, so a key that goes, comes or changes its type fails.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from pondfs.cli import VERBS
from pondfs.cli.doctor import EXIT_CODES
from tests.mount.harness import PondMount

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "json"

# In this order, on a pond that `fill` made: what later ones look at, earlier ones may have made.
CALLS: list[tuple[str, ...]] = [
    ("status",),
    ("status", "--pending"),
    ("doctor", "--timeout", "120"),
    ("ls", "-R", "-a"),
    ("ls", "--at", "2"),
    ("ls", "-R", "--pending"),
    ("find", "--name", "*.*"),
    ("find", "--deleted-between", "2..3"),
    ("describe", "*", "d/table.csv"),
    ("du",),
    ("du", "d", "file"),
    ("du", "--by-version"),
    ("du", "--by-version", "d"),
    ("log",),
    ("log", "--stat", "-n", "2"),
    ("show",),
    ("show", "-m", "detailed"),
    ("diff", "1..2"),
    ("diff", "2..3"),
    ("history", "file"),
    ("history", "gone"),
    ("query", "SELECT 1 AS a, 'x' AS b"),
    ("tag", "first", "2"),
    ("tag",),
    ("mkdir", "-p", "new/er"),
    ("touch", "new/file", "file"),
    ("ln", "-s", "file", "new/link"),
    ("ln", "file", "new/hard"),
    ("mv", "new/file", "new/moved"),
    ("mv", "-n", "new/moved", "new/again"),
    ("cp", "pond:file", "pond:new/copy"),
    ("cp", "-n", "d", "host:/nowhere"),
    ("rm", "-n", "-r", "d"),
    ("rm", "new/copy"),
    ("sync",),
    ("recover", "-n"),
    ("recover",),
    ("health",),
    ("commit", "-m", "one more"),
    ("restore", "--at", "2", "gone", "-n"),
    ("restore", "--at", "2", "gone"),
    ("undo", "-n"),
    ("undo",),
    ("tag", "-d", "first"),
    ("prune", "--keep-last", "2", "-n"),
    ("prune", "--keep-last", "2"),
    ("compact", "-n"),
    ("compact",),
    ("check",),
    ("check", "--data", "--at", "latest"),
    ("repair", "-n"),
]


def fill(pond: PondMount) -> None:
    """Give the pond one of everything that records tell apart."""
    mnt = pond.mnt
    (mnt / "d").mkdir()
    (mnt / "d" / "table.csv").write_text("a,b\n1,x\n")
    (mnt / "broken.parquet").write_text("no table")
    (mnt / "file").write_text("one")
    (mnt / "gone").write_text("soon")
    (mnt / "moved.away").write_text("moves")
    (mnt / "link").symlink_to("file")
    (mnt / "going").write_text("pending, in the end")
    pond.run("pond", "commit", "--pond", str(mnt), "-m", "first")
    (mnt / "file").write_text("two")
    (mnt / "file").chmod(0o600)
    (mnt / "gone").unlink()
    (mnt / "moved.away").rename(mnt / "d" / "moved.here")
    pond.commit("second")


@pytest.fixture(params=["mounted", "unmounted"])
def filled(request: pytest.FixtureRequest, pond_unmounted: PondMount) -> PondMount:
    pond = pond_unmounted.mount("commit=3600,xattr")
    fill(pond)
    (pond.mnt / "pending").write_text("not committed")
    (pond.mnt / "going").unlink()
    if request.param == "unmounted":
        pond.umount()
    return pond


def json_verbs() -> Iterator[str]:
    """Yield the verbs that have ``--json``."""
    for verb in VERBS:
        command: click.Command = importlib.import_module(f"pondfs.cli.{verb}").command
        if any("--json" in param.opts for param in command.params):
            yield verb


def schema(verb: str) -> dict[str, Any]:
    """Return the schema of what *verb* prints."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{verb}.schema.json").read_text())
    return found


def check(verb: str, printed: str) -> None:
    """Fail unless what *verb* printed is as its schema has it."""
    errors = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(
            schema(verb), format_checker=Draft202012Validator.FORMAT_CHECKER
        ).iter_errors(json.loads(printed))
    ]
    assert not errors, "\n".join([*errors, printed[:2000]])


def test_every_verb_with_json_has_a_schema_and_is_called() -> None:
    verbs = set(json_verbs())
    assert verbs == {path.name.removesuffix(".schema.json") for path in SCHEMAS.iterdir()}
    assert verbs == {verb for verb, *_ in CALLS} | {"init"}


@pytest.mark.parametrize("verb", sorted(json_verbs()))
def test_schemas_leave_nothing_open(verb: str) -> None:
    found = schema(verb)
    Draft202012Validator.check_schema(found)
    assert found["title"] == f"pond {verb} --json"
    todo: list[Any] = [found]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            todo.extend(part.values())
            if "properties" in part and part.get("type") in ("object", ["object", "null"]):
                assert part["additionalProperties"] is False
                missing = set(part["properties"]) - set(part["required"])
                assert not missing or "$comment" in part, missing
        elif isinstance(part, list):
            todo.extend(part)


def test_what_is_printed(filled: PondMount) -> None:
    for verb, *args in CALLS:
        done = filled.pond(verb, *args, "--json", check=False)
        expected = 1 if "broken.parquet" in done.stdout and verb == "describe" else 0
        if verb == "doctor":  # of this machine, too
            expected = EXIT_CODES[json.loads(done.stdout)["verdict"]]
        if verb == "health" and not filled.is_mounted():
            expected = 2
        assert done.returncode == expected, (verb, args, done.stderr)
        check(verb, done.stdout)
        # An empty list would be right whatever the schema says.
        assert json.loads(done.stdout), (verb, args)


def test_what_init_prints(make_pond: Any, tmp_path: Path) -> None:
    pond = make_pond("fresh")
    check("init", pond.run("pond", "init", str(pond.store), "--json").stdout)


def test_a_wrong_record_is_refused(filled: PondMount) -> None:
    """The check itself can fail: a key more, a key less, another type."""
    (record,) = json.loads(filled.pond("ls", "file", "--json").stdout)
    check("ls", json.dumps([record]))
    for wrong in (
        record | {"colour": "red"},
        {key: value for key, value in record.items() if key != "mode"},
        record | {"size": "3"},
        record | {"mtime": "yesterday"},
    ):
        with pytest.raises(AssertionError):
            check("ls", json.dumps([wrong]))
