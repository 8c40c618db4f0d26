"""Answering requests with fewer sleeps.

pyfuse3 goes through trio's scheduler twice for every request (once for its read lock, once for
`wait_readable`), and between two requests the thread sleeps. On a virtual machine that is most of
a round trip, in time and in processor time too: a lookup took 47 us as pyfuse3 comes (the daemon
50 us of CPU) and 19.5 us with a loop that looks for 30 us before it sleeps (19.5 us of CPU);
create went from 3,500 to 8,000 a second, open + read from 14,700 to 45,000 (2 cores, kernel 6.18,
Python 3.11, trio 0.35, 2026-11). Idle, both use no processor.

`install` replaces two names pyfuse3 looks up in `trio`, by the hook its own asyncio support uses:

* the lock lets a running worker barge in: workers are interchangeable, so fairness between them
  buys nothing and costs a task switch for each request;
* before sleeping, the loop looks whether the next request is already there, and keeps looking
  for SPIN_S, as long as that has lately been worth it.
"""

import select
from collections.abc import Callable
from time import perf_counter
from types import ModuleType

import pyfuse3
import trio

SPIN_S = 80e-6
"""How long to look before sleeping: a program that makes one call after another is back with the
next in 10 to 20 us, a database between two fsyncs in 50 to 70. Sleeping and waking by trio takes
more of the processor than such a look: SQLite's transactions took 217 us of it with 30 us, 177 with
80 (2026-11)."""

SOON = 1.5
"""Whose request comes within so many SPIN_S is worth looking for."""

STREAK_S = 0.001
"""Other trio tasks (the committer, the control socket) wait at most this long while requests keep
coming without a pause."""

CREDIT_MAX = 16
"""How many vain looks in a row end the looking."""


class BargingLock:
    """An unfair lock: who asks while it is free has it, whoever was waiting before."""

    def __init__(self) -> None:
        self._held = False
        self._waking = False
        self._lot = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            try:
                await self._lot.park()
            finally:
                self._waking = False
        self._held = True

    async def __aexit__(self, *exc_info: object) -> None:
        self._held = False
        # The woken worker runs when the current one suspends: in a handler that waits (then it
        # takes over), or in `wait_readable` (then it finds the lock held and parks again).
        if self._lot and not self._waking:
            self._waking = True
            self._lot.unpark()


class Poller:
    """`wait_readable` that looks a little while before it sleeps.

    *credit* says whether looking pays: a request found, or one that came soon after falling
    asleep, earns; looking in vain costs. At zero the loop sleeps at once, as pyfuse3 does.
    """

    def __init__(self, spin_s: float, clock: Callable[[], float] = perf_counter) -> None:
        self._spin_s = spin_s
        self._clock = clock
        self._credit = CREDIT_MAX
        self._streak_ends = 0.0
        self._poll = select.poll()
        self._registered = False

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* has a request; yields to other tasks at least every STREAK_S."""
        if not self._registered:
            self._poll.register(fd, select.POLLIN)
            self._registered = True
        now = started = self._clock()
        if now < self._streak_ends:
            if self._poll.poll(0):
                return
            if self._credit > 0:
                stop = now + self._spin_s
                while now < stop:
                    if self._poll.poll(0):
                        self._credit = min(self._credit + 1, CREDIT_MAX)
                        return
                    now = self._clock()
                self._credit -= 1
        await trio.lowlevel.wait_readable(fd)
        now = self._clock()
        self._streak_ends = now + STREAK_S
        if now - started < SOON * self._spin_s:
            self._credit = min(self._credit + 1, CREDIT_MAX)


class _Trio(ModuleType):
    """trio, except for the names given: anything else is looked up there."""

    def __init__(self, real: ModuleType, **replaced: object) -> None:
        super().__init__(real.__name__)
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def install(spin_s: float = SPIN_S) -> None:
    """Make pyfuse3 use the two replacements; call before `pyfuse3.main`."""
    lowlevel = _Trio(trio.lowlevel, wait_readable=Poller(spin_s).wait_readable)
    pyfuse3.trio = _Trio(trio, Lock=BargingLock, lowlevel=lowlevel)  # type: ignore[attr-defined]
