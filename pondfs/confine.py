"""What the daemon gives up before it opens anything: all it will not need.

By plain system calls through ctypes, which are a dozen lines; Python has no words for them. What
each process keeps, and why, is in SECURITY.md.

Capabilities and no_new_privs are a thread's own: `confine` comes before any thread is started.

Source: capabilities(7), prctl(2), capset(2); include/uapi/linux/capability.h.
"""

import ctypes
import logging
import os
import resource

log = logging.getLogger("pondfs")

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 6, 7, 8, 21

KEPT = frozenset({CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH})
"""For mounting and for unmounting when a signal comes; and to find the mountpoint again then,
wherever it lies and whoever may enter the pond's root."""

KEPT_FOR_OTHERS = KEPT | {CAP_SETUID, CAP_SETGID, CAP_DAC_OVERRIDE}
"""Where some of the store is not root's: to make files as its owner (`store.lock`), and to write
where only the owner may."""

_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAP = 63


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def keep_memory_private() -> None:
    """Let nobody look at this process's memory, which is everybody's files: no core, no ptrace.

    Root still may. A program that is executed begins anew: it has to call this itself.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0) if hard else (0, hard))
    _prctl(_PR_SET_DUMPABLE, 0)


def confine(store: str) -> None:
    """Give up what a daemon that serves *store* will not need. Before any thread is started.

    Root keeps `KEPT` or `KEPT_FOR_OTHERS` of its capabilities, no supplementary groups, and no way
    to get more by executing something. Others have nothing to give up, and need fusermount3, which
    is set-user-id, to unmount.
    """
    keep_memory_private()
    if os.geteuid():
        return
    has = _permitted()
    kept = kept_of(has, is_roots=_is_roots(store))
    try:
        os.setgroups([])
    except PermissionError:
        pass  # in a user namespace that was made without (user_namespaces(7), setgroups "deny")
    if CAP_SETPCAP in has:
        for capability in range(_LAST_CAP + 1):
            # EINVAL for those that this kernel does not know.
            if capability not in kept:
                _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set(kept)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def kept_of(has: frozenset[int], *, is_roots: bool) -> frozenset[int]:
    """Return what to keep of the capabilities that a daemon *has*.

    Containers mostly have CAP_DAC_OVERRIDE without CAP_DAC_READ_SEARCH, which is a part of it: then
    the larger one has to do. Without either, a signal would not find the mountpoint in a pond whose
    root is private, and what is pending would be lost.
    """
    kept = KEPT if is_roots else KEPT_FOR_OTHERS
    if CAP_DAC_READ_SEARCH not in has:
        kept |= {CAP_DAC_OVERRIDE}
    return kept & has


def close_inherited(kept: set[int]) -> None:
    """Close what whoever started us had open, but for standard streams and *kept*.

    A shell's lock, say, would else be held as long as the pond is mounted.
    """
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:
                pass  # the one that listed them


def _is_roots(store: str) -> bool:
    """Return whether all that is written in *store* is root's own, so that root need be no other.

    One that is to be made yet goes into the nearest directory that is there.
    """
    pond = os.path.join(store, "_pond")
    try:
        if not os.path.lexists(store):
            while not os.path.lexists(store := os.path.dirname(store)):
                pass
            places = [store]
        else:
            places = [store, os.path.join(store, "_delta_log"), pond]
            places += [entry.path for entry in os.scandir(pond)]
        found = [os.stat(place) for place in places]
    except OSError:
        return False  # not whole, or nothing at all
    return not any(info.st_uid or not info.st_mode & 0o200 for info in found)


def _permitted() -> frozenset[int]:
    sets = (_Sets * 2)()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), sets):
        raise OSError(ctypes.get_errno(), "capget")
    return frozenset(
        32 * half + bit for half in (0, 1) for bit in range(32) if sets[half].permitted >> bit & 1
    )


def _set(kept: frozenset[int]) -> None:
    sets = (_Sets * 2)()
    for capability in kept:
        half, bit = divmod(capability, 32)
        sets[half].permitted |= 1 << bit
        sets[half].effective |= 1 << bit
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), sets):
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(what: int, value: int) -> None:
    if _libc.prctl(what, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
