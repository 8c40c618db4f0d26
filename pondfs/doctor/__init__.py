"""``pond doctor``: looks at what a pond stands on, and says what to do.

- ``finding``: what a look found: how bad, what was seen, what to do about it
- ``scene``: what is looked at: which pond, if any
- ``machine``: FUSE, programs, libraries, the clock
- ``mounts`` ``processes``: mounts, their daemons and sockets, who holds the store's lock
- ``disk``: the filesystem under the store, what it promises, what room it has
- ``stored``: the store itself: log, journal, image, what crashes left
- ``looks``: all of them, in order; ``worker``: the processes that look
- ``examine``: starts those, and gives up what hangs

Whoever is asked here may hang: a daemon that is stopped, a disk or a server that does not answer.
So nothing that could be waited for in vain is touched by the command itself. Only processes of its
own do that, and it leaves one behind that does not come back (a wait in the kernel for a FUSE
daemon can't be ended, not even by SIGKILL).
"""
