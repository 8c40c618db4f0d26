"""Serving an instance under a service manager: what comes before the mount, and a SIGHUP."""

import errno
import logging
import os
import resource
import subprocess
from dataclasses import fields

from pondfs import logs
from pondfs.errors import MountFailed, SystemFailure, UsageError
from pondfs.instance import Instance, Resources, load_instance
from pondfs.mount import serve_foreground
from pondfs.mountinfo import Mount, find_pond_at
from pondfs.options import MountOptions
from pondfs.unmount import detach_lazily

log = logging.getLogger("pondfs.service")

LIVE = ("commit_s", "max_pending_bytes", "cache_bytes", "log_level")
"""Options that a mounted pond takes up at once; the others take a new mount."""


def serve(instance: Instance) -> int:
    """Mount *instance* and serve it until it is unmounted or a signal ends it.

    Returns: an exit code: 0, or 2 when a second signal gave up what was pending.
    Raises: PondError.
    """
    logs.set_up(instance.mount.log_level, None, terminal=True, form=instance.mount.log_format)
    apply_resources(instance.resources)
    clear_dead_mounts(instance.mount)
    try:
        os.makedirs(instance.mount.mountpoint, 0o755, exist_ok=True)
    except OSError as error:
        raise MountFailed(f"cannot make {instance.mount.mountpoint}: {error.strerror}") from None
    return serve_foreground(instance.mount, reload=_Reload(instance))


def apply_resources(resources: Resources) -> None:
    """Take what the file grants. Raises: SystemFailure."""
    try:
        if resources.nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, resources.nice)
        if resources.oom_score_adjust is not None:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(resources.oom_score_adjust))
        if resources.open_files is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = resources.open_files if hard < 0 else min(resources.open_files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except OSError as error:
        raise SystemFailure(
            f"[resources] asks for more than this process may have: {error.strerror}"
        ) from None


def clear_dead_mounts(options: MountOptions) -> None:
    """Detach what a daemon that died left on the mountpoint, so that it can be mounted again.

    Until now every call there failed with ENOTCONN, which is right: a backup that found an empty
    directory would take it for the truth. A mount that answers, or another store's, is left.

    Raises: MountFailed when what is there is not ours to clear; SystemFailure.
    """
    while (found := find_pond_at(options.mountpoint)) is not None:
        if found.source != os.fspath(options.store):
            raise MountFailed(
                f"{options.mountpoint} has another pond, {found.source}: unmount that first"
            )
        if not is_dead(found):
            return  # `check_places` refuses, and says what to do
        log.warning("detaching the mount on %s, whose daemon is gone", found.mountpoint)
        detach_lazily(found)


def is_dead(mount: Mount) -> bool:
    """Say whether the daemon behind *mount* is gone: then, and only then, the kernel says ENOTCONN.

    In another process, which is given up when the daemon is there and answers nobody.
    """
    try:
        asked = subprocess.run(
            ["/usr/bin/stat", "-f", "--", os.fspath(mount.mountpoint)],
            capture_output=True, text=True, timeout=10, check=False, env={"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return os.strerror(errno.ENOTCONN) in asked.stderr


class _Reload:
    """Reads the file again, and tells what of it can be taken up now."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def __call__(self) -> MountOptions:
        """Return what is to be so from now on. Raises: UsageError, OSError."""
        try:
            again = load_instance(self._instance.path)
        except OSError as error:
            raise UsageError(f"{self._instance.path}: {error.strerror}") from None
        for name in _stuck(self._instance.mount, again.mount):
            log.warning("%s changed, which takes a restart", name)
        if again.resources != self._instance.resources:
            log.warning("[resources] changed, which takes a restart")
        return again.mount


def _stuck(old: MountOptions, new: MountOptions) -> list[str]:
    """Return the names of what differs and can't be changed while mounted."""
    return [
        field.name
        for field in fields(MountOptions)
        if field.name not in LIVE and getattr(old, field.name) != getattr(new, field.name)
    ]
