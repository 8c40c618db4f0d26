"""Random operations on a pond and on a plain directory in step, with remounts and crashes.

Every result, every errno and the whole tree must be the same on both sides. After ``kill -9`` the
pond must hold exactly one of the trees there were between the last acknowledged fsync and the kill.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.campaign import Campaign
from tests.conftest import MakePond
from tests.mount import syscalls
from tests.mount.harness import PondMount
from tests.mount.place import errno_of
from tests.mount.snapshot import Tree, build, difference, states_between, take

NAMES = [b"a", b"b", b"c\xff", b"d" * 200]
DEEPEST = 3
OPTIONS = [
    ("commit=3600",),
    ("commit=1",),
    ("commit=3600", "xattr"),
    ("commit=1", "max_pending=1M"),
]

SHORT = settings(
    max_examples=8,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,  # the gate must not fail by luck; the long run looks for new failures
    database=None,
    phases=[Phase.generate],  # an example takes seconds: shrinking would take the rest of the hour
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    max_examples=60,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

offsets = st.one_of(
    st.integers(0, 300), st.integers(0, 40_000), st.sampled_from([4095, 4096, 8192])
)
sizes = st.one_of(st.integers(0, 100), st.integers(0, 30_000), st.sampled_from([4096, 65_536]))
# One byte repeated: what differs in a failure can then be read.
fills = st.integers(1, 255)


kills: list[PondMount] = []
"""One each."""


class MountMachine(RuleBasedStateMachine):
    """The operations; ``self.do`` runs each on both sides and compares."""

    make_pond: MakePond
    plain_root: Path
    numbers = count()

    def __init__(self) -> None:
        super().__init__()
        number = next(self.numbers)
        self.pond: PondMount = self.make_pond(f"pond{number}")
        self.plain = self.plain_root / f"plain{number}"
        self.plain.mkdir()
        self.held: list[tuple[int, int]] = []
        self.possible: list[Tree] = []

    @initialize(options=st.sampled_from(OPTIONS))
    def begin(self, options: tuple[str, ...]) -> None:
        """Start with an empty pond and a directory of the same mode."""
        self.pond.mount(*options)
        self.plain.chmod(stat.S_IMODE(self.pond.mnt.stat().st_mode))
        self.possible = [take(self.plain)]

    # -- machinery --------------------------------------------------------------------------------

    def do(self, call: Callable[[bytes], Any]) -> str:
        """Run *call* with both roots, compare what comes of it, and remember the tree."""
        outcomes = []
        for root in (self.plain, self.pond.mnt):
            result: list[Any] = []
            failure = errno_of(lambda: result.append(call(os.fsencode(root))))  # noqa: B023 - now
            outcomes.append((failure, result))
        assert outcomes[0] == outcomes[1], f"plain, pond: {outcomes}"
        self.compare()
        return outcomes[0][0]

    def compare(self) -> None:
        """Compare the whole trees, and note this one as a state a crash may leave."""
        plain, pond = take(self.plain), take(self.pond.mnt)
        assert plain == pond, "plain | pond:\n" + difference(plain, pond)
        if plain != self.possible[-1]:
            self.possible.extend(states_between(self.possible[-1], plain))
            self.possible.append(plain)

    def synced(self) -> None:
        """Note that everything up to now was acknowledged as durable."""
        self.possible = self.possible[-1:]

    def draw(self, data: st.DataObject, kinds: str = "fdl", fresh: bool = False) -> bytes:
        """Return an existing path of one of these kinds, or (sometimes) one that is not there."""
        tree = self.possible[-1]
        folders = [name for name, node in tree.items() if stat.S_ISDIR(node.mode)]
        kind_of = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
        existing = [
            name for name, node in tree.items() if name and kind_of[stat.S_IFMT(node.mode)] in kinds
        ]
        free = [
            path
            for folder in folders
            if folder.count(b"/") < DEEPEST - 1
            for path in (folder + b"/" + name if folder else name for name in NAMES)
            if path not in tree
        ]
        odd = [name + b"/a" for name in existing[:1]] + [b"missing/a"]
        choices = st.sampled_from(free or odd) if fresh else st.sampled_from(existing or odd)
        return data.draw(
            st.one_of(choices, choices, choices, st.sampled_from(existing + free + odd))
        )

    def drop_held(self) -> None:
        """Close what :meth:`hold` opened; a busy mount can't be unmounted."""
        for pair in self.held:
            for fd in pair:
                os.close(fd)
        self.held = []

    def teardown(self) -> None:
        """Leave nothing open or mounted behind an example."""
        self.drop_held()
        self.pond.close()

    # -- files ------------------------------------------------------------------------------------

    @rule(data=st.data(), size=sizes, fill=fills, exclusive=st.booleans())
    def create(self, data: st.DataObject, size: int, fill: int, exclusive: bool) -> None:
        """``> file``, or with O_EXCL."""
        path, flags = self.draw(data, fresh=True), os.O_EXCL if exclusive else os.O_TRUNC
        self.do(lambda at: write(at + b"/" + path, os.O_CREAT | flags, 0, fill, size))

    @rule(data=st.data(), offset=offsets, size=sizes, fill=fills)
    def write_at(self, data: st.DataObject, offset: int, size: int, fill: int) -> None:
        """Overwrite, extend, or leave a hole."""
        path = self.draw(data, "fl")
        self.do(lambda at: write(at + b"/" + path, 0, offset, fill, size))

    @rule(data=st.data(), size=sizes, fill=fills)
    def append(self, data: st.DataObject, size: int, fill: int) -> None:
        """``>> file``."""
        path = self.draw(data, "f")
        self.do(lambda at: write(at + b"/" + path, os.O_APPEND | os.O_CREAT, 0, fill, size))

    @rule(data=st.data(), size=offsets)
    def truncate(self, data: st.DataObject, size: int) -> None:
        """Shrink or grow."""
        path = self.draw(data, "f")
        self.do(lambda at: os.truncate(at + b"/" + path, size))

    @rule(data=st.data(), offset=offsets, size=sizes)
    def read(self, data: st.DataObject, offset: int, size: int) -> None:
        """Read a part."""
        path = self.draw(data, "fl")
        self.do(lambda at: read(at + b"/" + path, offset, size))

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """Open a file and keep it open, whatever becomes of its name."""
        path = self.draw(data, "f")
        opened: list[int] = []

        def open_one(at: bytes) -> None:
            opened.append(os.open(at + b"/" + path, os.O_RDWR))

        if self.do(open_one) == "OK":
            self.held.append((opened[0], opened[1]))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), offset=offsets, size=sizes, fill=fills)
    def use_held(self, data: st.DataObject, offset: int, size: int, fill: int) -> None:
        """Write, sync, and read through a descriptor whose file may have lost its name."""
        pair = data.draw(st.sampled_from(self.held))
        for fd in pair:
            os.pwrite(fd, bytes([fill]) * size, offset)
            os.fsync(fd)
        plain, pond = (os.fstat(fd) for fd in pair)
        assert (plain.st_size, plain.st_nlink) == (pond.st_size, pond.st_nlink)
        assert os.pread(pair[0], 200_000, 0) == os.pread(pair[1], 200_000, 0)
        self.compare()
        self.synced()

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        """Close them; what had no name is gone now."""
        self.drop_held()
        self.compare()

    # -- names ------------------------------------------------------------------------------------

    @rule(data=st.data(), mode=st.sampled_from([0o755, 0o700, 0o1777]))
    def mkdir(self, data: st.DataObject, mode: int) -> None:
        """Make a directory."""
        path = self.draw(data, fresh=True)
        self.do(lambda at: os.mkdir(at + b"/" + path, mode))

    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        """Remove a directory, if it is one and empty."""
        path = self.draw(data, "d")
        self.do(lambda at: os.rmdir(at + b"/" + path))

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        """Remove a name."""
        path = self.draw(data)
        self.do(lambda at: os.unlink(at + b"/" + path))

    @rule(data=st.data(), content=st.sampled_from([*NAMES, b"nowhere", b"x" * 4095]))
    def symlink(self, data: st.DataObject, content: bytes) -> None:
        """Link to a neighbour, or to nothing."""
        path = self.draw(data, fresh=True)
        self.do(lambda at: os.symlink(content, at + b"/" + path))

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        """Give a second name."""
        source, target = self.draw(data), self.draw(data, fresh=True)
        self.do(lambda at: os.link(at + b"/" + source, at + b"/" + target, follow_symlinks=False))

    @rule(
        data=st.data(),
        fresh=st.booleans(),
        flags=st.sampled_from([0, 0, 0, syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE]),
    )
    def rename(self, data: st.DataObject, fresh: bool, flags: int) -> None:
        """Move, replace, or swap."""
        source, target = self.draw(data), self.draw(data, fresh=fresh)
        self.do(lambda at: syscalls.renameat2(at + b"/" + source, at + b"/" + target, flags))

    @rule(data=st.data(), mode=st.sampled_from([0o000, 0o600, 0o755, 0o4755, 0o2750]))
    def chmod(self, data: st.DataObject, mode: int) -> None:
        """Change a mode."""
        path = self.draw(data, "fd")
        self.do(lambda at: os.chmod(at + b"/" + path, mode))

    @rule(data=st.data())
    def listdir(self, data: st.DataObject) -> None:
        """List a directory."""
        path = self.draw(data, "d")
        self.do(lambda at: sorted(os.listdir(at + b"/" + path)))

    # -- durability -------------------------------------------------------------------------------

    @rule(data=st.data())
    def fsync(self, data: st.DataObject) -> None:
        """Sync any file or directory: everything before it is durable."""
        path = self.draw(data, "fd")
        if self.do(lambda at: fsync(at + b"/" + path)) == "OK":
            self.synced()

    @rule()
    def remount(self) -> None:
        """Unmount and mount: everything is there, read from the store."""
        self.drop_held()
        self.pond.remount()
        self.compare()
        self.synced()

    @rule()
    def kill(self) -> None:
        """Crash: the tree is one of those since the last sync; go on from there."""
        for pair in self.held:
            os.close(pair[0])
        on_pond = [pair[1] for pair in self.held]
        self.held = []
        self.pond.kill()
        kills.append(self.pond)
        for fd in on_pond:
            errno_of(os.close, fd)
        self.pond.mount(*self.pond.options)
        found = take(self.pond.mnt)
        nearest = min(self.possible, key=lambda tree: len(difference(tree, found)))
        assert nearest == found, (
            f"after kill -9 the tree is none of the {len(self.possible)} there were since the "
            f"last sync; the nearest | found:\n{difference(nearest, found)}"
        )
        build(found, self.plain)
        assert take(self.plain) == found
        self.possible = [found]


def write(path: bytes, flags: int, offset: int, fill: int, size: int) -> int:
    """Open, write one run of equal bytes, close."""
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        return os.pwrite(fd, bytes([fill]) * size, offset)
    finally:
        os.close(fd)


def read(path: bytes, offset: int, size: int) -> bytes:
    """Open, read once, close."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def fsync(path: bytes) -> None:
    """Open and sync a file or directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.campaign
def test_the_mount_behaves_as_a_directory_and_survives_kills(
    make_pond: MakePond, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, campaign: Campaign
) -> None:
    """See the module's docstring."""
    monkeypatch.setattr(MountMachine, "make_pond", staticmethod(make_pond), raising=False)
    monkeypatch.setattr(MountMachine, "plain_root", tmp_path, raising=False)
    profile = LONG if campaign.long else SHORT
    kills.clear()
    run_state_machine_as_test(MountMachine, settings=profile)
    assert len(kills) >= profile.max_examples, "too few kills for this to mean anything"
    campaign.tell(
        "a mount beside a directory", rounds=profile.max_examples, faults=len(kills), losses=0
    )
