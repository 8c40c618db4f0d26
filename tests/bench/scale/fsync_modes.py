"""How fsync can be made durable: what this ``mount.pond`` knows of it."""

from __future__ import annotations

from pondfs.errors import UsageError
from pondfs.options import parse_options

DELTA, JOURNAL = "delta", "journal"


def known_modes() -> tuple[str, ...]:
    """Return the modes of ``-o fsync=``; without that option every fsync is a Delta commit."""
    known = [mode for mode in (DELTA, JOURNAL) if _is_known(f"fsync={mode}")]
    return tuple(known) or (DELTA,)


def options_of(mode: str) -> tuple[str, ...]:
    """Return what to mount with to have *mode*."""
    option = f"fsync={mode}"
    return (option,) if _is_known(option) else ()


def _is_known(option: str) -> bool:
    try:
        parse_options(["/store", "/mountpoint"], [option], environ={})
    except UsageError:
        return False
    return True
