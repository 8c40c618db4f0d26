"""The live tree: what the mount shows, what is pending, and when it is committed.

One trio thread owns all of it; between two ``await``s nothing else runs, so state needs no locks.
In reading order:

- ``nodes``: the node table: an immutable image under a thin overlay of Python objects
- ``pending``: what changed since the last cut, and how a cut is made of it; ``draft``: its rows;
  ``operations``: the same as people see it
- ``namespace``: names: lookup, create, link, unlink, rename, listing
- ``attr``: attributes: chmod, chown, truncate, times
- ``file``: open, read, write, release
- ``xattr`` ``acl``: extended attributes, and the POSIX ACLs among them
- ``past`` ``past_history``: `.pond/`: old versions, and the contents of one file, inside the mount
- ``plan`` ``planner`` ``execute`` ``restore``: making parts of the tree be as they were
- ``access`` ``rights``: what a user may do, where the kernel does not check for us
- ``follow`` ``swap``: another process's commits; data files that took the place of others
- ``rebase``: a mounted tree turns to newer images, and memory goes back
- ``apply``: a transaction that another process prepared
- ``committer``: the one task that stages and commits; ``totals``: what it counts
- ``compactor`` ``upkeep``: keeping data files few; the log short, and the store free of leftovers
- ``storage``: what the store takes, looked up beside all this
- ``vfs``: joins them
"""
