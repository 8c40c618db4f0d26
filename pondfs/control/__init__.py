"""The daemon's socket: how commands reach a mounted pond.

- ``protocol``: what goes over the wire, and where the socket lies
- ``server``: the daemon's end (trio)
- ``client``: the commands' end (blocking, no trio, so that it starts fast)
- ``reach``: which pond is meant, the way to its daemon, and what both it and the store can tell

Users read about it in ``docs/reference/control.md``.
"""
