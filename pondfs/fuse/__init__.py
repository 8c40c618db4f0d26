"""The kernel's side: a protocol adapter only.

- ``convert``: nodes to pyfuse3's EntryAttributes
- ``errors``: causes to errnos
- ``operations``: one method per request, each a call to the Vfs
- ``session``: mount, serve, unmount
"""
