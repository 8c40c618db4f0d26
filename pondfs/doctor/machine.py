"""What mounting needs of the machine: FUSE, its helper, the kernel, libraries, a sane clock."""

import ctypes
import errno
import importlib
import importlib.metadata
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from pondfs import __file__ as package_file
from pondfs.doctor.finding import Finding, error, note, ok, warning
from pondfs.doctor.scene import Scene
from pondfs.mountinfo import load_mounts

FUSE_DEVICE = "/dev/fuse"
FUSE_CONF = "/etc/fuse.conf"
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
DEFAULT_MOUNT_MAX = 1000  # fusermount3's own, without a line in its configuration

LARGE_WRITES = (4, 20)
"""Kernels from here on send 1 MiB at a time (FUSE_MAX_PAGES); earlier ones 128 KiB."""

WRITEBACK = (3, 15)
"""Kernels from here on have FUSE_WRITEBACK_CACHE."""

CLOCK_SLACK_S = 86400.0
"""A clock may be so much behind the time at which pondfs was put here: a zone mistaken for UTC."""


def look_at_fuse_device(_: Scene) -> Iterator[Finding]:
    """Whether a mount could be begun at all."""
    try:
        found = os.stat(FUSE_DEVICE)
        if not stat.S_ISCHR(found.st_mode):
            yield error(f"{FUSE_DEVICE} is no device", "remove it, then load the kernel's module",
                        f"rm {FUSE_DEVICE}; modprobe fuse")  # fmt: skip
            return
        # Opening alone begins nothing: fuse_dev_open in the kernel's fs/fuse/dev.c.
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield error(
            f"there is no {FUSE_DEVICE}: nothing can be mounted",
            "load the kernel's module; in a container, start it with --device /dev/fuse",
            "sudo modprobe fuse",
        )
    except PermissionError:
        yield error(
            f"{FUSE_DEVICE} is not for this user to open: nothing can be mounted",
            "let everybody open it, as distributions have it; what may be mounted is decided later",
            f"sudo chmod 666 {FUSE_DEVICE}",
        )
    except OSError as trouble:
        missing = trouble.errno in (errno.ENODEV, errno.ENXIO)
        yield error(
            f"{FUSE_DEVICE} can't be opened: {trouble.strerror}",
            "load the kernel's module" if missing else "",
            "sudo modprobe fuse" if missing else "",
        )
    else:
        yield ok(f"{FUSE_DEVICE} can be opened")


def look_at_helper(_: Scene) -> Iterator[Finding]:
    """Whether users other than root could mount, and anybody unmount."""
    path = shutil.which("fusermount3", path=SYSTEM_PATH)
    is_root = os.geteuid() == 0
    if path is None:
        how = note if is_root else error
        yield how(
            "fusermount3 is not installed: only root can mount",
            "install it",
            "sudo apt install fuse3",
        )
        return
    found = os.stat(path)
    version = _output([path, "--version"]).removeprefix("fusermount3 version: ")
    if found.st_uid or not found.st_mode & stat.S_ISUID:
        how = note if is_root else error
        yield how(
            f"{path} does not run as root: users other than root can't mount",
            "give it back what its package gave it",
            f"sudo chown root {path} && sudo chmod 4755 {path}",
        )
        return
    yield ok(f"{path} is there and runs as root ({version or 'it does not tell its version'})")
    if not is_root and not os.path.lexists("/etc/mtab"):
        yield error(
            "there is no /etc/mtab: fusermount3 refuses to unmount without it",
            "make it",
            "sudo ln -s ../proc/self/mounts /etc/mtab",
        )


def look_at_fuse_conf(_: Scene) -> Iterator[Finding]:
    """Whether ``-o allow_other`` would be refused, and how many mounts a user may have."""
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as file:
            words = [line.partition("#")[0].strip() for line in file]
    except FileNotFoundError:
        words = []
    except PermissionError:
        yield note(f"{FUSE_CONF} is not readable for this user: fusermount3 may read it all the "
                   "same")  # fmt: skip
        return
    uid = os.geteuid()
    if uid == 0:
        yield ok("root may mount with -o allow_other")
        return
    if "user_allow_other" in words:
        yield ok(f"{FUSE_CONF} has user_allow_other")
    else:
        yield note(
            f"{FUSE_CONF} does not have user_allow_other: -o allow_other is for root alone, so "
            "nobody but you sees into your mounts",
            "if others are to see them",
            f"echo user_allow_other | sudo tee -a {FUSE_CONF}",
        )
    given = [word.partition("=")[2].strip() for word in words if word.startswith("mount_max")]
    most = int(given[-1]) if given and given[-1].isdigit() else DEFAULT_MOUNT_MAX
    mine = sum(
        mount.fstype.startswith("fuse") and mount.owner_uid == uid for mount in load_mounts()
    )
    if mine >= most:
        yield error(
            f"you have {mine} FUSE mounts, and {FUSE_CONF} allows {most}",
            "unmount some, or raise mount_max there",
        )


def look_at_install(_: Scene) -> Iterator[Finding]:
    """Whether mount(8) and umount(8) know the way to us."""
    names = ("mount.pond", "umount.fuse.pond")
    missing = [name for name in names if not os.path.exists(f"/sbin/{name}")]
    if missing:
        yield note(
            f"/sbin/{' and /sbin/'.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            "there: lines in fstab do not work, and plain umount does not wait for the last commit",
            "install it, from where pondfs came from",
            "make install",
        )
    else:
        yield ok("mount(8), fstab and umount(8) find pondfs")


