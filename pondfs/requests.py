"""What the daemon does when it is asked, on its socket or through ``.pond/control``.

The socket answers the pond's owner and root, who may everything. Whoever else may read the mount
asks through ``.pond/control``, and gets as far as the permissions in the tree let that user.
"""

import os
import pathlib
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from pondfs.change import change_record, event_record
from pondfs.control.protocol import Message
from pondfs.control.server import Handler, Stream, answer
from pondfs.entry import NAME_MAX
from pondfs.errors import NoSuchPath, NoSuchVersion, NotPermitted, PondError, UsageError
from pondfs.node import ROOT, Version
from pondfs.oplog import Preview
from pondfs.options import MountOptions
from pondfs.status import whole_status
from pondfs.when import check_tag_name

if TYPE_CHECKING:
    from pondfs.vfs.base import Caller
    from pondfs.vfs.restore import Outcome
    from pondfs.vfs.vfs import Vfs

Path = tuple[bytes, ...]

LIGHT_NODES, LIGHT_VERSIONS = 200_000, 5_000
"""Up to this a comparison takes less than a tenth of a second, in a thread: a command that asks
gets its answer sooner than it could load what it takes to find it itself."""

MOST_OPERATIONS = 10_000
"""Pending operations told at most: making their paths holds up the mount for 10 us each."""

FilePath = pathlib.Path


def handlers(vfs: "Vfs", options: MountOptions) -> dict[str, Handler]:
    """Return the operations, by name. See ``docs/reference/control.md``."""
    asked = _Requests(vfs, options)
    return {
        "status": asked.status,
        "commit": asked.commit,
        "publish": asked.publish,
        "log": asked.log,
        "tags": asked.tags,
        "resolve": asked.resolve,
        "tag": asked.tag,
        "restore": asked.restore,
        "undo": asked.undo,
        "prune": asked.prune,
        "apply": asked.apply,
        "pending": asked.pending,
        "operations": asked.operations,
        "changes": asked.changes,
        "history": asked.history,
        "touching": asked.touching,
    }


