"""The kernel's side: a protocol adapter only.

- ``convert``: nodes to pyfuse3's EntryAttributes
- ``errors``: causes to errnos; ``timings``: how long that took
- ``operations``: one method per request, each a call to the Vfs
- ``loop``: how the next request is waited for
- ``session``: mount, serve, unmount
"""
