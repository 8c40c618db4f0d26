"""pondfs: a filesystem that never forgets.

The root holds the nouns; each folder holds one outside dependency; ``mount`` joins them:

- ``errors`` ``logs``: what can go wrong, and how it is told
- ``node`` ``entry`` ``extent`` ``oplog`` ``change`` ``when`` ``retention``: the words of the
  system, no I/O
- ``interfaces``: what the layers need of each other
- ``store``: deltalake and pyarrow; bytes become rows, rows become a durable commit
- ``vfs``: trio; the live tree, what is pending, and the committer
- ``control``: the daemon's socket
- ``requests`` ``status``: what the daemon does when it is asked
- ``fuse``: pyfuse3; a protocol adapter only
- ``cli``: one verb per file
"""

__version__ = "0.1.0"
