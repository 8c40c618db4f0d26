"""Every row of `make bench-scale` runs, at the least sizes; and whatever happens, nothing is left.

No timing is asserted: these tests keep the benchmark from rotting.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench.page import PAGE, Page
from tests.bench.scale.curves import NAME
from tests.bench.scale.sections import SECTIONS
from tests.mount import harness

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK_TIMEOUT_S = 600.0
MAY_BE_ZERO = {
    *("fsync_append_commits", "fsync_sqlite_commits", "fsync_pg_commits"),
    "large_compact_read",  # a large file may lie as well as it can
}


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A place that PostgreSQL's user may pass through, as pytest's own it may not."""
    with tempfile.TemporaryDirectory(prefix="pond-scale-test-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        harness.sweep(path)


def start(scratch: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.scale", "--dir", str(scratch), *args],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(bench: subprocess.Popen[str], timeout_s: float = QUICK_TIMEOUT_S) -> tuple[int, str]:
    try:
        printed, _ = bench.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        bench.terminate()
        printed, _ = bench.communicate()
        pytest.fail(f"not done after {timeout_s:g} s: {printed[-4000:]}")
    return bench.returncode, printed


def processes_with(path: Path) -> list[int]:
    """Return the processes with something below *path* among their arguments."""
    found = []
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit() and int(proc.name) != os.getpid():
            try:
                text = (proc / "cmdline").read_bytes()
            except OSError:
                continue  # ended meanwhile
            if os.fsencode(f"{path}/") in text:
                found.append(int(proc.name))
    return found


def assert_nothing_left(scratch: Path) -> None:
    assert list(scratch.iterdir()) == []
    assert processes_with(scratch) == []
    assert not [entry for entry in harness.mounts() if scratch in entry.mnt.parents]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    return Path(shutil.copy(PAGE, folder))


@pytest.fixture(scope="module")
def report(scratch: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of all rows says; it has written *page*."""
    out = tmp_path_factory.mktemp("out")
    code, printed = finish(start(scratch, "--quick", "--out", str(out), "--write", str(page)))
    assert code == 0, printed
    assert_nothing_left(scratch)
    answer: dict[str, Any] = json.loads((out / "figures.json").read_text())
    return answer


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_row_gives_all_its_figures(name: str, report: dict[str, Any]) -> None:
    section, found = SECTIONS[name], report["sections"][name]
    assert found["failure"] == ""
    assert set(found["rows"]) == {row.name for row in section.rows}
    for row in section.rows:
        figures = found["rows"][row.name]["figures"]
        assert set(figures) <= set(section.columns), row.name
        for figure in figures.values():
            assert math.isfinite(figure)
            assert figure > 0 or row.name in MAY_BE_ZERO, row.name
        if row.bar is not None:
            assert found["rows"][row.name]["met"] in (True, False), row.name


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for section in SECTIONS.values() for row in section.rows]
    assert len(names) == len(set(names))


def test_the_page_has_the_tables_and_its_prose(report: dict[str, Any], page: Path) -> None:
    text, before = page.read_text(), PAGE.read_text()
    for name, section in SECTIONS.items():
        block = text[text.index(f"<!-- bench: {name} -->") :].partition("<!-- end -->")[0]
        assert f"Measured {report['machine']['date']} by `make bench-scale" in block
        assert block.count("\n|") == len(section.rows) + 2
    kept = "everyday"
    assert _block(text, kept) == _block(before, kept)
    assert text.count("\n## ") == before.count("\n## ")
    assert f"](images/{NAME}.png)" in text
    images = page.parent / "images"
    assert (images / f"{NAME}.png").read_bytes().startswith(b"\x89PNG\r\n")
    svg = ElementTree.parse(images / f"{NAME}.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"


def _block(text: str, name: str) -> str:
    return text[text.index(f"<!-- bench: {name} -->") :].partition("<!-- end -->")[0]


def test_a_row_that_fails_is_told_and_the_others_go_on(scratch: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    page = Path(shutil.copy(PAGE, tmp_path))
    bench = start(
        scratch, "--quick", "--only", "directory", "clustering",
        "--json", str(written), "--write", str(page),
    )  # fmt: skip
    wait_for(bench, lambda: harness.daemons_of(scratch))
    for pid in harness.daemons_of(scratch):
        os.kill(pid, signal.SIGKILL)
    code, printed = finish(bench)
    assert code == 1, printed
    assert "failed: directory: " in printed
    found = json.loads(written.read_text())["sections"]
    assert found["directory"]["failure"]
    assert found["clustering"]["failure"] == ""
    assert set(found["clustering"]["rows"]) == {row.name for row in SECTIONS["clustering"].rows}
    assert _block(page.read_text(), "directory") == _block(PAGE.read_text(), "directory")
    assert _block(page.read_text(), "clustering") != _block(PAGE.read_text(), "clustering")
    assert_nothing_left(scratch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(scratch: Path, number: signal.Signals) -> None:
    """While PostgreSQL serves from ext4, and while a pond is mounted: those are what could stay."""
    row, scale, is_there = {
        signal.SIGINT: ("versions", "0.1", lambda: harness.daemons_of(scratch)),
        signal.SIGTERM: ("fsync", "0", lambda: any(map(_is_postgres, processes_with(scratch)))),
    }[number]
    bench = start(scratch, "--scale", scale, "--only", row, "clustering")
    wait_for(bench, is_there)
    bench.send_signal(number)
    code, printed = finish(bench)
    assert code == 130, printed
    assert "interrupted" in printed
    assert "Rows of one directory" not in printed
    assert_nothing_left(scratch)


def wait_for(bench: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Return when it holds; the bench must not end before."""
    harness.wait_until(lambda: condition() or bench.poll() is not None, "it began", 120.0)
    assert bench.poll() is None, bench.communicate()[0]


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "postgres"
    except OSError:
        return False


def test_an_unknown_row_is_refused(scratch: Path) -> None:
    code, printed = finish(start(scratch, "--only", "millions"))
    assert code == 2
    assert "known: million, directory" in printed


def test_a_mark_without_an_end_is_no_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# T\n<!-- bench: a -->\nold\n<!-- end -->\nprose\n<!-- bench: b -->\n")
    with pytest.raises(ValueError, match="without an"):
        Page(path)
    path.write_text("# T\n<!-- bench: a -->\nold\n<!-- end -->\nprose\n")
    Page(path).write("a", "new\n")
    assert path.read_text() == "# T\n<!-- bench: a -->\n\nnew\n\n<!-- end -->\nprose\n"
    with pytest.raises(AssertionError):
        Page(path).write("b", "new\n")
