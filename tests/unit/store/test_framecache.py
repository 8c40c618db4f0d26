import threading
from typing import Any

from pondfs.store.framecache import FrameCache


def put(cache: FrameCache, key: Any, size: int) -> None:
    assert cache.wait_or_claim(key) is None
    cache.keep(key, f"value of {key}", size)


def test_what_was_not_used_for_longest_goes() -> None:
    cache = FrameCache(300)
    for key in (1, 2, 3):
        put(cache, key, 100)
    assert cache.find(1) == "value of 1"
    put(cache, 4, 100)
    assert cache.find(2) is None
    assert [cache.find(key) for key in (1, 3, 4)] == [f"value of {key}" for key in (1, 3, 4)]
    assert (cache.bytes, cache.hits, cache.misses) == (300, 4, 4)
    cache.limit(150)
    assert (cache.find(3), cache.find(4)) == (None, "value of 4")
    assert cache.bytes == 100
    # One that is larger than all that may be held stays until the next one comes.
    put(cache, 5, 1000)
    assert cache.find(5) == "value of 5"
    assert cache.bytes == 1000
    put(cache, 6, 10)
    assert cache.bytes == 10
    cache.clear()
    assert (cache.bytes, cache.find(6)) == (0, None)


def test_who_wants_what_is_being_decoded_waits_for_it() -> None:
    cache = FrameCache(1000)
    assert cache.wait_or_claim("a") is None
    assert cache.has("a")
    assert not cache.try_claim("a")
    assert cache.try_claim("b")
    found: list[Any] = []
    started = threading.Barrier(5)

    def want() -> None:
        started.wait()
        found.append(cache.wait_or_claim("a"))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    assert found == []
    cache.keep("a", "decoded once", 10)
    for thread in threads:
        thread.join()
    assert found == ["decoded once"] * 4
    assert cache.misses == 2


def test_after_a_failure_the_next_one_tries() -> None:
    cache = FrameCache(1000)
    assert cache.wait_or_claim("a") is None
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(cache.wait_or_claim("a")))
    thread.start()
    cache.give_up("a")
    thread.join()
    assert found == [None], "it is up to the second one now"
    cache.keep("a", "at last", 10)
    assert cache.find("a") == "at last"
