"""An instance: one pond that a service mounts, as ``/etc/pondfs/NAME.toml`` describes it.

The file is the whole configuration: ``pond serve NAME`` mounts what it says, ``pond maintain NAME``
does what it asks for. What is written there and not understood is an error: a misspelt retention
that is passed over would be found out when the disk is full.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pondfs.errors import UsageError
from pondfs.options import MountOptions, parse_options
from pondfs.retention import Policy, parse_duration

SYSTEM_DIRECTORY = Path("/etc/pondfs")

_NAME = re.compile(r"[A-Za-z0-9:_.][A-Za-z0-9:_.-]*", re.ASCII)
"""What an instance may be called: what systemd needs no escapes for (systemd.unit(5))."""

Count = Annotated[int, msgspec.Meta(ge=-1, le=10**9)]


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the daemon may take of the machine.

    Attributes:
        nice: its priority, see nice(1).
        oom_score_adjust: how gladly the kernel kills it when memory is short; see proc(5). Less
            than what the service manager gave it takes privileges.
        open_files: most open files; None is the hard limit.
    """

    nice: Annotated[int, msgspec.Meta(ge=-20, le=19)] | None = None
    oom_score_adjust: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] | None = None
    open_files: Annotated[int, msgspec.Meta(ge=1024)] | None = None


class Maintenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``pond maintain`` does. The counts are those of `pond prune`; none of them: keep all.

    Attributes:
        keep_last: the newest versions.
        keep_within: those that are at most so much older than the newest, as ``1y6m``.
        keep_hourly keep_daily keep_weekly keep_monthly keep_yearly: the last of so many periods.
            -1 is without limit.
        compact: put small data files together.
        check: ``quick`` looks at the table and the tree, ``data`` at every byte too, or ``off``.
    """

    keep_last: Count = 0
    keep_within: str = ""
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0
    compact: bool = True
    check: Literal["off", "quick", "data"] = "quick"

    @property
    def policy(self) -> Policy:
        """Which versions stay; empty when all do. Raises: UsageError."""
        return Policy(
            last=self.keep_last,
            within=parse_duration(self.keep_within) if self.keep_within else None,
            hourly=self.keep_hourly,
            daily=self.keep_daily,
            weekly=self.keep_weekly,
            monthly=self.keep_monthly,
            yearly=self.keep_yearly,
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    store: str
    mountpoint: str
    options: tuple[str, ...] = ()
    resources: Resources = Resources()
    maintain: Maintenance = Maintenance()


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, decided.

    Attributes:
        name: what it is called.
        path: its file.
        mount: what is mounted, where and how.
        resources: see `Resources`.
        maintain: see `Maintenance`.
    """

    name: str
    path: Path
    mount: MountOptions
    resources: Resources
    maintain: Maintenance


def find_instance(name: str, environ: Mapping[str, str]) -> Path:
    """Return the file of instance *name*, which may be a path as well.

    Root's are in /etc/pondfs, other users' in ``$XDG_CONFIG_HOME/pondfs`` (``~/.config``).

    Raises: UsageError if there is none.
    """
    if "/" in name:
        path = Path(os.path.abspath(name))
    elif not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name of an instance: use letters, digits and _ . -")
    else:
        path = _directory(environ) / f"{name}.toml"
    if not path.exists():
        raise UsageError(
            f'there is no {path}: write it, with store = "…" and mountpoint = "…" at least '
            "(see pond serve --help)"
        )
    return path


def _directory(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY
    config = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):
        config = os.path.expanduser("~/.config")
    return Path(config, "pondfs")


def load_instance(path: Path, log_format: str | None = None) -> Instance:
    """Return what the file says.

    Args:
        path: the file.
        log_format: wins over what its options say; None leaves it to them.
    Raises: UsageError that names the file, the key and what it takes; OSError.
    """
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_File)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise UsageError(f"{path}: {_words(str(error))}") from None
    for key, place in (("store", found.store), ("mountpoint", found.mountpoint)):
        if not os.path.isabs(place):
            # A service runs in no directory of its own.
            raise UsageError(f"{path}: {key} = {place!r}: give the whole path, from /")
    try:
        mount = parse_options(
            [found.store, found.mountpoint],
            [*found.options, *([f"log_format={log_format}"] if log_format else [])],
            environ={},
            foreground=True,
        )
        found.maintain.policy  # noqa: B018  (a wrong span is told now, not at night)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return Instance(
        name=path.stem,
        path=path,
        mount=mount,
        resources=found.resources,
        maintain=found.maintain,
    )


def _words(text: str) -> str:
    """Return what msgspec says with the key as TOML writes it, and without its capital."""
    text = text.replace(" - at `$.", " (key `").replace("`$`", "the file")
    if "(key `" in text:
        text += ")"
    return text[:1].lower() + text[1:]