class _Requests:
    def __init__(self, vfs: "Vfs", options: MountOptions) -> None:
        self._vfs = vfs
        self._options = options
        # What a preview keeps in memory is held once, however many ask.
        self._preview = trio.Semaphore(1)

    async def status(self, request: Message) -> Message:
        """Tell the daemon's state; ``whole``: and count all its store takes, which may be long."""
        return await whole_status(self._vfs, self._options, whole=bool(request.get("whole")))

    async def commit(self, request: Message) -> Message:
        """Commit what is pending; ``version`` is null when there was nothing."""
        committer = self._vfs.committer
        version = await committer.commit(str(request.get("message") or ""))
        last = committer.last
        if version is None or last is None:
            return {"version": None}
        return {
            "version": version,
            "operations": last.operations,
            "bytes": last.bytes,
            "duration_ms": last.duration_ms,
        }

    async def publish(self, request: Message) -> Message:
        """Have the table hold every version there is: those that are only journaled, too."""
        await self._vfs.committer.publish()
        return {"version": self._vfs.committer.published}

    async def log(self, request: Message) -> Message:
        """List the newest ``limit`` versions, newest first; all when it is null."""
        await self._vfs.committer.publish()
        from pondfs.store.log import read_versions
        from pondfs.vfs import offload

        limit = request.get("limit")
        if limit is not None:
            limit = _number(request, "limit")
        found = await offload.run(read_versions, self._options.store, limit)
        return {"versions": [info.record() for info in found]}

    async def tags(self, request: Message) -> Message:
        """List the tags with their versions."""
        from pondfs.vfs import offload

        return {"tags": await offload.run(self._vfs.store.list_tags)}

    async def resolve(self, request: Message) -> Message:
        """Say which version ``at`` means."""
        return {"version": await self._vfs.past.resolve(_text(request, "at"))}

    async def tag(self, request: Message) -> Message:
        """Put tag ``name`` on the version ``at`` means, or on what is now; or take it off."""
        from pondfs.vfs import access, offload

        vfs, name = self._vfs, _text(request, "name")
        vfs.may_change(ROOT)
        caller = self._caller(request)
        if not access.may(
            caller, vfs.nodes.get(ROOT), access.WRITE | access.SEARCH, use_acl=self._options.acl
        ):
            raise NotPermitted("only who may make files in the root of the pond may set tags")
        tags = await offload.run(vfs.store.list_tags)
        if request.get("delete"):
            root = vfs.nodes.get(ROOT)
            if not access.may_remove(caller, root, root):
                raise NotPermitted("the root of the pond is sticky: its owner may take tags off")
            if name not in tags:
                raise NoSuchVersion(f"there is no tag '{name}'")
            await vfs.past.remove_tag(os.fsencode(name))
            return {"name": name, "version": None}
        check_tag_name(name)
        if name in tags:
            raise UsageError(f"tag '{name}' is on version {tags[name]} already: take it off first")
        version = None
        if (at := request.get("at")) is not None:
            version = await vfs.past.resolve(str(at))
        return {"name": name, "version": await vfs.past.pin(name, version)}

    async def restore(self, request: Message) -> Message:
        """Put ``paths`` back as they were at ``at``, or copies of them to ``to``.

        Without ``at`` it is one path, as it was before its last change.
        """
        wanted = request.get("paths")
        if not isinstance(wanted, list) or not wanted:
            raise UsageError("the request has no 'paths'")
        paths = [_path(path) for path in wanted]
        if (at := request.get("at")) is not None:
            version = await self._vfs.past.resolve(str(at))
        else:
            version = await self._before_last_change(request, paths)
        to = request.get("to")
        outcome = await self._vfs.restorer.restore(
            version,
            paths,
            self._caller(request),
            into=None if to is None else _path(to),
            dry_run=bool(request.get("dry_run")),
        )
        return {"at": version, **_told(outcome)}

    async def _before_last_change(self, request: Message, paths: list[Path]) -> Version:
        """Return the version before the newest that touched the one path in *paths*.

        Raises: UsageError for several; NoSuchPath when no version has it, or none before.
        """
        from pondfs.store.lives import load_touching

        if len(paths) != 1:
            raise UsageError("several paths may have changed at several times: say --at")
        # What is pending is a change like any other.
        await self._vfs.committer.commit()
        versions = await self._vfs.past.list_versions()
        touching = await self._about_path(request, paths[0], load_touching)
        last = max(versions if touching is None else touching)
        if last == versions[0]:
            raise NoSuchPath(f"'/{_shown(paths[0])}' was never otherwise: nothing comes before it")
        return versions[versions.index(last) - 1]

    async def undo(self, request: Message) -> Message:
        """Take back what ``version`` changed; the newest if it is null."""
        committer = self._vfs.committer
        dry_run = bool(request.get("dry_run"))
        if (at := request.get("at")) is None:
            # What is pending is the newest change there is.
            await committer.commit()
            version = committer.published
        else:
            version = await self._vfs.past.resolve(str(at))
        outcome = await self._vfs.restorer.undo(
            version, self._caller(request), force=bool(request.get("force")), dry_run=dry_run
        )
        return {"undone": version, **_told(outcome)}

    async def prune(self, request: Message) -> Message:
        """Put the files that ``pond prune`` or ``compact`` has prepared in the place of others.

        Without ``request`` only remove what an earlier one had to leave.
        """
        from pondfs.vfs.swap import remove_pruned, swap_files

        self._vfs.may_change(ROOT)
        if self._caller(request).uid:
            raise NotPermitted("only the pond's owner and root may prune")
        if request.get("request") is None:
            return {"removed_bytes": await remove_pruned(self._vfs)}
        return {"removed_bytes": await swap_files(self._vfs, _text(request, "request"))}

    async def apply(self, request: Message) -> Message:
        """Do a transaction that began at version ``base`` and is in data files ``files``."""
        from pondfs.vfs.apply import apply

        self._vfs.may_change(ROOT)
        if self._caller(request).uid:
            raise NotPermitted("only the pond's owner and root may apply a transaction")
        base, files = Version(_number(request, "base")), request.get("files")
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise UsageError("the request has no 'files'")
        outcome = await apply(self._vfs, base, files, str(request.get("message") or ""))
        return {"version": outcome.version}

    async def changes(self, request: Message) -> Message:
        """Compare versions ``old`` and ``new`` below ``path``: what the caller may see of it.

        A ``new`` that is null is now, with what is pending. With ``light``, what would be much work
        is left to whoever asks and may read the store: ``changes`` is null then.
        """
        from pondfs.store.changes import load_changes
        from pondfs.vfs import offload

        past = self._vfs.past
        await self._vfs.committer.publish()
        old = Version(_number(request, "old"))
        if request.get("light") and not await self._is_light():
            return {"new": request.get("new"), "changes": None}
        preview = None
        committer = self._vfs.committer
        if request.get("new") is not None:
            new = Version(_number(request, "new"))
        else:
            async with committer.hold():
                preview = self._vfs.preview(contents=False)
                new = committer.published if preview is None else preview.version
        path = _path(request.get("path") or "")
        found = await offload.run(load_changes, self._options.store, old, new, path, preview)
        caller = self._caller(request)
        if caller.uid:
            before = self._rights(caller, await past.image(old))
            # Who may see what is pending goes by what the last version lets that user see.
            after = self._rights(caller, await past.image(min(new, committer.published)))
            found = [
                change
                for change in found
                if (change.before is None or before.may_see(_names(change.source or change.path)))
                and (change.after is None or after.may_see(_names(change.path)))
            ]
        return {"new": new, "changes": [change_record(change) for change in found]}

    async def pending(self, request: Message) -> Stream:
        """Tell the rows a commit would write now, its ``commit`` row aside, as an Arrow stream.

        Rows that are on disk already are in the data files ``staged``.
        """
        from pondfs.store.preview import to_stream

        if self._caller(request).uid:
            raise NotPermitted("only the pond's owner and root may read its rows")
        committer = self._vfs.committer
        await self._preview.acquire()
        try:
            async with committer.hold():
                preview = self._vfs.preview(contents=True)
                if preview is None:
                    preview = Preview(Version(committer.version + 1), 0, [], [], frozenset())
        except BaseException:
            self._preview.release()
            raise
        fields = {
            "version": preview.version,
            "rows": len(preview.rows),
            "staged": [file.name for file in preview.staged],
        }
        return Stream(fields, to_stream(preview), self._preview.release)

    async def operations(self, request: Message) -> Message:
        """List what is pending at or below ``path``, by path: what the caller may see of it."""
        from pondfs.vfs.operations import list_operations

        top = b"/".join(_path(request.get("path") or ""))
        caller = self._caller(request)
        found = [
            operation
            for operation in islice(list_operations(self._vfs), MOST_OPERATIONS)
            if _is_below(operation.path, top)
            or (operation.source is not None and _is_below(operation.source, top))
        ]
        if caller.uid:
            await self._vfs.committer.publish()
            # As the newest version lets that user see it; what is in a new directory is not told.
            image = await self._vfs.past.image(self._vfs.committer.published)
            rights = self._rights(caller, image)
            found = [
                operation
                for operation in found
                if rights.may_see(_names(operation.path))
                and (operation.source is None or rights.may_see(_names(operation.source)))
            ]
        return {
            "operations": [
                {
                    "op": operation.op,
                    "path": os.fsdecode(operation.path),
                    "from": None if operation.source is None else os.fsdecode(operation.source),
                    "type": operation.file_type,
                    "size": operation.size,
                    "bytes": operation.bytes,
                    "time_ns": operation.time_ns,
                }
                for operation in found
            ]
        }

    async def _is_light(self) -> bool:
        """Return whether looking at all rows takes a moment only, in which others hardly wait."""
        nodes, versions = self._vfs.nodes.count(), len(await self._vfs.past.list_versions())
        return nodes <= LIGHT_NODES and versions <= LIGHT_VERSIONS

    async def history(self, request: Message) -> Message:
        """Tell the life of the file at ``path``."""
        from pondfs.store.lives import load_history

        path = _path(request.get("path") or "")
        found = await self._about_path(request, path, load_history)
        return {"events": [event_record(event) for event in found]}

    async def touching(self, request: Message) -> Message:
        """Say which versions touched ``path``; null for all."""
        from pondfs.store.lives import load_touching

        path = _path(request.get("path") or "")
        found = await self._about_path(request, path, load_touching)
        return {"versions": None if found is None else sorted(found)}

    async def _about_path(self, request: Message, path: Path, ask: Callable[..., Any]) -> Any:
        from pondfs.vfs import offload

        caller = self._caller(request)
        await self._vfs.committer.publish()
        if caller.uid and not await self._may_know(caller, path):
            raise NotPermitted(f"'/{_shown(path)}' is in a directory you may not read")
        return await offload.run(ask, self._options.store, path)

    async def _may_know(self, caller: "Caller", path: Path) -> bool:
        """Return whether a user may know about a path: by the last version that has it."""
        from pondfs.store.lives import find_last
        from pondfs.vfs import offload

        past, newest = self._vfs.past, self._vfs.committer.published
        if not self._rights(caller, await past.image(newest)).may_see_parent(path):
            return False
        try:
            last = await offload.run(find_last, self._options.store, path)
        except NoSuchPath:
            return True  # no version has it
        return bool(self._rights(caller, await past.image(last)).may_see(path))

    def _caller(self, request: Message) -> "Caller":
        """Return on whose behalf; the owner of the pond may what root may."""
        from pondfs.vfs.base import Caller

        peer = request["peer"]
        if peer["uid"] in (0, os.geteuid()):
            return Caller(0, 0)
        return Caller(peer["uid"], peer["gid"], groups=frozenset(peer["groups"]))

    def _rights(self, caller: "Caller", image: Any) -> Any:
        from pondfs.vfs.rights import Rights

        return Rights(caller, image, use_acl=self._options.acl)


