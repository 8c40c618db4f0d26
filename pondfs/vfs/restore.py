"""Making paths be as they were, on the live tree: restore and undo.

What is pending becomes a version first, so that nothing is lost and the restore can be taken back
exactly. Then a plan is made beside the running tree (`plan`), the new nodes get their bytes while
nobody sees them, and everything is put in its place between two requests of the kernel. No version
is made in between, so one version has all of it.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from pondfs.errors import (
    CommitFailed,
    Conflict,
    NoSuchPath,
    NoSuchVersion,
    NotPermitted,
    UsageError,
)
from pondfs.interfaces import Image, Tree
from pondfs.node import ROOT, NodeId, Version
from pondfs.vfs import offload
from pondfs.vfs.base import Caller
from pondfs.vfs.execute import Executor, StalePlanError, Work
from pondfs.vfs.plan import (
    Path,
    Plan,
    conflicts,
    plan_copies,
    refuse_cycles,
    show,
    walk,
)
from pondfs.vfs.planner import Planner, Scope
from pondfs.vfs.rights import Rights, check_rights

if TYPE_CHECKING:
    from pondfs.vfs.vfs import Vfs

ATTEMPTS = 5
"""How often a plan is made anew because somebody changed what it is about."""


@dataclass(slots=True)
class Outcome:
    """What a restore did, or would do.

    Attributes:
        version: the version it made; None when nothing had to be done, or in a dry run.
        changes: as of `Plan.describe`.
    """

    version: Version | None
    changes: list[tuple[str, Path, Path | None]]


class Restorer:
    """Carries out restores on one tree, one after the other.

    Attributes:
        lock: held meanwhile, so that no data file is exchanged under it.
    """

    def __init__(self, vfs: "Vfs") -> None:
        self._vfs = vfs
        self._executor = Executor(vfs)
        self.lock = trio.Lock()

    async def restore(
        self,
        version: Version,
        paths: Collection[Path],
        caller: Caller,
        *,
        into: Path | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make *paths*, each with all below it, be as they were at *version*.

        Args:
            version: an existing version.
            paths: from the root; the empty path is the whole tree.
            caller: on whose behalf; 0 may everything.
            into: instead put copies there: in this directory, or under this name if nothing has it.
            dry_run: only say what would be done.
        Durability: all of it is one version, on disk on return.
        Raises: NoSuchVersion; NoSuchPath; NotPermitted; Conflict when something is in the way or
            keeps changing; UsageError; FileError EROFS, ENOSPC; CommitFailed; StoreDamaged.
        """

        async def make(now: Image) -> Work:
            old = await self._image(version)
            seen = Rights(caller, old, use_acl=self._vfs.options.acl)
            for path in paths:
                if caller.uid and not seen.may_see_parent(path):
                    raise NotPermitted(f"{show(path)}: you may not look into its directory")
                if walk(old, path) is None:
                    raise NoSuchPath(f"version {version} has no {show(path)}")
            if into is not None:
                return Work(plan_copies(old, now, paths, into), old)
            return Work(await self._plan(old, now, Scope(whole=paths)), old)

        # No path in it: who may read the log need not be able to see them.
        message = f"restore from version {version}"
        return await self._carry_out(make, caller, message, dry_run=dry_run)

    async def undo(
        self, version: Version, caller: Caller, *, force: bool = False, dry_run: bool = False
    ) -> Outcome:
        """Take back what *version* changed.

        Args:
            version: an existing version; not the first.
            caller: on whose behalf.
            force: also where later versions changed the same paths.
            dry_run: only say what would be done.
        Raises: Conflict naming the paths that changed again; as `restore`.
        """

        async def make(now: Image) -> Work:
            before = await self._before(version)
            if before != version - 1 and not force:
                raise Conflict(
                    f"version {version - 1} was pruned, so undoing {version} would take back all "
                    f"that came after version {before}; --force does it"
                )
            old = await self._image(before)
            then = await self._image(version)
            plan = await self._plan(old, then, Scope(whole=[()]))
            changed = await offload.run(lambda: sorted(set(conflicts(plan, then, now))))
            if not changed:
                await offload.run(_carry_over, plan, then, now)
                return Work(plan, old)
            if not force:
                raise Conflict(
                    f"later versions changed what version {version} did: "
                    f"{self._name(changed, caller, then, now)}; --force takes it back all the same"
                )
            return Work(await self._plan(old, now, Scope(alone=plan.paths())), old)

        return await self._carry_out(make, caller, f"undo of version {version}", dry_run=dry_run)

    async def apply(
        self, wanted: Tree, then: Image, touched: Collection[NodeId], message: str
    ) -> Outcome:
        """Change what is different in *wanted* from *then*, for who may everything.

        Args:
            wanted: how it shall be.
            then: an existing version; what came after it stays.
            touched: what differs, as of `Store.find_touched`.
            message: of the version.
        Raises: Conflict naming the paths that others changed since; as `restore`.
        """
        caller = Caller(0, 0)

        async def make(now: Image) -> Work:
            scope = Scope(whole=[()])
            plan = await offload.run(
                lambda: Planner(self._vfs.store, wanted, then, scope, touched).run()
            )
            changed = await offload.run(lambda: sorted(set(conflicts(plan, then, now))))
            if changed:
                raise Conflict(
                    "others changed what the transaction did, and nothing of it was done: "
                    f"{self._name(changed, caller, then, now)}: begin again"
                )
            await offload.run(_carry_over, plan, then, now)
            return Work(plan, wanted, exact=True)

        return await self._carry_out(make, caller, message, before="")

    def _name(self, paths: list[Path], caller: Caller, *images: Image) -> str:
        """Return some of *paths* for a message, as far as the caller may see them."""
        rights = [Rights(caller, image, use_acl=self._vfs.options.acl) for image in images]
        shown = [
            show(path)
            for path in paths
            if not caller.uid or any(right.may_see(path) for right in rights)
        ][:5]
        more = len(paths) - len(shown)
        return ", ".join(
            [*shown, *([f"{more} more" if shown else f"{more} paths"] if more else [])]
        )

    # --- the steps ---

    async def _plan(self, old: Image, now: Image, scope: Scope) -> Plan:
        return await offload.run(lambda: Planner(self._vfs.store, old, now, scope).run())

    async def _carry_out(
        self,
        make: Callable[[Image], Awaitable[Work]],
        caller: Caller,
        message: str,
        *,
        before: str | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make a plan and carry it out as one version with *message*.

        *before* is the message of the version that what is pending becomes first.
        """
        before = f"before {message}" if before is None else before
        vfs = self._vfs
        vfs.may_grow(ROOT)
        async with self.lock:
            for _ in range(ATTEMPTS):
                await vfs.committer.commit(before)
                now = await self._image(vfs.committer.published)
                work = await make(now)
                self._executor.refuse_places(work.plan)
                check_rights(work.plan, work.old, now, caller, use_acl=vfs.options.acl)
                changes = work.plan.describe()
                if dry_run or work.empty:
                    return Outcome(None, changes)
                try:
                    async with vfs.committer.hold():
                        stale = await self._executor.execute(work)
                except StalePlanError:
                    continue
                # No await since: the commit that is asked for here is the one that has it all.
                failure: CommitFailed | None = None
                version = None
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(vfs.invalidate, stale)
                    try:
                        version = await vfs.committer.commit(message)
                    except CommitFailed as error:
                        failure = error  # a nursery would wrap it in a group
                if failure is not None:
                    raise failure
                return Outcome(version, changes)
        raise Conflict("what is to be changed keeps changing: try again")

    async def _image(self, version: Version) -> Image:
        return await self._vfs.past.image(version)

    async def _before(self, version: Version) -> Version:
        versions = await self._vfs.past.list_versions()
        if version not in versions:
            raise NoSuchVersion(f"there is no version {version}: see pond log")
        at = versions.index(version)
        if not at:
            raise UsageError(f"version {version} is the oldest there is: nothing comes before it")
        return versions[at - 1]


def _carry_over(plan: Plan, then: Image, now: Image) -> None:
    """Make a plan that was made for *then*, and that nothing speaks against, one for *now*.

    Raises: FileError EINVAL when directories have moved so that it would close a circle.
    """
    refuse_cycles(plan, now)
    plan.base = now.version
    # Where more has changed since, the old time of a directory would be wrong.
    plan.times = [
        (node, old)
        for node, old in plan.times
        if now.load_entries(node).keys() == then.load_entries(node).keys()
    ]
