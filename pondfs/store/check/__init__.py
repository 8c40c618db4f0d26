"""Checking a pond: every invariant of the log, the rows and the tree, one function each.

Changes nothing, and works beside a mount. In reading order:

- ``report``: findings, the verdict, and what an invariant is
- ``point``: the moment that is checked
- ``log`` ``files`` ``versions`` ``tree`` ``extents`` ``caches`` ``data``: the invariants, by what
  they are about; ``affected``: whose bytes were in what is lost
- ``hash``: one line for a whole tree
- ``examine``: all of it, in order

`pondfs.store.repair` mends what can be mended.
"""

from pondfs.store.check.examine import check_store
from pondfs.store.check.report import (
    CLEAN,
    DAMAGED,
    FAMILIES,
    INVARIANTS,
    REPAIRABLE,
    Finding,
    Report,
)

__all__ = [
    "CLEAN",
    "DAMAGED",
    "FAMILIES",
    "INVARIANTS",
    "REPAIRABLE",
    "Finding",
    "Report",
    "check_store",
]
