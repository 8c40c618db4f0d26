"""A session of queries over one pond."""

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from datafusion import (
    Expr,
    RuntimeEnvBuilder,
    SessionConfig,
    SessionContext,
    SQLOptions,
    udtf,
)
from datafusion.catalog import SchemaProvider, Table

from pondfs.node import Version
from pondfs.query import functions
from pondfs.query.dataset import Filter, LoadedTable, PondTable
from pondfs.query.oplog import SCHEMA_WITH_PENDING, Oplog, Stats
from pondfs.query.pond import Pond
from pondfs.query.rewrite import rewrite
from pondfs.query.spill import Spill
from pondfs.query.tree import ENTRIES, EXTENTS, NODES, TreeTables
from pondfs.query.trouble import explain
from pondfs.store.mounted_tree import MountedTree
from pondfs.store.preview import PendingRows
from pondfs.store.resolve import resolve_version
from pondfs.store.tree import StoredTree

if TYPE_CHECKING:
    from pondfs.query.contents import Contents

MEMORY_BYTES = 256 << 20
"""What DataFusion may hold for sorting, grouping and joining; beyond, it uses the disk."""

PARTS = min(os.cpu_count() or 1, 4)
"""Parts of a query that run side by side. Each of its sorts has its share of the memory, of which
10 MB are set aside for the end, so more parts would leave too little."""

BATCH_ROWS = 8192

OPERATIONS: Filter = ~pc.field("op").isin(["commit", "extent", "touch"]) & ~(
    pc.field("name").is_null() & pc.field("op").isin(["create", "unlink"])
)
"""The rows that say what somebody did: one for each operation, whatever rows it took."""


_FULL_HASH_JOIN = re.compile("Resources exhausted.*HashJoin", re.DOTALL)
"""A join by hash keeps one side in memory; one by sorting goes on on disk."""


class Result:
    """What a query gives: its schema, and its batches as they come. Iterate it once.

    Attributes:
        schema: of every batch.
        stats: what reading the oplog skipped; whole when all batches are read.
    """

    def __init__(
        self,
        start: Callable[[bool], Any],
        schema: pa.Schema,
        stats: Stats,
        translate: Callable[..., BaseException],
    ) -> None:
        self.schema = schema
        self.stats = stats
        self._start = start
        self._translate = translate

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for found in self._streamed():
                batch = found.to_pyarrow()
                if batch.schema != self.schema:
                    # The optimizer may learn that there are no nulls, after the schema was told.
                    batch = pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)
                yield batch
        except GeneratorExit:
            raise
        except BaseException as error:
            raise self._translate(error) from None
        if self.schema.names == ["plan_type", "plan"] and self.stats.files:
            yield pa.RecordBatch.from_arrays(
                [pa.array(["oplog"]), pa.array([self.stats.line()])], schema=self.schema
            )

    def _streamed(self) -> Iterator[Any]:
        has_some = False
        try:
            for batch in self._start(False):
                has_some = True
                yield batch
        except Exception as error:
            if has_some or not _FULL_HASH_JOIN.search(str(error)):
                raise
        else:
            return
        yield from self._start(True)

    def table(self) -> pa.Table:
        """Return all of it. Raises: as iterating."""
        return pa.Table.from_batches(list(self), self.schema)


