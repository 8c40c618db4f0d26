"""A live tree in a thread of its own: a trio loop that does what other threads ask."""

import errno
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import trio

from pondfs.vfs.vfs import Vfs

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
        """
        self._vfs = vfs
        self._finish = finish
        self._asked: set[Future[Any]] = set()
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._thread = threading.Thread(target=self._run, name="pond", daemon=True)
        self._thread.start()
        self._ready.wait()

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* in the thread and return what it returns.

        Raises: what it raises; OSError EBADF after `stop`.
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
        future: Future[T] = Future()
        self._asked.add(future)
        try:
            self._token.run_sync_soon(begin, future)
            return future.result()
        except trio.RunFinishedError:
            raise OSError(errno.EBADF, "the pond is closed") from None
        finally:
            self._asked.discard(future)

    def stop(self) -> None:
        """End the loop after what it is doing in the store, and wait until the thread has ended.

        Nothing is committed. Calling it twice is harmless.
        """
        try:
            self._token.run_sync_soon(self._scope.cancel)
        except trio.RunFinishedError:
            pass
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
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
