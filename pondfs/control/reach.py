"""From a mount to its daemon, for who is allowed to ask it."""

from pondfs.control.client import Client
from pondfs.control.protocol import find_sockets
from pondfs.errors import DaemonGone
from pondfs.mountinfo import Mount


def connect_mount(mount: Mount) -> Client:
    """Return a connection to the daemon of *mount*.

    Raises: DaemonGone, NotPermitted.
    """
    why = "it has no control socket"
    for path in find_sockets(mount.mountpoint, mount.owner_uid):
        try:
            return Client(path)
        except DaemonGone as error:
            why = str(error)
    raise DaemonGone(
        f"{mount.mountpoint} is mounted but its daemon does not answer ({why}): "
        f"pond umount {mount.mountpoint}, then mount again"
    )
