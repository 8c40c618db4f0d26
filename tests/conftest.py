"""Fixtures for every test that mounts: a pond in a temporary place, swept before and after.

- ``pond``: a mounted :class:`~tests.mount.harness.PondMount` of its own;
- ``pond_unmounted``: the same before its first mount (for options, or a store made by hand);
- ``make_pond``: a function giving any number of them, ``make_pond(name)`` or ``make_pond()``;
- ``campaign``: how much a test does that has a short form here and a long one in `make test-long`.

Markers: ``allow_log("regex", …)`` expects such lines in the daemon's log; ``campaign`` is what
`make test-long` runs, see :mod:`tests.campaign`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaign import NAMED, Campaign, lines_of
from tests.mount import harness
from tests.mount.harness import PondMount

MakePond = Callable[..., PondMount]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-long` says."""
    parser.addoption("--long", action="store_true", help="campaigns at full length: hours")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers here, next to the fixtures that read them."""
    config.addinivalue_line(
        "markers", "allow_log(*patterns): the daemon's log may hold lines matching these"
    )
    config.addinivalue_line(
        "markers", "campaign(name, suite, long): has a long form, run by `make test-long`"
    )


LONGEST = (
    *("load/test_load", "mount/test_machine", "mount/test_long_life", "crash/test_kill"),
    *("mount/test_compact_stress", "mount/test_memory", "crash/test_power_cut"),
    *("bench/test_bench_scale", "mount/test_file_verbs", "model/test_restore", "model/test_vfs"),
    *("model/test_follow", "mount/test_api_pond", "mount/test_programs", "bench/test_bench_smoke"),
)
"""Files that take longest, in the suite or at length: they begin first, so that no worker is left
alone with one at the end (with ``--no-loadscope-reorder``, as `make` runs the tests)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those first."""
    here = os.path.dirname(__file__)
    order = {f"{here}/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(os.fspath(item.path), len(order)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a campaign of seeds as many as it is to have."""
    marker = metafunc.definition.get_closest_marker("campaign")
    if marker is not None and marker.args:
        wanted = marker.kwargs["long" if metafunc.config.getoption("--long") else "suite"]
        metafunc.parametrize("seed", range(wanted))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have the report of a campaign of seeds say which it is of."""
    marker = item.get_closest_marker("campaign")
    if marker is not None and marker.args:
        item.user_properties.append((NAMED, marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each campaign told, and which failed or were skipped."""
    reports = [
        report
        for outcome in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.getreports(outcome)
        if isinstance(report, pytest.TestReport)
    ]
    if lines := lines_of(reports):
        terminalreporter.section("campaigns")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say at once what an ordinary user would learn from a thousand failures."""
    if os.geteuid() != 0:
        pytest.exit(
            "the tests mount, change owners and use loop devices: they need root (sudo make test)",
            returncode=1,
        )


@pytest.fixture(scope="session", autouse=True)
def _sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clear away what a killed test session left mounted, and everything of this one at its end.

    Another session may be running: its directory is left alone as long as the process in its
    ``.lock`` file lives. With ``--basetemp`` the neighbours are nobody's we know.
    """
    base = tmp_path_factory.getbasetemp()
    if base.parent.name.startswith("pytest-of-"):
        for session in base.parent.glob("pytest-[0-9]*"):
            if session != base and not _is_running(session / ".lock"):
                harness.sweep(session)
    yield
    left = harness.sweep(base)
    assert not left, f"tests left mounts behind: {left}"


def _is_running(lock: Path) -> bool:
    try:
        os.kill(int(lock.read_text()), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


@pytest.fixture
def campaign(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Campaign:
    """Return how much the test is to do, and where it tells what it did."""
    return Campaign(request.config.getoption("--long"), record_property)


@pytest.fixture(scope="session")
def pond_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of pondfs commands: the developer's, but never their own pond."""
    env = {key: value for key, value in os.environ.items() if key != "POND"}
    env["XDG_DATA_HOME"] = str(tmp_path_factory.getbasetemp() / "xdg-data")
    return env


@pytest.fixture
def make_pond(
    tmp_path: Path, pond_env: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[MakePond]:
    """Return a function that makes unmounted ponds; teardown ends them and checks their logs.

    ``make_pond(name="pond", store=None, mnt=None)``: the store is ``tmp_path/NAME``, the
    mountpoint ``tmp_path/NAME.mnt``, unless given.
    """
    marker = request.node.get_closest_marker("allow_log")
    allowed = list(marker.args) if marker else []
    made: list[PondMount] = []

    def make(name: str = "pond", store: Path | None = None, mnt: Path | None = None) -> PondMount:
        pond = harness.make_pond(
            store or tmp_path / name, mnt or tmp_path / f"{name}.mnt", pond_env, allowed
        )
        made.append(pond)
        return pond

    yield make
    failures = []
    for pond in reversed(made):
        try:
            pond.close()
        except AssertionError as failure:
            failures.append(str(failure))
    harness.sweep(tmp_path)
    assert not failures, "\n".join(failures)


@pytest.fixture
def pond_unmounted(make_pond: MakePond) -> PondMount:
    """Return a pond whose store does not exist yet."""
    return make_pond()


@pytest.fixture
def pond(pond_unmounted: PondMount) -> PondMount:
    """Return a mounted pond with the default options."""
    return pond_unmounted.mount()
