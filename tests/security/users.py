"""Two ordinary users, each with a home, who mount ponds and look at each other's.

They are real users: fusermount3 wants to know their names. Made when they are missing, without a
login, and left. They run the very commands, as their own processes. What those need (Python, its
packages, pondfs) is in root's home on some machines, where no other user may look: it is bound,
read-only, into a directory that everybody can get to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mount import harness
from tests.mount.harness import require, run

NAMES = ("pond-alice", "pond-bob")
SHARED_GID = 60_003  # nobody's

_REPOSITORY = Path(__file__).resolve().parents[2]
_RUN = "import sys; sys.argv[0] = {name!r}; from pondfs.cli{module} import main; sys.exit(main())"
_MODULES = {"pond": "", "mount.pond": ".mount_pond", "umount.pond": ".umount_pond"}


_SEVERAL = """
import contextlib, io, json, os, sys
from pondfs.cli import pond
from pondfs.cli.run import run
os.umask(int(sys.argv[2]))
for args in json.loads(sys.argv[1]):
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(pond, "pond", args)
    print(json.dumps([code, *(one.buffer.getvalue().decode() for one in (out, err))]))
"""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def is_refusal(self) -> bool:
        """Whether it failed with one clear line."""
        return self.code != 0 and self.err.count("\n") == 1 and "bug" not in self.err


@dataclass(frozen=True)
class Stage:
    """A directory that everybody can get to, with what it takes to run pondfs."""

    base: Path

    @property
    def python(self) -> Path:
        return self.base / "python" / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"

    @property
    def path(self) -> str:
        return f"{self.base / 'packages'}:{self.base / 'source'}"


@dataclass(frozen=True)
class User:
    """A user, who has a home and is in no group but their own, and *groups*."""

    stage: Stage
    name: str
    groups: tuple[int, ...] = ()

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    @property
    def gid(self) -> int:
        return pwd.getpwnam(self.name).pw_gid

    @property
    def home(self) -> Path:
        return self.stage.base / self.name

    @property
    def env(self) -> dict[str, str]:
        # Without XDG_RUNTIME_DIR, which nobody made for them: sockets are in /tmp.
        return {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": self.stage.path,
            "LD_LIBRARY_PATH": str(self.stage.base / "python" / "lib"),  # of a Python with its own
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(
        self, *args: str | Path, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any program as this user."""
        return run(
            [*args], check=check, env=self.env, cwd=cwd or self.home,
            user=self.uid, group=self.gid, groups=self.groups,
        )  # fmt: skip

    def sh(self, script: str, *, check: bool = True) -> str:
        """Return what a shell script of this user's prints; ``umask 022``."""
        done = self.run("sh", "-c", f"umask 022; {script}", check=check)
        return done.stdout + ("" if check else done.stderr)

    def python(self, program: str, *args: str | Path) -> str:
        """Return what a Python program of this user's prints."""
        return self.run(self.stage.python, "-c", program, *args).stdout

    def command(
        self, name: str, *args: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pond``, ``mount.pond`` or ``umount.pond`` as this user."""
        program = _RUN.format(name=name, module=_MODULES[name])
        return self.run(self.stage.python, "-P", "-c", program, *args, check=check)

    def pond(self, *args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``pond …`` as this user."""
        return self.command("pond", *args, check=check)

    def ponds(self, *commands: Sequence[str], umask: int = 0o022) -> list[Said]:
        """Run several ``pond …`` in one process, which takes a tenth of the time."""
        lines = self.python(_SEVERAL, json.dumps(commands), str(umask)).splitlines()
        return [Said(*json.loads(line)) for line in lines]

    def mount(self, store: Path, mnt: Path, *options: str) -> None:
        """Mount as this user, by fusermount3."""
        extra = ["-o", ",".join(options)] if options else []
        self.command("mount.pond", store, mnt, *extra)
        assert harness.is_mounted(mnt)

    def refuses(self, *args: str | Path) -> str:
        """Run ``pond …``, which must fail with one line and no traceback; return that line."""
        done = self.pond(*args, check=False)
        assert done.returncode != 0, done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert "bug" not in lines[0], lines[0]
        return lines[0]


def reads(user: User, *paths: Path) -> dict[str, str]:
    """Return what *user* gets of each path: its text, or the name of the errno."""
    program = (
        "import errno, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        print(repr(open(path).read()))\n"
        "    except OSError as error:\n"
        "        print(repr(errno.errorcode[error.errno]))\n"
    )
    lines = user.python(program, *paths).splitlines()
    return {str(path): str(eval(line)) for path, line in zip(paths, lines, strict=True)}


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """Yield a stage with the users' homes, and with allow_other for everybody."""
    assert os.geteuid() == 0, "tests about other users need root: run them with sudo"
    base = Path(tempfile.mkdtemp(prefix="pond-users-"))
    base.chmod(0o755)
    conf = Path("/etc/fuse.conf")
    assert conf.is_file(), "what is bound over it needs a file there: fuse3 has one"
    is_bound = False
    try:
        for name, place in (
            ("python", Path(sys.base_prefix)),
            ("packages", Path(sysconfig.get_path("purelib"))),
            ("source", _REPOSITORY),
        ):
            _bind(place, base / name)
        device = Path("/dev/fuse")
        if device.stat().st_mode & 0o666 != 0o666:
            device.chmod(0o666)  # as udev has it; where there is none, it may be root's
        allowing = base / "fuse.conf"
        allowing.write_text("user_allow_other\n")
        _bind(allowing, conf)
        is_bound = True
        for name in NAMES:
            uid = _make_user(name)
            home = base / name
            home.mkdir(mode=0o755)
            os.chown(home, uid, pwd.getpwnam(name).pw_gid)
        yield Stage(base)
    finally:
        harness.sweep(base)
        if is_bound:  # else it would be another worker's
            run([require("umount"), "-l", conf], check=False)
        # Nothing of what was bound is below it any more; it was read-only, at that.
        run(["rm", "-rf", "--one-file-system", base])


def _make_user(name: str) -> int:
    # Another worker may be at it. Everybody may make files there, so no link is followed.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open("/run/lock/pond-tests", flags, 0o600), "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            pwd.getpwnam(name)
        except KeyError:
            run([require("useradd"), "--system", "--user-group", "--no-create-home",
                 "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name])  # fmt: skip
    return pwd.getpwnam(name).pw_uid


def _bind(place: Path, where: Path) -> None:
    if place.is_dir():
        where.mkdir()
    run([require("mount"), "--bind", place, where])
    run([require("mount"), "-o", "remount,bind,ro", where])


def modes(top: Path) -> Sequence[tuple[str, int]]:
    """Return every file below *top*, itself included, with its permission bits."""
    found = [(".", top.stat().st_mode & 0o7777)]
    found += [
        (str(path.relative_to(top)), path.lstat().st_mode & 0o7777)
        for path in sorted(top.rglob("*"))
    ]
    return found
