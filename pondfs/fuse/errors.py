"""The one border where causes become errnos.

pyfuse3's handlers catch only FUSEError: anything else would end the mount. So every handler goes
through `answers`, which logs what nobody expected and answers EIO; and which takes the time.
"""

import errno
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pyfuse3

from pondfs.errors import CommitFailed, FileError, PondError
from pondfs.fuse.timings import failed, timing_of

log = logging.getLogger("pondfs.fuse")

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def answers(handler: Handler) -> Handler:
    """Return *handler* with every error turned into the errno the caller sees; it is counted."""
    name = handler.__name__
    timing = timing_of(name)
    counts, clock = timing.counts, time.perf_counter_ns

    @functools.wraps(handler)
    async def answer(*args: Any) -> Any:
        started = clock()
        try:
            return await handler(*args)
        except FileError as error:
            raise pyfuse3.FUSEError(failed(name, error.errno)) from None
        except pyfuse3.FUSEError as error:
            failed(name, error.errno)
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(failed(name, _explain(name, error))) from None
        finally:
            took_ns = clock() - started
            counts[took_ns.bit_length()] += 1
            timing.sum_ns += took_ns

    return answer  # type: ignore[return-value]  # the wrapper keeps the handler's signature


_told: dict[tuple[str, str], int] = {}
TELL_AT_MOST = 1000
"""Different errors remembered as told already, so that a broken file read in a loop is one line."""


def _explain(operation: str, error: Exception) -> int:
    """Log an error that is no plain refusal, once for each operation and text."""
    if isinstance(error, PondError | OSError):
        number = error.errno or errno.EIO
        text = str(error)
        # A failing commit is told by the committer, a full disk by its errno.
        known = isinstance(error, CommitFailed) or number == errno.ENOSPC
        if not known and (operation, text) not in _told:
            if len(_told) >= TELL_AT_MOST:
                _told.clear()
            _told[operation, text] = number
            log.error("%s: %s", operation, text)
        return number
    log.error("%s: a bug in pondfs", operation, exc_info=error)
    return errno.EIO
