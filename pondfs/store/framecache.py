"""What was decoded, kept in memory up to a number of bytes: what was not used for longest goes.

Decoding goes on outside of the lock, and each piece is decoded once: whoever wants what another
thread is just decoding waits for it.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class FrameCache:
    """Decoded pieces of data files by key. Thread-safe.

    Attributes:
        hits: how often something was found.
        misses: how often it had to be decoded.
        bytes: what is held. More than the limit only if that is one piece.
        most_bytes: the limit.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._claimed: set[Hashable] = set()
        self._changed = threading.Condition()
        self.hits = self.misses = self.bytes = 0

    def find(self, key: Hashable) -> Any:
        """Return what is kept there, or None. Does not block for long."""
        with self._changed:
            found = self._held.get(key)
            if found is None:
                return None
            self.hits += 1
            self._held.move_to_end(key)
            return found[0]

    def has(self, key: Hashable) -> bool:
        """Return whether it is kept, or about to be. Counts for nothing."""
        return key in self._held or key in self._claimed

    def wait_or_claim(self, key: Hashable) -> Any:
        """Return what is kept there, once it is decoded; or None: then the caller is to decode it.

        Who got None calls `keep` or `give_up`, and waits for nothing before.
        """
        with self._changed:
            while key in self._claimed:
                self._changed.wait()
            found = self._held.get(key)
            if found is not None:
                self.hits += 1
                self._held.move_to_end(key)
                return found[0]
            self._claim(key)
            return None

    def try_claim(self, key: Hashable) -> bool:
        """As `wait_or_claim`, but return whether the caller is to decode it, at once."""
        with self._changed:
            if self.has(key):
                return False
            self._claim(key)
            return True

    def _claim(self, key: Hashable) -> None:
        self.misses += 1
        self._claimed.add(key)

    def keep(self, key: Hashable, value: Any, size: int) -> None:
        """Keep what was decoded."""
        with self._changed:
            self._claimed.discard(key)
            self._held[key] = value, size
            self.bytes += size
            self._shrink()
            self._changed.notify_all()

    def limit(self, most_bytes: int) -> None:
        """Hold no more than that from now on."""
        with self._changed:
            self.most_bytes = most_bytes
            self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self.most_bytes and len(self._held) > 1:
            _, (_, old) = self._held.popitem(last=False)
            self.bytes -= old

    def give_up(self, key: Hashable) -> None:
        """It could not be decoded; the next who wants it shall try."""
        with self._changed:
            self._claimed.discard(key)
            self._changed.notify_all()

    def clear(self) -> None:
        """Let go of everything."""
        with self._changed:
            self._held.clear()
            self.bytes = 0
