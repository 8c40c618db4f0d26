"""All the looks, by what they touch: where one of a group hangs, the others of it would, too."""

from pondfs.doctor.disk import look_at_filesystem, look_at_publishing, look_at_space
from pondfs.doctor.machine import (
    look_at_clock,
    look_at_fuse_conf,
    look_at_fuse_device,
    look_at_helper,
    look_at_install,
    look_at_kernel,
    look_at_libraries,
    look_at_preload,
)
from pondfs.doctor.mounts import look_at_lock, look_at_mounts, look_at_pond, look_at_sockets
from pondfs.doctor.scene import Look
from pondfs.doctor.stored import (
    look_at_image,
    look_at_journal,
    look_at_log,
    look_at_messages,
    look_at_set_aside,
    look_at_store,
    look_at_strays,
    look_at_times,
)

LOOKS: dict[str, dict[str, Look]] = {
    "machine": {
        "fuse device": look_at_fuse_device,
        "fusermount3": look_at_helper,
        "fuse.conf": look_at_fuse_conf,
        "mount helpers": look_at_install,
        "kernel": look_at_kernel,
        "libraries": look_at_libraries,
        "preload": look_at_preload,
        "clock": look_at_clock,
    },
    "mounts": {
        "mounts": look_at_mounts,
        "sockets": look_at_sockets,
    },
    "store": {
        "mounted": look_at_pond,
        "store": look_at_store,
        "lock": look_at_lock,
        "filesystem": look_at_filesystem,
        "publishing": look_at_publishing,
        "space": look_at_space,
        "set aside": look_at_set_aside,
        "messages": look_at_messages,
        "log": look_at_log,
        "times": look_at_times,
        "journal": look_at_journal,
        "image": look_at_image,
        "strays": look_at_strays,
    },
}
"""Group, name of the look, and the look. Those before ``log`` do not need a log that is whole."""