def look_at_kernel(_: Scene) -> Iterator[Finding]:
    """What the kernel can do for us."""
    release = os.uname().release
    has = _numbers(release)[:2]
    if has < WRITEBACK:
        yield warning(f"Linux {release} has no writeback cache for FUSE: each write is a request",
                      "use a newer kernel")  # fmt: skip
    elif has < LARGE_WRITES:
        yield note(f"Linux {release} writes 128 KiB at a time: from 4.20 on it is 1 MiB")
    else:
        yield ok(f"Linux {release}: writeback cache, 1 MiB at a time")


def look_at_libraries(_: Scene) -> Iterator[Finding]:
    """Whether each library is there, new enough, and can be loaded."""
    try:
        wanted = importlib.metadata.requires("pondfs") or []
        python = importlib.metadata.metadata("pondfs")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        yield note("pondfs is not installed as a package, so it is not known what it needs",
                   "install it", "make setup")  # fmt: skip
        return
    running = ".".join(map(str, sys.version_info[:3]))
    if satisfies(running, python):
        yield ok(f"Python {running}")
    else:
        yield error(f"Python {running} runs pondfs, which needs {python}", "use a newer Python")
    modules = _modules_by_distribution()
    # Each is told as soon as it is loaded: on a slow disk all of them take longer than one look.
    for requirement in wanted:
        name, bounds = parse_requirement(requirement)
        if name:
            yield _judge_library(name, bounds, modules.get(canonical(name), []))
    if libfuse := _libfuse_version():
        yield ok(f"libfuse {libfuse}")


def _judge_library(name: str, bounds: str, modules: list[str]) -> Finding:
    upgrade = f"{sys.executable} -m pip install '{name}{bounds}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return error(f"{name} is not installed", "install it", upgrade)
    if not satisfies(version, bounds):
        return error(f"{name} {version} is here, {bounds} is needed", "install that", upgrade)
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as trouble:  # whatever it is, the library is of no use
        return error(f"{name} {version} can't be loaded: {trouble}", "install it anew",
                     f"{sys.executable} -m pip install --force-reinstall {name}")  # fmt: skip
    if not modules:
        return note(f"{name} {version} is here, but not what it is imported as: not tried")
    return ok(f"{name} {version}")


def _modules_by_distribution() -> dict[str, list[str]]:
    """Return what can be imported of each distribution, by its canonical name.

    A distribution need not be imported by its own name: python-json-logger is pythonjsonlogger.
    Modules with an underscore in front are their own libraries' to load.
    """
    found: dict[str, list[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for name in set(map(canonical, distributions)):
                found.setdefault(name, []).append(module)
    return found


def look_at_clock(_: Scene) -> Iterator[Finding]:
    """Whether the clock can be right: it is not before pondfs was put on this machine."""
    now, put_here = time.time(), os.stat(package_file).st_mtime
    if now < put_here - CLOCK_SLACK_S:
        yield warning(
            f"the clock says {_day(now)}, and pondfs was put here on {_day(put_here)}: versions "
            "will have wrong times",
            "set the clock before you mount",
            "sudo timedatectl set-ntp true",
        )
    else:
        yield ok(f"the clock says {_day(now)}")


def look_at_preload(_: Scene) -> Iterator[Finding]:
    """Whether fsync is turned off for whatever is started from here."""
    if "eatmydata" in os.environ.get("LD_PRELOAD", ""):
        yield error(
            "LD_PRELOAD has eatmydata, which turns fsync off: a pond mounted from here keeps "
            "nothing it says it kept",
            "take it out of the environment",
            "unset LD_PRELOAD",
        )


# --- versions ---


def parse_requirement(text: str) -> tuple[str, str]:
    """Return the name and the bounds in ``pyarrow>=20``; no name when it is for an extra only.

    Source: the dependency specifiers of the packaging guide; what of it we use.
    """
    wanted, _, marker = text.partition(";")
    match = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*(.*?)\s*$", wanted)
    if "extra" in marker or match is None:
        return "", ""
    return match[1], match[2].strip("()").replace(" ", "")


def canonical(name: str) -> str:
    """Return a distribution's *name* as all who write it otherwise mean it: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def satisfies(version: str, bounds: str) -> bool:
    """Return whether *version* lies in *bounds*; release numbers count, as in ``>=20,<27``.

    Raises: ValueError for an operator that pondfs does not use.
    """
    has = _numbers(version)
    for bound in filter(None, bounds.split(",")):
        match = re.fullmatch(r"(>=|<=|>|<|==|!=)([\d.]+)", bound)
        if match is None:
            raise ValueError(f"a bound like '{bound}' is not understood")
        operator, limit = match[1], _numbers(match[2])
        length = max(len(has), len(limit))
        left = has + (0,) * (length - len(has))
        right = limit + (0,) * (length - len(limit))
        holds = {
            ">=": left >= right, "<=": left <= right, ">": left > right,
            "<": left < right, "==": left == right, "!=": left != right,
        }  # fmt: skip
        if not holds[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _libfuse_version() -> str:
    """Return the version of the libfuse that pyfuse3 has loaded; "" when it does not tell."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        paths = [line.split(maxsplit=5)[-1].strip() for line in maps if "libfuse3" in line]
    if not paths:
        return ""
    try:
        tell = ctypes.CDLL(paths[0]).fuse_pkgversion
    except (OSError, AttributeError):
        return ""
    tell.restype = ctypes.c_char_p
    return str(tell().decode())


def _output(args: list[str]) -> str:
    try:
        done = subprocess.run(
            args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def user_name(uid: int) -> str:
    """Return how people call user *uid*."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
