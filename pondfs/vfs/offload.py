"""The one way from the trio thread to a worker thread.

What goes over is immutable or belongs to nobody else meanwhile; what comes back is a value.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def run(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call the blocking *function* in a worker thread and return what it returns.

    Not cancellable: what it does to the disk is not undone by looking away.
    """
    return await trio.to_thread.run_sync(function, *args)
