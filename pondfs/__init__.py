"""pondfs: a filesystem that never forgets.

The root holds the nouns; each folder holds one outside dependency; ``mount`` joins them:

- ``errors`` ``logs``: what can go wrong, and how it is told; ``confine``: what the daemon gives up
- ``node`` ``entry`` ``extent`` ``oplog`` ``change`` ``when`` ``retention`` ``xattrs``
  ``figures`` ``histogram``: the words of the system, no I/O
- ``interfaces``: what the layers need of each other
- ``store``: deltalake and pyarrow; bytes become rows, rows become a durable commit
- ``vfs``: trio; the live tree, what is pending, and the committer
- ``control``: the daemon's socket
- ``requests`` ``status`` ``metrics``: what the daemon does when it is asked
- ``fuse``: pyfuse3; a protocol adapter only
- ``api``: the Python API and the fsspec filesystem, mounted or not
- ``doctor``: looks at what a pond stands on
- ``cli``: one verb per file

For programs, `open` is the way in; see docs/reference/python.md. What is named here comes when it
is first used, so that importing the package costs nothing.
"""

TYPE_CHECKING = False  # as type checkers know it; importing typing takes 10 ms
if TYPE_CHECKING:
    from pondfs.api import PastPond, Pond, Transaction, init, open  # noqa: A004  as gzip.open
    from pondfs.change import Change, Event
    from pondfs.errors import (
        CommitFailed,
        Conflict,
        DaemonGone,
        DaemonRefused,
        NoSuchPath,
        NoSuchVersion,
        NotAPond,
        NotPermitted,
        PondError,
        PondExists,
        PondLocked,
        StoreDamaged,
        UsageError,
    )
    from pondfs.oplog import VersionInfo

__version__ = "0.1.0"

__all__ = [
    "Change",
    "CommitFailed",
    "Conflict",
    "DaemonGone",
    "DaemonRefused",
    "Event",
    "NoSuchPath",
    "NoSuchVersion",
    "NotAPond",
    "NotPermitted",
    "PastPond",
    "Pond",
    "PondError",
    "PondExists",
    "PondLocked",
    "StoreDamaged",
    "Transaction",
    "UsageError",
    "VersionInfo",
    "__version__",
    "init",
    "open",
]

_MODULES = {
    "pondfs.api": ("PastPond", "Pond", "Transaction", "init", "open"),
    "pondfs.change": ("Change", "Event"),
    "pondfs.oplog": ("VersionInfo",),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = next((home for home, names in _MODULES.items() if name in names), "pondfs.errors")
    found: object = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
