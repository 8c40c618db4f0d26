"""Joins store, vfs and fuse into one mount, in the foreground or as a daemon.

The daemon forks first and opens second: delta-rs keeps threads that do not survive a fork. The
parent stays until the mount answers a ``stat`` or the daemon has said why not.
"""

import errno
import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from pondfs import logs
from pondfs.confine import close_inherited, confine
from pondfs.errors import (
    CommitFailed,
    MountFailed,
    NotPermitted,
    PondError,
    PondLocked,
    SystemFailure,
    UsageError,
)
from pondfs.mountinfo import find_pond_at
from pondfs.options import MountOptions, check_places
from pondfs.supervisor import Supervisor
from pondfs.when import resolve

if TYPE_CHECKING:
    from pondfs.fuse.session import Session
    from pondfs.metrics import Metrics
    from pondfs.node import Version
    from pondfs.store import DeltaStore
    from pondfs.vfs.vfs import Vfs

log = logging.getLogger("pondfs.mount")

HANDOVER_S = 30.0
"""How long a new mount waits for a daemon that is unmounted and still makes its last commit."""

SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread may keep the interpreter while the trio thread wants it. Python's 5 ms
would add up to that to every request that comes during a commit."""

Report = Callable[[dict[str, Any]], None]

Reload = Callable[[], MountOptions]
"""Reads what is configured again. Raises: UsageError."""


def mount(options: MountOptions) -> int:
    """Mount a pond as *options* say.

    In the foreground this returns when the mount has ended; otherwise when it answers a stat.

    Returns: an exit code of mount(8).
    Raises: PondError.
    """
    _check(options)
    if options.foreground:
        return _serve(options, Supervisor(), _print_note)
    return _daemonize(options)


def serve_foreground(options: MountOptions, reload: Reload) -> int:
    """Mount and serve in the foreground; SIGHUP has *reload* say what is to be so from then on.

    Returns: 0, or 2 when what was pending was given up.
    Raises: PondError.
    """
    _check(options)
    return _serve(options, Supervisor(), _print_note, reload)


def _check(options: MountOptions) -> None:
    """Refuse what can't work, before anything is made. Raises: MountFailed, SystemFailure."""
    check_places(options.store, options.mountpoint)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise SystemFailure(
            "/dev/fuse can't be opened: sudo modprobe fuse, then sudo chmod 666 /dev/fuse"
        )


def _print_note(message: dict[str, Any]) -> None:
    if note := message.get("note"):
        print(f"mount.pond: {note}", file=sys.stderr)


def _daemonize(options: MountOptions) -> int:
    """Fork the daemon and wait for its word."""
    sys.stdout.flush()
    sys.stderr.flush()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _be_daemon(options, read_end, write_end)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end, encoding="utf-8") as pipe:
        for line in pipe:
            message = json.loads(line)
            if "error" in message:
                error = MountFailed(message["error"])
                print(f"mount.pond: {error}", file=sys.stderr)
                return int(message["exit_code"])
            if message.get("ready"):
                # The parent asks as well: this is the stat that counts.
                os.stat(options.mountpoint)
                return 0
            _print_note(message)
    raise MountFailed(f"the daemon ended before the mount was ready: see {_log_path(options)}")


def _be_daemon(options: MountOptions, read_end: int, write_end: int) -> NoReturn:
    """Leave the terminal, serve, and end the process."""
    code = 2
    try:
        os.close(read_end)
        os.setsid()
        # Not a session leader any more, so it can't get a terminal back by opening one.
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        close_inherited({write_end})
        with os.fdopen(write_end, "w", encoding="utf-8") as pipe:
            try:
                # What our caller's service manager waits for is not for us to say.
                code = _serve(options, Supervisor({}), lambda message: _send(pipe, message))
            except PondError as error:
                _send(pipe, {"error": str(error), "exit_code": error.exit_code})
                code = error.exit_code
            except OSError as error:
                where = f": {error.filename}" if error.filename else ""
                _send(pipe, {"error": f"{error.strerror}{where}", "exit_code": 32})
            except BaseException as error:
                log.exception("the daemon died")
                _send(
                    pipe,
                    {
                        "error": f"a bug in pondfs ({type(error).__name__}: {error}): "
                        f"see {_log_path(options)}",
                        "exit_code": 2,
                    },
                )
    finally:
        logging.shutdown()
        os._exit(code)


