"""What a mount is asked to be: the store, the mountpoint and the ``-o`` options, as one value.

`parse_options` is the only place that knows an option's name, unit and default. It touches no
disk; `check_places` is where the store and the mountpoint meet the real filesystem.
"""

import errno
import grp
import ipaddress
import math
import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pondfs.errors import MountFailed, NoSuchVersion, UsageError
from pondfs.logs import FORMATS
from pondfs.mountinfo import find_pond_at
from pondfs.when import parse as parse_when

DEFAULT_COMMIT_S = 5.0
"""How long a change may stay pending: what ext4 takes."""

DEFAULT_CACHE_BYTES = 128 << 20

PONDDIRS = ("hidden", "visible", "off")

FSYNCS = ("journal", "delta")

LOG_LEVELS = ("debug", "info", "warning", "error")

# The mount(2) flags libfuse passes on (lib/mount.c, `mount_flags`), and the SELinux labels.
KERNEL_OPTIONS = frozenset(
    "suid nosuid dev nodev exec noexec async sync dirsync noatime "
    "context fscontext defcontext rootcontext".split()
)

# What fstab and mount(8) say to each other, or what is so here anyway.
# relatime: the kernel's default and ours; default_permissions: always on.
IGNORED_OPTIONS = frozenset(
    "_netdev nofail auto noauto user nouser users owner group defaults comment "
    "atime relatime default_permissions nonempty helper uhelper".split()
)

