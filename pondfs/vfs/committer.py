"""The one task that stages and commits.

Everything else only notes changes and asks. A commit is: cut (on the trio thread, no await), write
and publish (in a worker thread), adopt (on the trio thread). Whoever asks while one is under way
shares the next one (group commit).

With a journal, what an fsync asks for is cut and appended to it, which is one sync of the disk
instead of four. Such versions are durable, and in no table yet: the next commit, which comes after
``commit_s`` at the latest, publishes them together with its own. Until then their contents stay in
memory.

A commit that fails keeps its cut, whole, and is tried again: at once when somebody asks, else
after a pause that doubles. Nothing later is cut before it has arrived, so versions stay in order;
and nothing is journaled while commits fail, so that whoever syncs is told.
"""

import contextlib
import errno
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

import trio

from pondfs.errors import CommitFailed, PondError
from pondfs.interfaces import Store
from pondfs.node import Version
from pondfs.oplog import Cut, Row, Summary
from pondfs.vfs import offload
from pondfs.vfs.journaled import Journaled
from pondfs.vfs.pending import Pending
from pondfs.vfs.totals import Totals

log = logging.getLogger("pondfs.commit")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
"""Pauses between tries of a failing commit: short enough that a freed disk is noticed, long
enough that a dead one is left in peace."""

STAGE_BYTES = 32 << 20
"""Content in memory beyond this is staged: written early, in no version yet."""

MEMORY_BYTES = 64 << 20
"""Memory that pending changes may hold. At it writers wait (for the other half to be staged), and
changes without content, which can't be staged, are committed."""

TIDY_S = 60.0
"""After a commit, at most this often: files that a prune had to leave to a reader are removed."""

GROWTH_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Failures that say the store has no room or can't be written, so that new content is refused."""


@dataclass(slots=True)
class Ticket:
    """A promise of the next commit, shared by all who wait for it."""

    done: trio.Event = field(default_factory=trio.Event)
    message: str = ""
    # Somebody wants it in the table, where others can see it; else durable is enough.
    publish: bool = False
    version: Version | None = None
    error: PondError | None = None


@dataclass(slots=True, eq=False)
class Job:
    """Something to do in the store between two commits, and what came of it."""

    function: Callable[[], Any]
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class LastCommit:
    """What the latest commit was and cost. Units: seconds since 1970, milliseconds, bytes."""

    version: Version
    timestamp: float
    duration_ms: float
    bytes: int
    rows: int
    operations: int