def _send(pipe: IO[str], message: dict[str, Any]) -> None:
    if pipe.closed:
        return
    try:
        print(json.dumps(message), file=pipe, flush=True)
        if message.get("ready"):
            pipe.close()
    except BrokenPipeError:
        log.debug("nobody waits for the mount any more")


def _log_path(options: MountOptions) -> str:
    return str(options.store / "_pond" / "log")


def _serve(
    options: MountOptions, supervisor: Supervisor, report: Report, reload: Reload | None = None
) -> int:
    """Open the store, mount it, and serve until the mount is gone and everything is durable."""
    os.umask(0o077)
    # Before the heavy imports, which start threads; they come after the fork for that as well.
    confine(os.fspath(options.store))
    import trio

    from pondfs.control.protocol import socket_path
    from pondfs.fuse.session import Session
    from pondfs.fuse.timings import timings
    from pondfs.metrics import Metrics
    from pondfs.requests import answer_anybody
    from pondfs.status import status_text
    from pondfs.vfs.base import VfsOptions
    from pondfs.vfs.past import METRICS, STATUS
    from pondfs.vfs.vfs import Vfs

    _raise_open_files()
    # Resolved now: once mounted, a look at the mountpoint would wait for ourselves.
    socket = socket_path(options.mountpoint)
    store = _open_store(options, socket)
    store.contents.limit_cache(options.cache_bytes)
    try:
        logs.set_up(
            options.log_level,
            options.store / "_pond" / "log",
            terminal=options.foreground,
            opener=_open_log,
            form=options.log_format,
            fields={
                "store": os.fspath(options.store),
                "mountpoint": os.fspath(options.mountpoint),
            },
        )
        for note in store.notes:
            log.warning("%s", note)
            report({"note": note})
        vfs = Vfs(
            store,
            VfsOptions(
                read_only=options.ro,
                commit_s=options.commit_s,
                max_pending_bytes=options.max_pending_bytes,
                atime=not options.ro and "noatime" not in options.kernel,
                acl=options.acl,
                ponddir=options.ponddir,
                journal=options.fsync == "journal",
                version=_past_version(store, options.at),
            ),
        )
        # What is loaded now stays: the collector need not look at it again. Nodes that pile up
        # are no garbage either, so it shall come rarely.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        vfs.past.texts[STATUS] = partial(status_text, vfs, options)
        metrics = Metrics(vfs, options, timings)
        vfs.past.texts[METRICS] = metrics.text
        session = Session(vfs, options, answer_anybody(vfs, options))
        session.mount()
        try:
            hang_up = None if reload is None else partial(_reload, vfs, store, supervisor, reload)
            saved = trio.run(
                _run, vfs, session, options, socket, report, supervisor, hang_up, metrics
            )
        finally:
            session.close()
    finally:
        store.close()
    log.info("unmounted %s at version %d", options.mountpoint, vfs.committer.version)
    return 0 if saved else 2


def _past_version(store: "DeltaStore", at: str | None) -> "Version | None":
    """Return the version to show; None for the newest. Raises: NoSuchVersion."""
    if at is None:
        return None
    versions = store.list_versions()[::-1]
    return resolve(
        at,
        [info.version for info in versions],
        [info.time_ns for info in versions],
        time.time_ns(),
        store.list_tags(),
    )


def _open_store(options: MountOptions, socket: Path) -> "DeltaStore":
    """Open the store, making it if that is allowed; wait for a daemon on its way out."""
    from pondfs import store

    path = options.store
    if not options.nocreate and not options.ro and not store.is_pond(path):
        store.create(path)
    if options.ro:
        from pondfs.control.reach import publish_journal

        missing = publish_journal(path)
        reader = store.open_reader(path)
        if missing:
            reader.notes.append(missing)
        return reader
    deadline = time.monotonic() + HANDOVER_S
    while True:
        try:
            return store.open_writer(
                path, mountpoint=os.fspath(options.mountpoint), socket=os.fspath(socket)
            )
        except PondLocked as error:
            holder = getattr(error, "mountpoint", None)
            if not holder or find_pond_at(holder) is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _open_log(path: str, flags: int) -> int:
    """Open the log; where it is not for us to write, that is an error as of the system."""
    from pondfs.store.lock import open_own

    try:
        return open_own(path, flags)
    except NotPermitted as refused:
        raise PermissionError(refused.errno, str(refused)) from None


