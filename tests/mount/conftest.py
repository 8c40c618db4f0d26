"""``place``: one test, run on an ordinary directory and on a pond.

The ordinary directory is the oracle. A semantics test that fails on ``plain`` is wrong about POSIX;
one that fails on ``pond`` alone has found a bug. Ponds are shared by all tests with the same mount
options, because mounting costs more than most of these tests; each test has a directory of its own.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from pondfs.cli import VERBS
from pondfs.cli import pond as pond_command
from pondfs.cli.run import run as run_verb
from tests.conftest import MakePond
from tests.mount import harness
from tests.mount.harness import PondMount
from tests.mount.place import ALICE, Place, Say, as_user

SharedPond = Callable[[tuple[str, ...]], PondMount]

_numbers = count(1)  # names of tests may differ in nothing but punctuation
# allow_other, so that tests may act as another user.
DEFAULT_OPTIONS = ("allow_other",)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that :func:`place` reads."""
    config.addinivalue_line(
        "markers", "mount_options(*options): mount the shared pond of this test with these"
    )
    config.addinivalue_line(
        "markers", "pond_only(reason): about something an ordinary directory does otherwise"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes ``place`` on both sides, unless it says it is about one."""
    if "place" in metafunc.fixturenames:
        pond_only = metafunc.definition.get_closest_marker("pond_only") is not None
        sides = ["pond"] if pond_only else ["plain"] if harness.PLAIN else ["plain", "pond"]
        metafunc.parametrize("place", sides, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about ponds when a developer tries the tests on an ordinary directory."""
    if harness.PLAIN:
        items[:] = [item for item in items if item.get_closest_marker("pond_only") is None]


@pytest.fixture(scope="session")
def shared_pond(
    tmp_path_factory: pytest.TempPathFactory, pond_env: dict[str, str]
) -> Iterator[SharedPond]:
    """Return a function from mount options to the one pond mounted with them."""
    ponds: dict[tuple[str, ...], PondMount] = {}

    def share(options: tuple[str, ...]) -> PondMount:
        if options not in ponds:
            base = tmp_path_factory.mktemp("shared")
            pond = harness.make_pond(base / "pond", base / "mnt", pond_env)
            ponds[options] = pond
            pond.options = options
        pond = ponds[options]
        if not pond.is_mounted() or harness.is_dead(pond.mnt):
            harness.sweep(pond.mnt)  # a test that broke the mount must not break the others
            pond.mount(*options)
        return pond

    yield share
    for pond in ponds.values():
        pond.allow_log(".*")  # judged test by test, in the place fixture
        pond.close()


@pytest.fixture
def _umask() -> Iterator[None]:
    """Make modes predictable."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, shared_pond: SharedPond, _umask: None
) -> Iterator[Place]:
    """Return an empty directory to test in: an ordinary one, then one on a pond."""
    if request.param == "plain":
        directory = tmp_path / "plain"
        directory.mkdir()
        yield Place(directory)
        return
    marker = request.node.get_closest_marker("mount_options")
    pond = shared_pond(marker.args if marker else DEFAULT_OPTIONS)
    name = re.sub(r"\W+", "_", request.node.name)[:200]
    directory = pond.mnt / f"{name}{next(_numbers)}"
    directory.mkdir()
    seen = len(pond.daemon_log())
    yield Place(directory, pond)
    expected = request.node.get_closest_marker("allow_log")
    complaints = harness.alarming(pond.daemon_log()[seen:], expected.args if expected else ())
    assert not complaints, "the daemon's log complains:\n" + "\n".join(complaints)


@pytest.fixture
def public(make_pond: MakePond) -> Iterator[PondMount]:
    """A pond mounted for everybody, in a place everybody can get at; the store is private."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        mnt = Path(place) / "mnt"
        mnt.mkdir()
        pond = make_pond("public", mnt=mnt).mount("commit=3600,allow_other")
        yield pond
        pond.umount()


@pytest.fixture
def say(
    public: PondMount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Say:
    """Return a function that runs a verb as another user, who stands in the mount."""
    monkeypatch.delenv("POND", raising=False)
    for verb in VERBS:  # another user may not be able to read where the tests run from
        importlib.import_module(f"pondfs.cli.{verb}")
    importlib.import_module("pondfs.change")

    def say(*args: str, uid: int = ALICE, cwd: Path = public.mnt) -> tuple[int, str, str]:
        capsys.readouterr()
        with as_user(uid, cwd):
            code = run_verb(pond_command, "pond", args)
        return code, *capsys.readouterr()

    return say
