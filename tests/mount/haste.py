"""Daemons with other thresholds: so low that they compact, keep up and clean up without a pause."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.mount.harness import PondMount

Values = Mapping[str, Mapping[str, float]]
"""By module, and name in it."""

VALUES: Values = {
    "pondfs.store.compact": {"MANY_FILES": 6, "LARGE_BYTES": 600_000},
    "pondfs.store.compact_files": {"FULL_BYTES": 200_000, "LEAST_GROUP_ROWS": 7},
    "pondfs.vfs.compactor": {"LOOK_S": 0.02, "PAUSE_S": 0.02, "FIRST_RETRY_S": 0.5},
    "pondfs.store.prune_swap": {"GRACE_S": 0.3},
    "pondfs.store.images": {"WORTH_FILES": 5, "MANY_ROWS": 40},
    "pondfs.store.rowcache": {"WORTH_FILES": 5, "NOTED_FILES": 4, "CLOSING_FILES": 2},
    "pondfs.store.checkpoint": {"ENTRIES_BETWEEN": 20},
    "pondfs.store.logkeeper": {"KEPT_ENTRIES": 20, "SAFE_AGE_S": 1.0, "LOOK_AGAIN_S": 0.1},
    "pondfs.store.leftovers": {"STRAY_AGE_S": 0.5, "SEEN_S": 0.3},
    "pondfs.vfs.upkeep": {"LOOK_S": 0.05, "STRAYS_S": 1.0},
}

SITE = """
import importlib.abc, importlib.machinery, os, sys


class Setting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in VALUES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            vars(module).update(VALUES[name])
            if name == "pondfs.store.compact_files":
                few = (*module.write_files.__defaults__[:-1], 60)
                module.write_files.__defaults__ = few

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Setting())
"""

NOT_NICE = "os.nice = lambda by: 0  # a busy machine would not let the worker get anywhere\n"


def hasten(pond: PondMount, place: Path) -> None:
    """Let *pond*'s daemons and their workers be so; what that needs is below *place*."""
    set_values(pond, place, VALUES, NOT_NICE)


def set_values(pond: PondMount, place: Path, values: Values, more: str = "") -> None:
    """Let *pond*'s daemons have other *values*; what that needs is below *place*."""
    where = place / "haste"
    where.mkdir()
    (where / "sitecustomize.py").write_text(f"VALUES = {values!r}\n{SITE}{more}")
    pond.env["PYTHONPATH"] = os.fspath(where)