def _raise_open_files() -> None:
    """Allow as many open files as the hard limit does: old data files are kept open for reading."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(
    vfs: "Vfs",
    session: "Session",
    options: MountOptions,
    socket: Path,
    report: Report,
    supervisor: Supervisor,
    hang_up: Callable[[], None] | None,
    metrics: "Metrics",
) -> bool:
    """Serve the kernel and the control socket.

    Returns: whether everything reached the disk.
    """
    import trio

    from pondfs.control import server
    from pondfs.control.protocol import failure
    from pondfs.metrics_server import serve_metrics
    from pondfs.requests import handlers
    from pondfs.status import status
    from pondfs.vfs.compactor import Compactor
    from pondfs.vfs.follow import Follower
    from pondfs.vfs.rebase import Rebaser
    from pondfs.vfs.upkeep import Upkeep

    saved = False

    def farewell() -> dict[str, Any]:
        if saved:
            return {"ok": True}
        return failure(vfs.committer.failure or CommitFailed("the daemon died", errno.EIO))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(vfs.committer.run)
        if options.follow:
            nursery.start_soon(Follower(vfs).run)
        nursery.start_soon(Rebaser(vfs).run)
        if options.compact and not options.ro:
            nursery.start_soon(Compactor(vfs, options.store).run)
        if not options.ro:
            nursery.start_soon(Upkeep(vfs).run)
        await nursery.start(
            lambda task_status: server.serve(
                socket,
                lambda: status(vfs, options),
                handlers(vfs, options),
                farewell=farewell,
                task_status=task_status,
            )
        )
        nursery.start_soon(_obey_signals, vfs, session, hang_up)
        if options.metrics is not None:
            nursery.start_soon(serve_metrics, metrics, *options.metrics)

        async def announce() -> None:
            await trio.to_thread.run_sync(session.check)
            log.info(
                "mounted %s on %s at version %d",
                options.store, options.mountpoint, vfs.committer.version,
            )  # fmt: skip
            report({"ready": True})
            supervisor.tell("READY=1")
            nursery.start_soon(supervisor.watch, vfs, os.fspath(options.mountpoint), session.device)

        async with trio.open_nursery() as serving:
            serving.start_soon(announce)
            await session.serve()
        nursery.start_soon(supervisor.ending, vfs)
        saved = await vfs.committer.close()
        if not saved:
            log.error(
                "abandoned by a second signal: %d bytes pending are lost", vfs.pending.memory_bytes
            )
        nursery.cancel_scope.cancel()
    return saved


async def _obey_signals(vfs: "Vfs", session: "Session", hang_up: Callable[[], None] | None) -> None:
    """SIGTERM and SIGINT end the mount in order; a second one gives up a failing commit.

    So does SIGHUP, the end of a terminal, where there is no file to read again.
    """
    import trio

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            ending = False
            async for number in signals:
                if number == signal.SIGHUP and hang_up is not None:
                    hang_up()
                    continue
                log.info("%s: unmounting", signal.Signals(number).name)
                if not ending:
                    ending = True
                    nursery.start_soon(session.detach)
                elif vfs.committer.failure is not None:
                    vfs.committer.abandon()


def _reload(vfs: "Vfs", store: "DeltaStore", supervisor: Supervisor, reload: Reload) -> None:
    """Take up what can be changed while mounted; a file that is wrong changes nothing."""
    supervisor.reloading()
    try:
        options = reload()
    except UsageError as error:
        log.error("nothing is changed: %s", error)
        supervisor.reloaded(f"nothing is changed: {error}")
        return
    vfs.committer.adjust(options.commit_s, options.max_pending_bytes)
    store.contents.limit_cache(options.cache_bytes)
    logging.getLogger().setLevel(options.log_level.upper())
    log.info("read the configuration again: commit=%g", options.commit_s)
    supervisor.reloaded("read the configuration again")
