"""The daemon's socket: how commands reach a mounted pond.

- ``protocol``: what goes over the wire, and where the socket lies
- ``server``: the daemon's end (trio)
- ``client`` ``reach``: the commands' end (blocking, no trio, so that it starts fast), and from a
  mount to it

Users read about it in ``docs/reference/control.md``.
"""
