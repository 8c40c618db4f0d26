"""Read a Delta log with the JSON module alone, so that no Delta library can hide a mistake of ours.

Source: the Delta protocol, "Delta Log Entries", "Checkpoints", "Actions".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

APP_ID = "pondfs"
_ENTRY = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One file of the log; ``version`` is the pond's version it published, if it published one."""

    path: Path
    adds: tuple[str, ...]
    removes: tuple[str, ...]
    version: int | None


def log_dir(store: Path) -> Path:
    """Return the folder of the log."""
    return store / "_delta_log"


def entry_paths(store: Path) -> list[Path]:
    """Return the log's entries, oldest first."""
    return sorted(path for path in log_dir(store).iterdir() if _ENTRY.fullmatch(path.name))


def parse_entry(path: Path) -> LogEntry:
    """Read one entry; a line that is no JSON object is the test's failure."""
    actions = [json.loads(line) for line in path.read_text().splitlines() if line]
    return LogEntry(path, *_read_actions(actions))


def read_log(store: Path) -> list[LogEntry]:
    """Return every entry still in the log, oldest first."""
    return [parse_entry(path) for path in entry_paths(store)]


def data_files(store: Path) -> list[Path]:
    """Return the data files that make up the table now, in the order they were added."""
    live: dict[str, None] = {}
    for adds, removes, _ in _states(store):
        for name in removes:
            live.pop(name, None)
        live.update(dict.fromkeys(adds))
    return [store / unquote(name) for name in live]


def head_version(store: Path) -> int:
    """Return the pond's newest version, 0 if it has none yet."""
    return max((version or 0 for _, _, version in _states(store)), default=0)


def _states(store: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int | None]]:
    """Yield the newest checkpoint's actions, then those of every later entry."""
    checkpoints = sorted(log_dir(store).glob("*.checkpoint.parquet"))
    covered = -1
    if checkpoints:
        covered = int(checkpoints[-1].name[:20])
        yield _read_actions(pq.read_table(checkpoints[-1]).to_pylist())
    for entry in read_log(store):
        if int(entry.path.stem) > covered:
            yield entry.adds, entry.removes, entry.version


def _read_actions(
    actions: list[dict[str, Any]],
) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    adds = tuple(action["add"]["path"] for action in actions if action.get("add"))
    removes = tuple(action["remove"]["path"] for action in actions if action.get("remove"))
    versions = [
        int(action["txn"]["version"])
        for action in actions
        if action.get("txn") and action["txn"]["appId"] == APP_ID
    ]
    return adds, removes, max(versions, default=None)