class Committer:
    """Makes versions of what is pending."""

    def __init__(
        self,
        store: Store,
        pending: Pending,
        version: Version,
        commit_s: float,
        max_pending_bytes: int | None,
        *,
        journal: bool = False,
    ) -> None:
        self._store = store
        self.journaled = Journaled(is_used=journal, commit_s=commit_s)
        self._wants_publishing = False
        self._pending = pending
        self.commit_s = commit_s
        # Else only asking makes versions: then it alone tries again, and who asks is told why.
        self._is_timed = commit_s < math.inf
        self.max_pending_bytes = max_pending_bytes
        self.stage_at_bytes = STAGE_BYTES
        # The newest one that was cut, the newest that is on disk, and the newest in the table.
        self.version = self.durable = self.published = version
        self.last: LastCommit | None = None
        self.totals = Totals()
        self.failure: PondError | None = None
        self.failure_errno = 0
        self.refuses_growth = False
        self._wake = trio.Event()
        self._room = trio.Event()
        self._ticket = Ticket()
        self._asked = False
        self._busy: Ticket | None = None
        self._jobs: deque[Job] = deque()
        self._tidied = -math.inf
        self._holders = 0
        # While the task waits for something to do: until then, in trio time; else None.
        self._rests_until: float | None = None
        # Those who want to hold, oldest first; the task lets them, between two commits.
        self._grants: deque[Job] = deque()
        self._cut: Cut | None = None
        self._retry_at = math.inf
        self._retry_s = FIRST_RETRY_S
        self._closing = False
        self._abandoned = False
        self.on_commit: Callable[[Version, int], None] = lambda version, time_ns: None
        pending.on_first_change = self.wake

    # --- asking ---

    @property
    def under_way(self) -> Sequence[Row]:
        """Rows that a commit has taken and that are not on disk yet."""
        return self._cut.rows if self._cut is not None else ()

    @property
    def has_room(self) -> bool:
        """Whether memory holds more content."""
        return self._pending.bytes + self._pending.inflight < MEMORY_BYTES

    @property
    def wants_content(self) -> bool:
        """Whether there is enough content to stage or to commit."""
        pending = self._pending
        return pending.bytes >= self.stage_at_bytes or (
            self.max_pending_bytes is not None
            and pending.bytes + pending.staged_bytes >= self.max_pending_bytes
        )

    @property
    def is_busy(self) -> bool:
        """Whether a commit is under way."""
        return self._busy is not None

    def adjust(self, commit_s: float, max_pending_bytes: int | None) -> None:
        """Go by other limits from now on."""
        self.commit_s = self.journaled.commit_s = commit_s
        self.max_pending_bytes = max_pending_bytes
        self._wake.set()

    def follow(self, version: Version) -> None:
        """Take note that another process made this version, and the table has it."""
        self.version = self.durable = self.published = version

    def wake(self) -> None:
        """Have the task look at what is pending."""
        self._wake.set()

    async def commit(self, message: str = "", *, publish: bool = True) -> Version | None:
        """Make everything applied so far durable; without *publish* the journal is enough.

        Returns: the version made; None when there was nothing to commit.
        Durability: on return the version is on disk, and with *publish* in the table.
        Raises: CommitFailed; everything stays pending and is tried again.
        """
        is_done = self.published == self.version if publish else self.durable == self.version
        if self._pending.empty and is_done:
            return None
        # What is left is to publish: those versions were made, and told of, by who synced.
        is_no_news = self._pending.empty and self.durable == self.version
        if not publish and not message and self._may_sync_here():
            version = self._sync_here()
            if version is not None:
                return version
        if self._pending.empty and self._busy is not None and self._busy.publish >= publish:
            ticket = self._busy  # all of it is under way already
        else:
            ticket = self._ticket
            self._asked = True
            ticket.publish |= publish
            if message:
                # What a terminal sends need not be UTF-8, what the table takes must be.
                ticket.message = message.encode("utf-8", "replace").decode("utf-8")
            self._wake.set()
        await ticket.done.wait()
        if ticket.error is not None:
            # One error is raised in many tasks: each gets its own traceback.
            raise CommitFailed(str(ticket.error), ticket.error.errno)
        return None if is_no_news else ticket.version

    def _may_sync_here(self) -> bool:
        """Return whether a version may be journaled at once: nobody is at work, the disk is quick.

        It saves two turns of the task and two of a thread, half of what an fsync took.
        """
        return (
            self._rests_until is not None
            and self._cut is None
            and self.failure is None
            and not (self._asked or self._jobs or self._grants or self._holders or self._closing)
            and not (self._pending.staged or self._pending.unstaged or self._wants_publishing)
            and self.journaled.is_quick(self._pending.new_bytes, trio.current_time())
        )

    def _sync_here(self) -> Version | None:
        """Cut and journal what is pending, in this thread; None when that did not do."""
        if not self._make_cut(""):
            return self.durable
        cut = self._cut
        assert cut is not None
        started = time.perf_counter()
        if not self.journaled.takes(cut, trio.current_time()):
            return None
        try:
            self._store.journal(cut)
        except Exception as error:
            # Whatever it is: the task commits the cut, or fails as it does.
            self._journal_failed(error)
            return None
        self._journal_done(cut, time.perf_counter() - started)
        rests_until = self._rests_until
        if rests_until is not None and self.journaled.publish_at() < rests_until:
            self._wake.set()
        return cut.version

    async def publish(self) -> None:
        """Have the table hold every version there is, for who wants to look at them there.

        While commits fail, it does not: what is there can be looked at all the same.
        """
        newest = self.durable
        while self.published < newest and self.failure is None:
            self._wants_publishing = True
            self._wake.set()
            await self._room.wait()

    async def between(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call the store in a thread while nothing is being committed and no cut waits.

        For what writes to the log beside commits: tags, pruning.

        Whoever asked may go away meanwhile. What has not begun then is not done. What has is not
        undone by looking away: it returns what came of it, without a checkpoint after, so that the
        tree can follow the store.

        Raises: CommitFailed while commits fail, so that nothing overtakes a version; what the
            store raises.
        """
        if self.failure is not None:
            raise CommitFailed(str(self.failure), self.failure_errno)
        job = Job(lambda: function(*args))
        self._jobs.append(job)
        self._wake.set()
        try:
            await job.done.wait()
        except trio.Cancelled:
            if job in self._jobs:
                self._jobs.remove(job)
                raise
            with trio.CancelScope(shield=True):
                await job.done.wait()
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Make no version inside: what is done there becomes part of one, however long it takes.

        Content is staged all the same. Whoever waits for a commit waits for the end.

        Raises: CommitFailed when commits fail: then the beginning would wait as long as they do.
        """
        if self.failure is not None:
            raise CommitFailed(str(self.failure), self.failure_errno)
        grant = Job(lambda: None)
        self._grants.append(grant)
        self._wake.set()
        try:
            await grant.done.wait()
        except trio.Cancelled:
            if not grant.done.is_set():
                self._grants.remove(grant)
            elif grant.error is None:
                self._let_go()
            raise
        if grant.error is not None:
            raise grant.error
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._holders -= 1
        self._wake.set()

    async def wait_for_room(self) -> None:
        """Wait until pending content is below its limit.

        Raises: CommitFailed with the errno of the failing commit, as waiting would not help.
        """
        while not self.has_room:
            if self.failure is not None:
                raise CommitFailed(str(self.failure), self.failure_errno)
            self._wake.set()
            await self._room.wait()

    def discard_staged(self) -> None:
        """Remove what was staged for a version that will not come. Blocks; after `run` has ended.

        Raises: OSError.
        """
        pending = self._pending
        for file in [*(settled.file for settled, _ in pending.staged), *pending.dead_files]:
            self._store.discard(file)

    def abandon(self) -> None:
        """Give up on a failing last commit (a second SIGTERM)."""
        self._abandoned = True
        self._wake.set()

    # --- the task ---

    async def run(self) -> None:
        """Stage and commit until `close`."""
        while True:
            self._wake = trio.Event()
            is_settled = self._cut is None and not self.journaled and self.failure is None
            while self._grants and is_settled:
                self._holders += 1
                self._grants.popleft().done.set()
            work = self._due()
            if work == "commit":
                await self._commit()
            elif work == "publish":
                await self._commit(only_journaled=True)
            elif work == "stage":
                await self._stage()
            elif work == "job":
                await self._do(self._jobs.popleft())
            elif self._closing and not self._holders and (self._abandoned or self._drained()):
                return
            else:
                self._rests_until = self._next_deadline()
                with trio.move_on_at(self._rests_until):
                    await self._wake.wait()
                self._rests_until = None

    async def close(self) -> bool:
        """Commit what is left and end the task.

        Atimes that moved with nothing else pending are forgotten: a mount that was only read makes
        no version.

        Returns: whether everything reached the disk.
        """
        self._closing = True
        self._retry_at = -math.inf
        self._wake.set()
        while not self._abandoned and not self._drained():
            with trio.move_on_after(0.05):
                await self._room.wait()
        self._wake.set()
        return self._drained()

    def _drained(self) -> bool:
        pending = self._pending
        return pending.empty and self._cut is None and not self.journaled

    def _due(self) -> str | None:
        pending = self._pending
        now = trio.current_time()
        if self._holders:
            is_due = self.failure is None and pending.bytes >= self.stage_at_bytes
            return "stage" if is_due else None
        if self._cut is not None:
            return "commit" if self._asked or now >= self._retry_at else None
        if self._jobs:
            # Before a commit that somebody waits for: or whoever keeps asking would keep it out.
            return "job"
        if (
            self.failure is None
            and self.journaled
            and (
                self._wants_publishing
                or self._grants
                or not self.has_room
                or now >= self.journaled.publish_at()
            )
        ):
            # For the same reason. After a stage that failed, a commit has to have all of it.
            return "publish"
        if self._asked:
            return "commit"
        if self._closing:
            return None if self._drained() or self._abandoned else "commit"
        if self.failure is not None:
            # A stage failed. Only a commit may follow it: what it took comes first in there, and
            # bytes that were written later must not get a number before it.
            return "commit" if now >= self._retry_at else None
        if (
            self._is_timed
            and pending.since is not None
            and (
                now >= pending.since + self.commit_s
                or pending.memory_bytes - pending.bytes >= MEMORY_BYTES
                or (
                    self.max_pending_bytes is not None
                    and pending.memory_bytes + pending.staged_bytes >= self.max_pending_bytes
                )
            )
        ):
            return "commit"
        if pending.bytes >= self.stage_at_bytes:
            return "stage"
        return None

    def _next_deadline(self) -> float:
        if self._holders:
            return math.inf
        if self._cut is not None or self.failure is not None:
            return self._retry_at
        since = self._pending.since
        if since is None:
            return self.journaled.publish_at()
        # Once a second while there is something: changes without content have no other way to
        # say that they passed the memory limit.
        return min(since + self.commit_s, self.journaled.publish_at(), trio.current_time() + 1.0)

    async def _commit(self, *, only_journaled: bool = False) -> None:
        """Commit the cut that is left over, then what is pending; or what is journaled alone."""
        if only_journaled:
            ticket = Ticket(publish=True)
        else:
            ticket, self._ticket = self._ticket, Ticket()
            # When nobody asked, it is time for the table.
            ticket.publish |= not self._asked
            self._asked = False
        self._busy = ticket
        try:
            if self._cut is not None:
                await self._publish(ticket)
            if not only_journaled and self._make_cut(ticket.message):
                if ticket.publish or not await self._journal(ticket):
                    await self._publish(ticket)
            elif ticket.publish and self.journaled:
                self._cut = self.journaled.cuts.pop()
                await self._publish(ticket)
            while self._pending.dead_files:
                await offload.run(self._store.discard, self._pending.dead_files.pop())
        except (OSError, PondError) as error:
            self._failed("commit", error)
            ticket.error = self.failure
        finally:
            self._busy = None
            ticket.done.set()
            self._open_room()

    async def _do(self, job: Job) -> None:
        try:
            # Whoever waits for what has begun waits for its end: it can't be left out any more.
            with trio.CancelScope(shield=True):
                job.result = await offload.run(job.function)
        except Exception as error:
            job.error = error
        finally:
            job.done.set()

    def _tidy(self) -> None:
        """Remove what prunes left, as nobody may read it any more. In a thread."""
        try:
            self._store.remove_pruned()
        except (OSError, PondError) as error:
            log.warning("pruned files stay: %s", error)

    def _make_cut(self, message: str) -> bool:
        summary = Summary(message=message)
        pending = self._pending
        self._cut = pending.cut(Version(self.version + 1), time.time_ns(), summary)
        if self._cut is None:
            return False
        self.version = self._cut.version
        return True

    async def _journal(self, ticket: Ticket) -> bool:
        """Make the cut durable in the journal, if it belongs there; return whether it is."""
        cut = self._cut
        assert cut is not None
        if self.failure is not None or not self.journaled.takes(cut, trio.current_time()):
            return False

        def append() -> float:
            started = time.perf_counter()
            self._store.journal(cut)
            return time.perf_counter() - started

        try:
            took_s = await self._in_thread(append)
        except (OSError, PondError) as error:
            self._journal_failed(error)
            return False
        self._journal_done(cut, took_s)
        ticket.version = cut.version
        return True

    def _journal_done(self, cut: Cut, took_s: float) -> None:
        self._cut = None
        self.durable = cut.version
        self.journaled.add(cut, trio.current_time(), took_s)
        self._pending.journaled_bytes = self.journaled.content_bytes
        self.totals.journaled += 1

    def _journal_failed(self, error: Exception) -> None:
        self.journaled.failed(trio.current_time())
        known = isinstance(error, OSError | PondError)
        log.warning(
            "no journal for a while, every fsync is a commit: %s", error, exc_info=not known
        )

    async def _publish(self, ticket: Ticket) -> None:
        """Make the cut, and what is journaled before it, one commit and adopt it."""
        cut, earlier = self._cut, self.journaled.cuts
        assert cut is not None
        started = time.perf_counter()
        settled = await self._in_thread(self._store.commit, cut, earlier)
        if settled is not None:
            self._pending.settle(settled)
        self._cut = None
        self.journaled.clear()
        self._pending.journaled_bytes = 0
        self._wants_publishing = False
        if started - self._tidied >= TIDY_S:
            self._tidied = started
            self._jobs.append(Job(self._tidy))
        ticket.version = self.durable = self.published = cut.version
        for each in (*earlier, cut):
            self.on_commit(each.version, each.time_ns)
        self.last = LastCommit(
            cut.version,
            time.time(),
            (time.perf_counter() - started) * 1e3,
            cut.summary.bytes_added,
            cut.first_seq + len(cut.rows),
            cut.summary.operations,
        )
        last = self.last
        cuts = (*earlier, cut)
        self.totals.committed(
            last.duration_ms / 1e3,
            sum(each.first_seq + len(each.rows) for each in cuts),
            sum(each.summary.bytes_added for each in cuts),
        )
        self._succeeded()

    async def _stage(self) -> None:
        pending = self._pending
        if pending.unstaged:
            return  # see `_due`
        rows, about = pending.take_stage(self.stage_at_bytes)
        if not rows:
            return
        try:
            settled = await self._in_thread(
                self._store.stage, Version(self.version + 1), pending.next_seq, rows
            )
        except (OSError, PondError) as error:
            pending.stage_failed(rows, about)
            self._failed("stage", error)
        else:
            pending.stage_done(settled, len(rows), about)
            self.totals.stages += 1
            self._succeeded()
        self._open_room()

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call the store; an error nobody thought of is a failure like the disk's.

        What was taken is kept and tried again, and reads go on; ending the mount would lose it.
        """
        try:
            return await offload.run(function, *args)
        except (OSError, PondError):
            raise
        except Exception as error:
            if self.failure is None:
                log.exception("a bug in pondfs; please report it")
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error

    def _open_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def _succeeded(self) -> None:
        if self._is_timed and self.failure is not None:
            log.warning("the store takes commits again; nothing was lost")
        self.failure = None
        self.failure_errno = 0
        self.refuses_growth = False
        self._retry_at = math.inf
        self._retry_s = FIRST_RETRY_S

    def _fail_jobs(self) -> None:
        """Whoever waits for a place between commits would wait as long as they fail."""
        while self._jobs or self._grants:
            job = (self._jobs or self._grants).popleft()
            job.error = CommitFailed(str(self.failure), self.failure_errno)
            job.done.set()

    def _failed(self, what: str, error: OSError | PondError) -> None:
        self.totals.failed(what)
        number = error.errno or errno.EIO
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if self._is_timed and (self.failure is None or number != self.failure_errno):
            log.error(
                "%s of version %d failed: %s; everything pending is kept and tried again",
                what,
                self.version if self._cut is not None else self.version + 1,
                reason,
            )
        self.failure = CommitFailed(f"commit failed: {reason}", number)
        self.failure_errno = number
        self.refuses_growth = number in GROWTH_ERRNOS
        self._retry_at = trio.current_time() + self._retry_s if self._is_timed else math.inf
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
        self._fail_jobs()