def answer_anybody(
    vfs: "Vfs", options: MountOptions
) -> Callable[[bytes, Message], Awaitable[bytes]]:
    """Return what answers the lines that are written to ``.pond/control``."""

    async def refuse(request: Message) -> Message:
        raise NotPermitted("only the pond's owner and root may read its rows: on the socket")

    known = {**handlers(vfs, options), "pending": refuse}

    async def answer_line(line: bytes, peer: Message) -> bytes:
        return await answer(line, peer, known)

    return answer_line


def answer_unmounted(store: FilePath, op: str, fields: Message) -> Message:
    """Do *op* on a pond that is not mounted, as its writer, and commit.

    Raises: PondLocked when another process has it; as the operation.
    """
    from pondfs.store import open_writer
    from pondfs.vfs.base import VfsOptions
    from pondfs.vfs.vfs import Vfs

    options = MountOptions(store=store, mountpoint=store, xattr=True, acl=True)
    opened = open_writer(store, mountpoint="", socket="")
    try:
        vfs = Vfs(opened, VfsOptions(acl=True))

        async def main() -> Message | PondError | OSError:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(vfs.committer.run)
                try:
                    peer = {"uid": os.geteuid(), "pid": os.getpid()}
                    reply = await handlers(vfs, options)[op]({**fields, "peer": peer})
                    assert not isinstance(reply, Stream), "an unmounted pond has nothing pending"
                    return reply
                except (PondError, OSError) as error:
                    return error  # a nursery would wrap it in a group
                finally:
                    nursery.cancel_scope.cancel()

        answered = trio.run(main)
        if isinstance(answered, Exception):
            raise answered
        return answered
    finally:
        opened.close()


def _told(outcome: "Outcome") -> Message:
    return {
        "version": outcome.version,
        "changes": [
            {"change": letter, "path": _shown(path), "from": None if was is None else _shown(was)}
            for letter, path, was in outcome.changes
        ],
    }


def _shown(path: Path) -> str:
    return os.fsdecode(b"/".join(path))


def _text(request: Message, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the request has no '{key}'")
    return value


def _number(request: Message, key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"the request needs a number as '{key}'")
    return value


def _is_below(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")


def _names(path: bytes) -> Path:
    return tuple(path.split(b"/"))


def _path(text: object) -> Path:
    """Return the names of a path from the pond's root. Raises: UsageError, NoSuchPath."""
    if not isinstance(text, str):
        raise UsageError("a path is text")
    try:
        names = tuple(name for name in os.fsencode(text).split(b"/") if name not in (b"", b"."))
    except UnicodeEncodeError:
        raise UsageError("a path is text as os.fsdecode makes it") from None
    if b"\0" in b"".join(names) or any(len(name) > NAME_MAX for name in names):
        raise UsageError(f"no file can have the name '{text[:80]}…'")
    if b".." in names:
        raise NoSuchPath(f"'{text}' leads out of the pond")
    return names
