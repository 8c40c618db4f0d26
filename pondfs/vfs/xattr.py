"""Extended attributes."""

import errno
import stat

from pondfs.errors import FileError
from pondfs.node import NodeId
from pondfs.vfs import acl
from pondfs.vfs.base import VfsBase, now_ns

XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65536
XATTR_LIST_MAX = 65536
"""Limits of the kernel (include/uapi/linux/limits.h)."""

NAMESPACES = (b"user.", b"trusted.", b"security.")


def check_name(name: bytes) -> None:
    """Refuse a name outside the namespaces Linux has; who may use which is the kernel's business.

    Raises: FileError EOPNOTSUPP, EINVAL (a namespace and nothing after it), ERANGE.
    """
    if name not in (acl.ACCESS, acl.DEFAULT):
        if not name.startswith(NAMESPACES):
            raise FileError(errno.EOPNOTSUPP)
        if name in NAMESPACES:
            raise FileError(errno.EINVAL)
    if len(name) > XATTR_NAME_MAX:
        raise FileError(errno.ERANGE)


class Xattrs(VfsBase):
    """The operations on extended attributes."""

    def getxattr(self, node_id: NodeId, name: bytes) -> bytes:
        """Return the value. Raises: FileError ENODATA, or as `check_name`."""
        check_name(name)
        xattrs = self.nodes.get(node_id).xattrs
        if xattrs is None or name not in xattrs:
            raise FileError(errno.ENODATA)
        return xattrs[name]

    def listxattr(self, node_id: NodeId) -> list[bytes]:
        """Return the names."""
        return list(self.nodes.get(node_id).xattrs or ())

    def setxattr(self, node_id: NodeId, name: bytes, value: bytes) -> None:
        """Set the value; an access ACL sets the mode's group bits too.

        Raises: FileError E2BIG, ENOSPC (more than the kernel can list), EROFS, or as `check_name`.
        """
        self.may_grow(node_id)
        check_name(name)
        if len(value) > XATTR_SIZE_MAX:
            raise FileError(errno.E2BIG)
        node = self.nodes.get(node_id)
        xattrs = dict(node.xattrs or {})
        if name in (acl.ACCESS, acl.DEFAULT):
            if not self.options.acl:
                raise FileError(errno.EOPNOTSUPP)
            if name == acl.DEFAULT and not stat.S_ISDIR(node.mode):
                raise FileError(errno.EACCES)
            kept = acl.apply(node, name, value)
            xattrs.pop(name, None)
            if kept is not None:
                xattrs[name] = kept
        else:
            xattrs[name] = value
        if sum(len(key) + 1 for key in xattrs) > XATTR_LIST_MAX:
            raise FileError(errno.ENOSPC)
        node.xattrs = xattrs or None
        node.ctime_ns = now_ns()
        self.pending.touch(node)

    def removexattr(self, node_id: NodeId, name: bytes) -> None:
        """Remove the attribute. Raises: FileError ENODATA, EROFS."""
        self.may_change(node_id)
        check_name(name)
        node = self.nodes.get(node_id)
        if node.xattrs is None or name not in node.xattrs:
            raise FileError(errno.ENODATA)
        xattrs = dict(node.xattrs)
        del xattrs[name]
        node.xattrs = xattrs or None
        node.ctime_ns = now_ns()
        self.pending.touch(node)
