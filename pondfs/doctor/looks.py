"""All the looks, by what they touch: where one of a group hangs, the others of it would, too."""

from pondfs.doctor.scene import Look


def machine() -> dict[str, Look]:
    """Return the looks at the machine, by name, in order."""
    from pondfs.doctor import machine

    return {
        "fuse device": machine.look_at_fuse_device,
        "fusermount3": machine.look_at_helper,
        "fuse.conf": machine.look_at_fuse_conf,
        "mount helpers": machine.look_at_install,
        "kernel": machine.look_at_kernel,
        "preload": machine.look_at_preload,
        "clock": machine.look_at_clock,
        "libraries": machine.look_at_libraries,
    }


def mounts() -> dict[str, Look]:
    """Return those at daemons."""
    from pondfs.doctor import mounts

    return {
        "mounts": mounts.look_at_mounts,
        "sockets": mounts.look_at_sockets,
    }


def store() -> dict[str, Look]:
    """Return those at the pond. What comes before ``log`` does not need one that is whole."""
    from pondfs.doctor import disk, mounts, stored

    return {
        "mounted": mounts.look_at_pond,
        "store": stored.look_at_store,
        "lock": mounts.look_at_lock,
        "filesystem": disk.look_at_filesystem,
        "publishing": disk.look_at_publishing,
        "space": disk.look_at_space,
        "set aside": stored.look_at_set_aside,
        "messages": stored.look_at_messages,
        "log": stored.look_at_log,
        "times": stored.look_at_times,
        "journal": stored.look_at_journal,
        "image": stored.look_at_image,
        "strays": stored.look_at_strays,
    }


GROUPS = {"machine": machine, "mounts": mounts, "store": store}
"""What makes the looks of each group. Imports are inside: the last one takes pyarrow along."""
