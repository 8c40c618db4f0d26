"""``mount.pond``, but what else comes after hours comes after a few commits.

Run as ``python small_daemon.py`` with the arguments of ``mount.pond``. Only numbers are smaller
than in life: checkpoints, old entries of the log, images, the cache of rows, stages, and how long
what is not needed any more stays.
"""

from __future__ import annotations

import sys

from pondfs.cli.mount_pond import main
from pondfs.store import checkpoint, images, journal, leftovers, logkeeper, prune_swap, rowcache
from pondfs.vfs import committer

checkpoint.ENTRIES_BETWEEN = 4
logkeeper.KEPT_ENTRIES = 3
logkeeper.SAFE_AGE_S = logkeeper.LOOK_AGAIN_S = 0.0
prune_swap.GRACE_S = 0.0
images.WORTH_ROWS, images.WORTH_FILES = 30, 4
rowcache.WORTH_FILES, rowcache.CLOSING_FILES = 3, 2
rowcache.NOTED_FILES, rowcache.NOTED_ROWS = 4, 40
leftovers.STRAY_AGE_S = 0.0
journal.AHEAD_BYTES = 16 << 10
committer.STAGE_BYTES = 128 << 10

if __name__ == "__main__":
    sys.exit(main())