_SIZE = re.compile(r"(\d+)([KMGT]?)(?:I?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """One mount, fully decided.

    Attributes:
        store: the pond's directory, absolute.
        mountpoint: where it appears, absolute.
        foreground: stay attached to the terminal instead of becoming a daemon.
        verbose: say what is done on stderr.
        ro: read-only; takes no writer lock.
        nocreate: refuse a store that does not exist instead of making one.
        allow_other: let users other than the mounting one in (the kernel's permission).
        uid: show every node as owned by this user; None shows the stored owner.
        gid: the same for the group.
        umask: show every mode as 0777 less these bits; None shows the stored mode.
        commit_s: longest time a change stays pending, in seconds.
        max_pending_bytes: pending changes beyond this start a commit; None leaves that to time.
        xattr: answer extended attributes (makes every small write dearer, so opt-in).
        acl: POSIX ACLs; implies *xattr*.
        attr_timeout_s: how long the kernel may believe attributes it was told.
        entry_timeout_s: the same for names that exist.
        negative_timeout_s: the same for names that do not.
        log_level: one of `LOG_LEVELS`.
        log_format: one of `logs.FORMATS`.
        ponddir: how `.pond/` is shown: one of `PONDDIRS`.
        at: show the version this means (see `pondfs.when`) instead of the newest; read-only.
        follow: keep up with what another process commits; read-only.
        compact: put small data files together while mounted.
        fsync: what an fsync makes: a record in the ``journal``, or a ``delta`` commit.
        cache_bytes: how much of what was decoded of compressed data files stays in memory.
        metrics: address and port to answer Prometheus at; None for nowhere.
        kernel: VFS options for libfuse as written, such as ``noexec``.
    """

    store: Path
    mountpoint: Path
    foreground: bool = False
    verbose: bool = False
    ro: bool = False
    nocreate: bool = False
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    commit_s: float = DEFAULT_COMMIT_S
    max_pending_bytes: int | None = None
    xattr: bool = False
    acl: bool = False
    attr_timeout_s: float = 3600.0
    entry_timeout_s: float = 3600.0
    negative_timeout_s: float = 3600.0
    log_level: str = "info"
    log_format: str = "auto"
    ponddir: str = "hidden"
    at: str | None = None
    follow: bool = False
    compact: bool = True
    fsync: str = "journal"
    cache_bytes: int = DEFAULT_CACHE_BYTES
    metrics: tuple[str, int] | None = None
    kernel: tuple[str, ...] = ()


def default_store(environ: Mapping[str, str]) -> Path:
    """Return the store to use when none is named: the *embedded default place*.

    ``$POND``, else /var/lib/pond for root, else ``$XDG_DATA_HOME/pond`` (an absolute path, as the
    XDG specification has it), else ``~/.local/share/pond``. mount(8) and systemd run us without
    ``$HOME``: then the user database knows it.

    Raises: UsageError if ``$POND`` names no directory, or the user has no home.
    """
    if named := environ.get("POND"):
        return parse_store(named)
    if os.geteuid() == 0:
        return Path("/var/lib/pond")
    data_home = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(data_home):
        return Path(data_home, "pond")
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise UsageError(
                f"user {os.geteuid()} has no home directory to keep a pond in: name a STORE"
            ) from None
    return Path(home, ".local/share/pond")


def parse_store(text: str) -> Path:
    """Return the absolute path of a store as a person wrote it."""
    if "://" in text:
        raise UsageError(f"{text}: a store is a local directory; URLs are not supported yet")
    if not text or "\0" in text:
        raise UsageError("the store's name is empty")
    return Path(os.path.abspath(text))


def parse_size(text: str) -> int:
    """Return the bytes in ``128M``, ``1GiB``, ``65536``: binary units, as mount options have them.

    Raises: ValueError if it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size is a whole number with K, M or G, such as 128M")
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]


def split_options(texts: Iterable[str]) -> list[str]:
    """Split ``-o`` arguments at commas, but not inside double quotes (SELinux labels have commas).

    Source: mount(8), "context=": the quotes stay out of the value.
    """
    return [
        part.replace('"', "") for text in texts for part in re.findall(r'(?:[^,"]|"[^"]*"?)+', text)
    ]


def parse_options(
    positionals: Sequence[str],
    options: Iterable[str] = (),
    *,
    environ: Mapping[str, str],
    foreground: bool = False,
    verbose: bool = False,
    sloppy: bool = False,
) -> MountOptions:
    """Return what ``[STORE] MOUNTPOINT -o OPT[,OPT…]`` asks for.

    Later options win over earlier ones, as in mount(8).

    Args:
        positionals: the arguments that are no options.
        options: each ``-o`` argument, whole.
        environ: where ``$POND`` and the default place are looked up.
        foreground: see `MountOptions`.
        verbose: see `MountOptions`.
        sloppy: pass over unknown options (``-s``).
    Raises: UsageError, naming the option and what it takes.
    """
    if not 1 <= len(positionals) <= 2:
        raise UsageError("give one mountpoint, or a store and a mountpoint: see mount.pond --help")
    store = parse_store(positionals[0]) if len(positionals) == 2 else default_store(environ)
    if not positionals[-1] or "\0" in positionals[-1]:
        raise UsageError("the mountpoint's name is empty")

    fields: dict[str, Any] = {}
    kernel: dict[str, str] = {}
    for option in split_options(options):
        name, given, value = option.partition("=")
        if name in _FLAGS and not given:
            fields.update(_FLAGS[name])
        elif name in _VALUES:
            field, parse = _VALUES[name]
            try:
                fields[field] = parse(value)
            except ValueError as error:
                raise UsageError(f"-o {option}: {error}") from None
        elif name in KERNEL_OPTIONS:
            # `exec` after `noexec` undoes it, so the pair shares one place and the last one wins.
            kernel[_kernel_key(name)] = option
        elif name == "remount":
            raise UsageError("-o remount is not supported: unmount, then mount with other options")
        elif not (name in IGNORED_OPTIONS or name[:2] in ("x-", "X-") or sloppy):
            raise UsageError(f"unknown option '{option}': see mount.pond --help (-s ignores it)")
    made = MountOptions(
        store=store,
        mountpoint=Path(os.path.abspath(positionals[-1])),
        foreground=foreground,
        verbose=verbose,
        kernel=tuple(kernel.values()),
        **fields,
    )
    if made.at is not None and not made.ro:
        raise UsageError("a past version can't be changed: mount it with -o ro as well")
    if made.follow and made.at is not None:
        raise UsageError("-o follow shows the newest version: leave out version= and at=")
    if made.follow and not made.ro:
        raise UsageError("-o follow is for read-only mounts: mount it with -o ro as well")
    return replace(made, xattr=True) if made.acl else made


def check_places(store: Path, mountpoint: Path) -> None:
    """Refuse places that can't be mounted on each other, before anything is made.

    Raises: MountFailed if the mountpoint is no directory or shows a pond already, or one of the
        two lies inside the other (the daemon would wait for itself).
    """
    # First, and from the mount table: what a dead daemon left still answers a stat, from the
    # kernel's cache, and what a hung one left answers nothing.
    if (there := find_pond_at(mountpoint)) is not None:
        raise MountFailed(
            f"the pond {there.source} is mounted on {mountpoint}, or its daemon died there: "
            f"pond umount {mountpoint}, then mount again"
        )
    try:
        mode = os.stat(mountpoint).st_mode
    except OSError as error:
        raise MountFailed(
            f"cannot mount on {mountpoint}: {os.strerror(error.errno or errno.EIO)}"
            + (" (make the directory first)" if error.errno == errno.ENOENT else "")
        ) from None
    if not stat.S_ISDIR(mode):
        raise MountFailed(f"cannot mount on {mountpoint}: it is not a directory")
    inner, outer = os.path.realpath(store), os.path.realpath(mountpoint)
    if inner == outer:
        raise MountFailed(f"{mountpoint} is the store itself: mount it on another directory")
    if Path(inner).is_relative_to(outer):
        raise MountFailed(f"the store {store} lies inside its mountpoint {mountpoint}: move one")
    if Path(outer).is_relative_to(inner):
        raise MountFailed(f"the mountpoint {mountpoint} lies inside the store {store}: move one")


def _kernel_key(name: str) -> str:
    if name == "async":
        return "sync"
    return name.removeprefix("no")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 1e9:
        raise ValueError("takes a number of seconds, such as 5 or 0.5")
    return seconds


def _commit_seconds(text: str) -> float:
    # ext4: "Setting it to 0 will have the same effect as leaving it at the default".
    return _seconds(text) or DEFAULT_COMMIT_S


def _pending_bytes(text: str) -> int:
    size = parse_size(text)
    if size < 1 << 20:
        raise ValueError("must be 1M or more: every commit is a file")
    return size


def _cache_bytes(text: str) -> int:
    size = parse_size(text)
    if size < 1 << 20:
        raise ValueError("must be 1M or more: what is read is decoded in pieces of 128K")
    return size


def _umask(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text):
        raise ValueError("takes permission bits in octal, such as 022")
    return int(text, 8) & 0o777


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError("takes one of " + ", ".join(LOG_LEVELS))
    return text


def _log_format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError("takes one of " + ", ".join(FORMATS))
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        is_ours = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_ours = False
    if not is_ours or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        # Names of files are in error messages, and whoever can ask can see how busy it is.
        raise ValueError("takes an address of this machine and a port, such as 127.0.0.1:9742")
    return host, int(port)


def _ponddir(text: str) -> str:
    if text not in PONDDIRS:
        raise ValueError("takes one of " + ", ".join(PONDDIRS))
    return text


def _fsync(text: str) -> str:
    if text not in FSYNCS:
        raise ValueError("takes one of " + ", ".join(FSYNCS))
    return text


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("takes on or off")
    return text == "on"


def _when(text: str) -> str:
    try:
        parse_when(text, time.time_ns())
    except NoSuchVersion as error:
        raise ValueError(str(error)) from None
    return text


def _version(text: str) -> str:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError("takes a version number, such as 42: see pond log")
    return f"v{text}"


def _user(text: str) -> int:
    return _id(text, "user", lambda name: pwd.getpwnam(name).pw_uid)


def _group(text: str) -> int:
    return _id(text, "group", lambda name: grp.getgrnam(name).gr_gid)


def _id(text: str, what: str, look_up: Callable[[str], int]) -> int:
    # 2^32-1 means "leave as it is" to chown(2), so no one can have it.
    if re.fullmatch("[0-9]{1,10}", text) and int(text) < (1 << 32) - 1:
        return int(text)
    try:
        return look_up(text)
    except KeyError:
        raise ValueError(f"there is no {what} '{text}'") from None


_FLAGS: dict[str, dict[str, bool]] = {
    "ro": {"ro": True},
    "rw": {"ro": False},
    "allow_other": {"allow_other": True},
    "xattr": {"xattr": True},
    "acl": {"acl": True},
    "nocreate": {"nocreate": True},
    "follow": {"follow": True},
}

_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("uid", _user),
    "gid": ("gid", _group),
    "umask": ("umask", _umask),
    "commit": ("commit_s", _commit_seconds),
    "max_pending": ("max_pending_bytes", _pending_bytes),
    "attr_timeout": ("attr_timeout_s", _seconds),
    "entry_timeout": ("entry_timeout_s", _seconds),
    "negative_timeout": ("negative_timeout_s", _seconds),
    "log": ("log_level", _log_level),
    "log_format": ("log_format", _log_format),
    "ponddir": ("ponddir", _ponddir),
    "compact": ("compact", _on_off),
    "fsync": ("fsync", _fsync),
    "metrics": ("metrics", _address),
    "cache": ("cache_bytes", _cache_bytes),
    "version": ("at", _version),
    "at": ("at", _when),
}
