"""A live tree in a thread of its own: a trio loop that does what other threads ask."""

import errno
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import trio

from pondfs.errors import UsageError
from pondfs.vfs.vfs import Vfs

LOOK_S = 0.2
"""How long to wait before looking for a Ctrl-C. One would end the waiting by itself, but not where
Polars was imported: after its handler the system just goes on with the waiting (SA_RESTART)."""

T = TypeVar("T")


class VfsThread:
    """Runs a `Vfs`, and its committer, until `stop`.

    The thread finishes what it does and cleans up by itself, so that nothing depends on whoever
    asked: a Ctrl-C meets them, not it.
    """

    def __init__(self, vfs: Vfs, finish: Callable[[], None]) -> None:
        """Start it.

        Args:
            vfs: the tree; belongs to the thread from here on.
            finish: is called in the thread when the loop has ended.
        Raises: OSError when the loop can't be made (EMFILE).
        """
        self._vfs = vfs
        self._finish = finish
        self._pid = os.getpid()
        self._asked: set[Future[Any]] = set()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._thread = threading.Thread(target=self._run, name="pond", daemon=True)
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # Ctrl-C: nobody will have this to stop it
            self._ready.wait()
            self.stop()
            raise
        if self._failure is not None:
            raise self._failure

    @property
    def is_here(self) -> bool:
        """Whether the thread is in this process, and not only in one that forked it."""
        return self._pid == os.getpid()

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* in the thread and return what it returns.

        Raises: what it raises; OSError EBADF after `stop`; UsageError in a process that was forked.
        """

        def begin(future: Future[T]) -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        return self._ask(begin)

    def wait(self, function: Callable[[], Awaitable[T]]) -> T:
        """As `call`, with an async function."""

        async def run(future: Future[T]) -> None:
            try:
                future.set_result(await function())
            except trio.Cancelled:
                future.set_exception(trio.RunFinishedError())
                raise
            except BaseException as error:
                future.set_exception(error)

        return self._ask(lambda future: self._nursery.start_soon(run, future))

    def _ask(self, begin: Callable[[Future[T]], None]) -> T:
        if not self.is_here:
            raise UsageError("the pond was opened before this process was forked: open it anew")
        if threading.get_ident() == self._thread.ident:
            # Somebody's finalizer, called by a garbage collection in the middle of anything.
            raise OSError(errno.EDEADLK, "the pond is at work in this very thread")
        future: Future[T] = Future()
        self._asked.add(future)
        try:
            if sys.is_finalizing():  # the thread was a daemon: it runs no more
                raise trio.RunFinishedError
            self._token.run_sync_soon(begin, future)
            while True:
                try:
                    return future.result(LOOK_S)
                except TimeoutError:
                    if future.done():
                        return future.result()  # it was an error of the function's own
        except trio.RunFinishedError:
            raise OSError(errno.EBADF, "the pond is closed") from None
        finally:
            self._asked.discard(future)

    def stop(self) -> None:
        """End the loop after what it is doing in the store, and wait until the thread has ended.

        Nothing is committed. Calling it twice is harmless. Where waiting would never end, it does
        not wait: in a garbage collection in the thread itself, and when Python ends.
        """
        if not self.is_here:
            return
        try:
            if self._failure is None:
                self._token.run_sync_soon(self._scope.cancel)
        except trio.RunFinishedError:
            pass
        if threading.current_thread() is not self._thread and not sys.is_finalizing():
            self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = error
            if self._ready.is_set():
                raise
        finally:
            try:
                self._finish()
            finally:
                self._ready.set()
                for future in list(self._asked):
                    if not future.done():
                        future.set_exception(trio.RunFinishedError())

    async def _main(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                self._token = trio.lowlevel.current_trio_token()
                self._nursery.start_soon(self._vfs.committer.run)
                self._ready.set()
