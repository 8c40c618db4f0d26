"""The state of a mount: what ``pond status`` shows."""

import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pondfs.figures import record_of
from pondfs.options import MountOptions

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs


def status(vfs: "Vfs", options: MountOptions) -> dict[str, Any]:
    """Return what the daemon knows without looking at its store; also its greeting."""
    return {
        "store": os.fspath(options.store),
        "mounted": True,
        "mountpoint": os.fspath(options.mountpoint),
        "pid": os.getpid(),
        "read_only": options.ro,
        **vfs.describe(),
        "rss_bytes": _rss_bytes(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "options": {
            "commit_s": vfs.committer.commit_s,
            "max_pending_bytes": vfs.committer.max_pending_bytes,
            "xattr": options.xattr,
            "acl": options.acl,
            "allow_other": options.allow_other,
        },
    }


async def whole_status(vfs: "Vfs", options: MountOptions, *, whole: bool = False) -> dict[str, Any]:
    """Return the daemon's state and what its store takes.

    Args:
        vfs: the mounted tree.
        options: how it is mounted.
        whole: count all of it, of the newest version, however long that takes.
    """
    found = await vfs.storage.look(whole=whole)
    return {**status(vfs, options), **record_of(found.figures, found.error, found.age_s)}


async def status_text(vfs: "Vfs", options: MountOptions) -> str:
    """Return the same as ``.pond/status`` shows it."""
    return json.dumps(await whole_status(vfs, options), indent=2) + "\n"


def _rss_bytes() -> int:
    # statm's second number: resident pages (proc(5)).
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
