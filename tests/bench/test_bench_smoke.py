"""Every workload runs, at a tiny size, on a plain directory, the bare filesystem and a pond.

No timing is asserted: these tests keep the benchmark from rotting, and are one more way for a
filesystem to show that it mixes up contents.
"""

from __future__ import annotations

import filecmp
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import run, trees
from tests.bench.bars import ROWS, Bar, Row
from tests.bench.machine import Machine
from tests.bench.page import PAGE, Page
from tests.bench.suite import WORKLOADS, Plan, Results
from tests.bench.targets import TARGETS, Bare, Target
from tests.bench.written import SAME_LOOP, TABLES, write

TINY = 0.002


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module", params=list(TARGETS))
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    target = TARGETS[request.param](tmp_path_factory.mktemp("bench"))
    target.open()
    yield target
    target.close()


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workload_gives_its_rows(name: str, target: Target, sources: Path) -> None:
    figures = Plan(sources, [target], TINY).run_once(name, target, sources)
    has_daemon, is_pond = target.daemon_pid() is not None, target.name == "pond"
    only_pond = name in ("past", "pond_cost", "query", "read")
    if (name == "rss" and not has_daemon) or (only_pond and not is_pond):
        assert figures == {}
        return
    assert set(figures) == set(WORKLOADS[name].rows)
    for row, figure in figures.items():
        assert math.isfinite(figure)
        assert figure > 0 or row == "rss_growth", (row, figure)
    assert list(target.root.iterdir()) == []


def test_every_row_has_one_workload_and_a_bar_or_a_reason() -> None:
    rows = [row for workload in WORKLOADS.values() for row in workload.rows]
    assert sorted(rows) == sorted(ROWS)
    assert {row.name for row in ROWS.values() if row.bar is None} == {
        *("rss", "rss_growth", "past_build", "live_ls", "past_ls", "live_cold_read", "past_cat"),
        *("history", "follow_delay", "restore_1000", "prune"),
        *("query_oplog", "read_ext4", "read_unmounted", "read_mounted"),
    }


@pytest.mark.parametrize(
    ("row", "pond", "met"),
    [
        (Row("a", "", "/s", Bar(0.7, "bare")), 70.0, True),
        (Row("a", "", "/s", Bar(0.7, "bare")), 69.0, False),
        (Row("a", "", "s", Bar(1.5, "bare"), more_is_better=False), 150.0, True),
        (Row("a", "", "s", Bar(1.5, "bare"), more_is_better=False), 151.0, False),
        (Row("a", "", "µs", Bar(3.0), more_is_better=False), 3.5, False),
        (Row("a", "", "/s", Bar(0.7, "ext4")), 70.0, None),
        (Row("a", "", "MB", None), 70.0, None),
    ],
)
def test_a_bar_is_judged_against_the_target_it_names(
    row: Row, pond: float, met: bool | None
) -> None:
    assert row.is_met({"pond": pond, "bare": 100.0}) is met


def test_the_bare_filesystem_keeps_what_is_copied_into_it(tmp_path: Path) -> None:
    """A yardstick that loses data would be no yardstick; the busy loop is on as the harder case."""
    trees.make_tree(tmp_path / "source", 300)
    bare = Bare(tmp_path)
    bare.options = ("--spin-us", "30")
    bare.open()
    try:
        copy = bare.root / "copy"
        subprocess.run(["cp", "-a", tmp_path / "source", copy], check=True, timeout=60)
        check = ["diff", "-r", "--no-dereference", str(tmp_path / "source"), str(copy)]
        assert subprocess.run(check, capture_output=True, timeout=60).stdout == b""
        large = copy / "large"
        large.write_bytes(bytes(range(256)) * 40_000)
        large.rename(copy / "renamed")
        shutil.copy(copy / "renamed", tmp_path / "back")
        assert filecmp.cmp(copy / "renamed", tmp_path / "back", shallow=False)
    finally:
        bare.close()


def test_run_prints_a_table_and_the_missed_bars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures.json"
    run.main(
        f"--only mkdir small_write --targets bare,ext4 --scale {TINY} --rounds 2 "
        f"--json {written} --dir {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert "100-byte write" in printed
    assert printed.endswith("bars: 0 met, 0 missed\n")
    figures = json.loads(written.read_text())
    assert figures["failures"] == {}
    assert [len(figures["rows"]["mkdir"]["rounds"][name]) for name in ("bare", "ext4")] == [2, 2]


def test_only_whole_tables_are_written_to_the_page(tmp_path: Path) -> None:
    """Else some rows of a table would be older than its date."""
    page = Page(Path(shutil.copy(PAGE, tmp_path)))
    assert {kept.name for kept in (*TABLES, SAME_LOOP)} <= page.names()
    before = page.path.read_text()
    machine, results = Machine.here(tmp_path), Results()
    sql, past = (next(kept for kept in TABLES if kept.name == name) for name in ("sql", "past"))
    results.add("pond", dict.fromkeys(sql.rows, 1.0) | {past.rows[0]: 2.0})
    told = write(page, results, machine, "make bench", TABLES)
    assert [line.split()[0] for line in told] == ["past", "sql"]
    assert "not written" in told[0]
    after = page.path.read_text()
    start, end = (text.index("<!-- bench: sql -->") for text in (before, after))
    assert before[:start] == after[:end]
    assert f"Measured {machine.date} by `make bench`: " in after[end:]
    assert after[end:].partition("<!-- end -->")[0].count("| 1 |") == len(sql.rows)
    results.add("pond", dict.fromkeys(TABLES[0].rows, 1.0))
    told = write(page, results, machine, "make bench", TABLES)
    assert told[0].startswith("everyday not written")
    assert page.path.read_text() == after
