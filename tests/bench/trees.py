"""Workloads of whole trees, by the programs people use: cp, git, rm; and memory.

The sources are made once for a run, on the ordinary disk, always the same for a given scale.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

from tests.bench.workloads import Figures, Place

COMMAND_TIMEOUT_S = 600.0
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}


def _command(*args: str | Path) -> float:
    """Run a program to its end; return the seconds it took."""
    started = time.perf_counter()
    subprocess.run(
        args, check=True, timeout=COMMAND_TIMEOUT_S, env=os.environ | _GIT, stdin=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def make_tree(root: Path, files: int) -> None:
    """Make *files* regular files as a source tree has them, and some links among them.

    Sizes are log-normal around 4 KiB (sum about 50 MB for 5,000), 16 files a directory, one
    file in 40 also a symlink, one in 50 also a hard link.
    """
    dice = random.Random(files)
    block = dice.randbytes(1 << 20)
    for number in range(files):
        folder = root / f"pkg{number // 256:02}" / f"mod{number // 16:03}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file{number:05}.py"
        size = min(int(dice.lognormvariate(8.3, 1.4)), len(block))
        start = dice.randrange(len(block) - size + 1)
        path.write_bytes(block[start : start + size])
        path.chmod(dice.choice((0o644, 0o644, 0o644, 0o755, 0o600)))
        if number % 40 == 0:
            (folder / f"link{number:05}").symlink_to(path.name)
        if number % 50 == 0:
            os.link(path, folder / f"same{number:05}")


def _source_tree(place: Place) -> Path:
    tree = place.sources / "tree"
    if not tree.exists():
        make_tree(tree, place.count(5000))
    return tree


def _source_repository(place: Place) -> Path:
    """Return a repository of one commit, packed as a clone or `git gc` leaves it."""
    repository = place.sources / "repository"
    if not repository.exists():
        make_tree(repository, place.count(3000))
        _command("git", "-C", repository, "init", "-q")
        _command("git", "-C", repository, "add", "-A")
        _command("git", "-C", repository, "commit", "-q", "-m", "everything")
        _command("git", "-C", repository, "gc", "-q")
    return repository


def copy_tree(place: Place) -> Figures:
    """Copy, then fsync one file: in a pond that commits everything pending."""
    source = _source_tree(place)
    copy = place.directory / "copy"
    copy_s = _command("cp", "-a", source, copy)
    started = time.perf_counter()
    fd = os.open(next(copy.glob("pkg*/mod*/file*")), os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    return {"copy_tree": copy_s + time.perf_counter() - started}


def git_clone(place: Place) -> Figures:
    source = _source_repository(place)
    clone = place.directory / "clone"
    # Hard links to the source would not be the same work everywhere.
    clone_s = _command("git", "clone", "-q", "--no-hardlinks", source, clone)
    assert (clone / ".git").is_dir()
    return {"git_clone": clone_s, "rm_rf": _command("rm", "-rf", clone)}


def rss(place: Place) -> Figures:
    """Write 100,000 files of 1 KiB; read the daemon's resident memory when they are durable.

    The bare filesystem's figure includes their content: it has nowhere else to put it.
    """
    pid = place.target.daemon_pid()
    if pid is None:
        return {}
    before_mb = _resident_mb(pid)
    files = place.count(100_000)
    content = random.Random(1).randbytes(1024)
    for number in range(files):
        if number % 1000 == 0:
            folder = place.directory / f"{number // 1000:03}"
            folder.mkdir()
        (folder / f"{number:06}").write_bytes(content)
    place.target.settle()
    after_mb = _resident_mb(pid)
    return {"rss": after_mb, "rss_growth": (after_mb - before_mb) * 100_000 / files}


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"process {pid} has no VmRSS")