class Session:
    """Queries over one pond as it was found. One query at a time; from any thread.

    Nothing but reading is possible. While it is open no data file is removed.

    Attributes:
        store: the pond's directory.
        at: the version that the tree is shown at; None: the newest, and what is pending.
        live: where the pond is mounted, if files are to be read as they are now.
        context: DataFusion's.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        at: str | None = None,
        pending: PendingRows | None = None,
        live: Path | None = None,
    ) -> None:
        """Open the pond in *store*.

        Args:
            store: its directory.
            at: show the tree, the rows and the log as they were at this version, time or tag.
            pending: rows of the coming version; of no account with *at*.
            live: the mountpoint.
        Raises: NotAPond, NoSuchVersion, StoreDamaged, OSError.
        """
        self.live = live
        self._now_ns = time.time_ns()
        self._failures: list[BaseException] = []
        self._trees: dict[Version | None, StoredTree | MountedTree] = {}
        self._stats = Stats()
        self._spill: Spill | None = None
        self._pond = Pond(store, None if at is not None else pending)
        self.store = self._pond.store
        try:
            self.at = None if at is None else self.resolve(at)
            self._tables = _Tables(self.failed)
            self._spill = Spill()
            self.context = _context(self._spill.path)
            self.context.catalog().register_schema("public", self._tables)
            self._register()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the pond. Calling it twice is harmless."""
        for tree in self._trees.values():
            tree.close()
        self._trees.clear()
        self._pond.close()
        self.remove_spill()

    def remove_spill(self) -> None:
        """Remove what is on the disk for its queries; from any thread, when the process ends."""
        if self._spill is not None:
            self._spill.remove()

    # --- queries ---

    def sql(self, text: str) -> Result:
        """Plan a query; it runs when the result is read.

        Raises: UsageError saying what is wrong with *text*; what a table function raises.
        """
        self._failures.clear()
        self._stats = stats = Stats()

        def translate(error: BaseException) -> BaseException:
            return self._failures[0] if self._failures else explain(error, text)

        def plan() -> Any:
            return self.context.sql_with_options(rewrite(text), _READ_ONLY)

        def start(by_sorting: bool) -> Any:
            try:
                if by_sorting:
                    stats.clear()
                    self.context.sql("SET datafusion.optimizer.prefer_hash_join = false")
                    return plan().execute_stream()
                return frame.execute_stream()
            except Exception as error:
                if self._failures or "Python error" not in str(error):
                    raise
            # Of a filter that is null throughout and another DataFusion can't make one for us
            # ("BooleanScalar & Expression"). It filters by itself then, from here on; without the
            # other rule, as outer joins with what is empty would come out wrong.
            self.context.remove_optimizer_rule("push_down_filter")
            self.context.remove_optimizer_rule("propagate_empty_relation")
            return plan().execute_stream()

        try:
            frame = plan()
            return Result(start, frame.schema(), stats, translate)
        except BaseException as error:
            raise translate(error) from None

    def failed(self, error: BaseException) -> None:
        """Note what went wrong in a table of ours: DataFusion only has a text of it."""
        self._failures.append(error)

    # --- what tables are made of ---

    def resolve(self, text: str) -> Version:
        """Return the version *text* means, of those there were. Raises: NoSuchVersion."""
        return resolve_version(self.store, text, self._now_ns, self._pond.newest)

    def tree(self, at: str | None = None) -> StoredTree | MountedTree:
        """Return the tree at *at*; None: the session's own, from the mount if there is one.

        It is the session's: closed with it. It tells no extended attributes.

        Raises: NoSuchVersion, StoreDamaged, OSError.
        """
        version = self.at if at is None else self.resolve(at)
        if version not in self._trees:
            self._trees[version] = self._open_tree(version)
        return self._trees[version]

    def _open_tree(self, version: Version | None) -> StoredTree | MountedTree:
        if version is None and self.live is not None:
            return _open_mounted(self.live)
        # With all that writes a pond behind it, which few queries need.
        from pondfs.store.delta import DeltaStore

        store = DeltaStore.open_reader(self.store)
        try:
            # Only committed bytes can be read from the store.
            image = self._pond.image(self._pond.newest if version is None else version)
            return StoredTree(store, image, lambda text: None)
        except BaseException:
            store.close()
            raise

    # --- registration ---

    def _register(self) -> None:
        only = None if self.at is None else pc.field("version") <= pc.scalar(self.at)
        operations = OPERATIONS if only is None else only & OPERATIONS
        oplog = Oplog(self._pond, PARTS)
        for name, rows in (("oplog", only), ("oplog_entries", operations)):
            self._add(name, SCHEMA_WITH_PENDING, self._oplog_pieces(oplog, rows))
        tree = TreeTables(self._pond, self.at)
        self._add("nodes", NODES, LoadedTable(NODES, tree.nodes, PARTS))
        self._add("directory_entries", ENTRIES, LoadedTable(ENTRIES, tree.entries, PARTS))
        self._add("extents", EXTENTS, LoadedTable(EXTENTS, tree.extents, PARTS))
        self._add(
            "versions",
            functions.VERSIONS,
            LoadedTable(functions.VERSIONS, lambda _: self._versions),
        )
        self._add(
            "tags",
            functions.TAGS,
            LoadedTable(functions.TAGS, lambda _: functions.tags_table(self._pond.tags)),
        )
        self.add_function("nodes_at", self._nodes_at)
        self.add_function("directory_entries_at", self._entries_at)
        self.add_function("history", self._history)
        self.add_function("changes", self._changes)
        self.add_function("read", lambda *args: self._files.read(*args))
        self._tables.find_file = lambda name: self._files.table(name)

    @cached_property
    def _files(self) -> "Contents":
        # Reading CSV and JSON is a library of its own: imported when somebody asks for a file.
        from pondfs.query.contents import Contents

        return Contents(self)

    @cached_property
    def _versions(self) -> pa.Table:
        up_to = self._pond.newest if self.at is None else self.at
        return functions.versions_table(self.store, up_to)

    def _oplog_pieces(self, oplog: Oplog, only: Filter) -> Callable[[Filter], Any]:
        return lambda asked: oplog.pieces(only, self._stats)(asked)

    def _add(self, name: str, schema: pa.Schema, pieces: Callable[[Filter], Any]) -> None:
        self._tables.known[name] = Table(PondTable(schema, pieces, self.failed))

    def add_function(self, name: str, function: Callable[..., Any]) -> None:
        """Make *function*, of expressions, a table function; what it raises comes out as it is."""

        def call(*args: Expr) -> Any:
            try:
                return function(*args)
            except BaseException as error:
                self.failed(error)
                raise

        self.context.register_udtf(udtf(call, name))

    def _table(self, schema: pa.Schema, load: Callable[[frozenset[str]], pa.Table]) -> Table:
        return Table(PondTable(schema, LoadedTable(schema, load), self.failed))

    def _nodes_at(self, *args: Expr) -> Table:
        (when,) = functions.texts("nodes_at", args, "'VERSION OR TIME'")
        return self._table(NODES, TreeTables(self._pond, self.resolve(when)).nodes)

    def _entries_at(self, *args: Expr) -> Table:
        (when,) = functions.texts("directory_entries_at", args, "'VERSION OR TIME'")
        return self._table(ENTRIES, TreeTables(self._pond, self.resolve(when)).entries)

    def _history(self, *args: Expr) -> Table:
        (path,) = functions.texts("history", args, "'/PATH'")
        return self._table(
            functions.HISTORY,
            lambda _: functions.history_table(self.store, path, self.at, self._pond.files),
        )

    def _changes(self, *args: Expr) -> Table:
        texts = functions.texts("changes", args, "'VERSION OR TIME'", "'VERSION OR TIME'")
        old, new = map(self.resolve, texts)
        return self._table(
            functions.CHANGES,
            lambda _: functions.changes_table(self.store, old, new, self._pond.files),
        )


class _Tables(SchemaProvider):
    """The tables by name, and files of the pond by their path in quotes."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self.known: dict[str, Table] = {}
        self.find_file: Callable[[str], Table | None] = lambda name: None

    @property
    def table_names(self) -> list[str]:  # type: ignore[override]  # called without parentheses
        return list(self.known)

    def table(self, name: str) -> Table | None:
        try:
            return self.find_file(name) if name.startswith("/") else self.known.get(name)
        except BaseException as error:
            self._failed(error)
            raise

    def table_exist(self, name: str) -> bool:
        return name in self.known or name.startswith("/")


def _open_mounted(mountpoint: Path) -> MountedTree:
    fd = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return MountedTree(fd, "the pond", os.fsencode(mountpoint))


_READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)


def _context(spill: str) -> SessionContext:
    config = (
        SessionConfig()
        .with_information_schema(True)
        .with_target_partitions(PARTS)
        .with_batch_size(BATCH_ROWS)
    )
    runtime = RuntimeEnvBuilder().with_disk_manager_specified(spill)
    return SessionContext(config, runtime.with_fair_spill_pool(MEMORY_BYTES))
