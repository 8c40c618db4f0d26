"""The store: a pond's durable half on a local disk."""

import logging
import os
import resource
import stat
import time
from collections.abc import Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from pondfs.errors import NoSuchVersion, NotAPond, NotPermitted, StoreDamaged
from pondfs.extent import Content, Extent
from pondfs.figures import CacheCounts, Figures
from pondfs.node import ROOT, NodeId, Version
from pondfs.oplog import Cut, Row, Settled, Summary, VersionInfo
from pondfs.store import commit, journal, prune_swap, table
from pondfs.store.compact import choose_small
from pondfs.store.content import ContentReader, DataFile
from pondfs.store.datafile import Run, unlink_quietly, write_runs
from pondfs.store.deltalog import LOG_DIR, PRUNED, Snapshot, read_snapshot
from pondfs.store.equality import same_bytes
from pondfs.store.existence import is_directory, is_there
from pondfs.store.faults import fault
from pondfs.store.files import data_files
from pondfs.store.image import TableImage
from pondfs.store.images import Images
from pondfs.store.journal import Journal
from pondfs.store.leftovers import Handles, Leftovers
from pondfs.store.lock import ReaderLock, WriterLock, acting_as, find_owner, no_readers
from pondfs.store.log import has_version, read_versions
from pondfs.store.logkeeper import LogFigures, LogKeeper
from pondfs.store.measure import Measurer
from pondfs.store.memory import release_memory
from pondfs.store.names import TableLives
from pondfs.store.news import LogFeed
from pondfs.store.pread import Piece
from pondfs.store.prune_swap import Swap
from pondfs.store.publish import Publisher
from pondfs.store.rowcache import RowKeeper
from pondfs.store.rows import commit_row
from pondfs.store.scan import read_rows
from pondfs.store.tags import tag_entry, tags_of

log = logging.getLogger("pondfs.store")

_IO_THREADS = 2
"""Arrow's own threads: it reads local files through the page cache, more would only hold memory."""


_MOST_OPEN_FILES = 8192
"""Data files kept open for reading, at most and if half the process's limit allows."""

_MANY_NODES = 50_000
"""From here on a fold leaves so much behind that returning it to the system is worth 50 ms."""


class DeltaStore:
    """A pond on a local disk. Implements `interfaces.Store`.

    Made by `open_writer` or `open_reader`; one commit or stage at a time, reads from any thread.

    Attributes:
        path: the store's directory.
        notes: what opening found and set aside, one line each: whoever opens tells people.
        recovered: versions that opening took over from the journal of a crash.
    """

    def __init__(self, path: str, opened: table.Opened, lock: WriterLock | None) -> None:
        pa.set_io_thread_count(_IO_THREADS)
        self.path = path
        self.notes = opened.notes
        self.recovered: list[Version] = []
        self._lock = lock
        self._owner = None if lock is None else find_owner(path)
        self._log_dir = os.path.join(path, LOG_DIR)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._log_fd = os.open(self._log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._reader = ContentReader(max_open=max(16, min(soft // 2, _MOST_OPEN_FILES)))
        # Data files of this session that no commit refers to yet.
        self._staged: set[str] = set()
        self._reading: ReaderLock | None = None
        # How often files were swapped: what was folded meanwhile is folded again.
        self._swaps = 0
        self._keeper = RowKeeper(path)
        self._measurer = Measurer(path, is_writer=lock is not None)
        self._images = Images(
            path, self._reader, lambda: list(self._files), writable=lock is not None
        )
        self._use(opened.snapshot)
        self._journal = Journal(path, self._table_id)
        self._log_keeper = LogKeeper(
            path, self._log_dir, self._log_fd, self._publisher, opened.snapshot, self._owner
        )
        handles = Handles(
            path, self._fd, self._log_fd, self._owner, self._reader, self._images, self._publisher
        )
        self._leftovers = Leftovers(handles, self._log_keeper, self._known_files)

    def _use(self, snapshot: Snapshot) -> None:
        self._publisher = Publisher(
            self._log_dir,
            self._log_fd,
            snapshot.version + 1,
            snapshot.metadata["schemaString"],
            has_mark=PRUNED in snapshot.txns,
        )
        self._version = snapshot.pond_version
        self._files = data_files(self.path, snapshot)
        self._tags = tags_of(snapshot)
        self._table_id = str(snapshot.metadata["id"])

    # --- making and opening ---

    @property
    def version(self) -> Version:
        """The newest version in the table."""
        return Version(self._version)

    @staticmethod
    def is_pond(path: str | os.PathLike[str]) -> bool:
        """Return whether *path* holds a pond whose creation was finished."""
        return table.is_pond(os.fspath(path))

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> None:
        """Make a pond in *path*, which is empty or not there: version 1 is its root directory.

        After a crash in the middle, calling it again starts over.

        Durability: all of it, parent directories included, on return.
        Raises: PondExists when there is anything but an unfinished creation; PondLocked when
            another process is creating it; OSError.
        """
        store = os.path.abspath(os.fspath(path))
        table.make_directory(store)
        lock = WriterLock(os.path.join(store, table.POND_DIR), mountpoint="", socket="")
        try:
            table.begin_creation(store)
            table.create_table(store)
            snapshot = read_snapshot(os.path.join(store, LOG_DIR))
            new = cls(store, table.Opened(snapshot, []), lock)
        except BaseException:
            lock.release()
            raise
        try:
            new.commit(_first_cut())
            table.finish_creation(store)
        finally:
            new.close()

    @classmethod
    def open_writer(
        cls, path: str | os.PathLike[str], *, mountpoint: str, socket: str, mending: bool = False
    ) -> "DeltaStore":
        """Open the pond in *path* for committing; hold its lock until `close`.

        With *mending* a newest log entry that rotted is set aside: see `table.open_table`.

        Raises: NotAPond; PondLocked naming the holder; StoreDamaged; OSError.
        """
        store = os.path.abspath(os.fspath(path))
        if not is_directory(os.path.join(store, LOG_DIR)):
            raise NotAPond(f"{store} is no pond: make one with 'pond init {store}'")
        # Everything in `_pond/` can be rebuilt, so it may be missing: a copied table, say.
        pond = os.path.join(store, table.POND_DIR)
        if not is_there(pond):
            with acting_as(find_owner(store)):
                os.makedirs(pond, 0o700, exist_ok=True)
        lock = WriterLock(pond, mountpoint=mountpoint, socket=socket)
        try:
            opened = table.open_table(store, writable=True, mending=mending)
            commit.sweep_temporaries(os.path.join(store, LOG_DIR))
            with no_readers(pond):
                pass  # makes the file that readers lock
            new = cls(store, opened, lock)
        except BaseException:
            lock.release()
            raise
        try:
            new._leftovers.look(opened.snapshot)
            # What was found is built upon from here on, so it has to be durable: the last process
            # may have died between giving its entry a name and syncing that.
            table.fsync_newest(new._log_dir)
            new._replay()
        except BaseException:
            new._let_go()
            raise
        new._leftovers.clear_away(opened.snapshot)
        # Many entries without a checkpoint: the last process did not get to its `close`.
        new._log_keeper.checkpoint_quietly()
        return new

    @classmethod
    def open_reader(cls, path: str | os.PathLike[str]) -> Self:
        """Open the pond in *path* for reading, beside a writer or without one; changes nothing.

        Raises: NotAPond; StoreDamaged; OSError.
        """
        store = os.path.abspath(os.fspath(path))
        # Before the log is read: what it names then stays until we are done.
        reading = ReaderLock(os.path.join(store, table.POND_DIR))
        try:
            new = cls(store, table.open_table(store, writable=False), None)
        except BaseException:
            reading.release()
            raise
        new._reading = reading
        return new

    # --- committing ---

    def stage(self, version: Version, first_seq: int, rows: Sequence[Row]) -> Settled:
        """Write rows of the coming *version* early. See `interfaces.Store.stage`."""
        self._check_writable()
        run = Run(version, first_seq, rows)
        settled = self._write([run])
        self._staged.add(settled.file.name)
        self._keeper.note(settled, [run])
        fault("stage:done")
        return settled

    def discard(self, file: DataFile) -> None:
        """Remove a staged data file. See `interfaces.Store.discard`."""
        self._staged.discard(file.name)
        self._keeper.forget(file)
        unlink_quietly(file.path)

    def journal(self, cut: Cut) -> None:
        """Make *cut* durable in the journal. See `interfaces.Store.journal`."""
        self._check_writable()
        self._journal.append(cut)

    def commit(self, cut: Cut, earlier: Sequence[Cut] = ()) -> Settled:
        """Make *cut* one Delta commit. See `interfaces.Store.commit`.

        The commit row needs a data file in any case, so there always is one.
        """
        self._check_writable()
        runs = [
            Run(each.version, each.first_seq, [*each.rows, commit_row(each)])
            for each in (*earlier, cut)
        ]

        def write() -> Settled:
            fault("commit:data-file")
            return self._write(runs)

        with acting_as(self._owner):
            settled = self._publisher.publish(cut, write, earlier[0].version if earlier else None)
        self._journal.reset()
        files: list[DataFile] = [*cut.staged, settled.file]
        self._files.extend(files)
        self._staged.difference_update(file.name for file in files)
        self._version = cut.version
        self._keeper.note(settled, runs)
        self._images.note(cut.first_seq + sum(len(each.rows) for each in (*earlier, cut)))
        return settled

    def put_tag(self, name: str, version: Version | None) -> None:
        """Put tag *name* on *version*, or take it off. See `interfaces.Store.put_tag`."""
        self._check_writable()
        if version is not None and not self._has_version(version):
            raise NoSuchVersion(f"there is no version {version}: see pond log")
        with acting_as(self._owner):
            self._publisher.publish_entry(tag_entry(name, version))
        self._tags.pop(name, None)
        if version is not None:
            self._tags[name] = version

    def _has_version(self, version: Version) -> bool:
        if version == self._version:
            return True
        return has_version(self.path, version)

    def swap_files(self, request: str) -> Swap:
        """Do what a prepared prune asks for. See `interfaces.Store.swap_files`."""
        self._check_writable()
        swap = prune_swap.publish(
            self.path, self._log_dir, self._publisher, self._tags, request, self._owner
        )
        old = self._files
        before = {file.name for file in old} - swap.removed.keys()
        self._files = swap.move_files(old)
        self._swaps += 1
        self._leftovers.note_swap(before - {file.name for file in self._files})
        self._images.exchange(old, swap.move_image)
        release_memory()
        return swap

    def has_many_files(self) -> bool:
        """Return whether a compaction of small files is worth it. See `interfaces.Store`."""
        return bool(choose_small(self._files))

    def hold(self, content: Content) -> None:
        """Keep the data file of *content* readable while anybody has it.

        Raises: OSError, StoreDamaged; the file is not removed before `close` then.
        """
        try:
            content.file.hold()
        except (OSError, StoreDamaged):
            self._leftovers.outdated.add(content.file.name)
            raise

    def remove_pruned(self, *, now: bool = False) -> int:
        """Remove what was put out of use. See `interfaces.Store.remove_pruned`.

        Costs nothing when there is nothing left over, and little while somebody reads.
        """
        self._check_writable()
        return self._leftovers.remove_pruned(now=now)

    def _check_writable(self) -> None:
        if self._lock is None:
            raise NotPermitted(f"pond {self.path} is open for reading only")

    def _write(self, runs: Sequence[Run]) -> Settled:
        with acting_as(self._owner):
            written = write_runs(self.path, runs)
        try:
            fault("commit:store-dir-fsync")
            os.fsync(self._fd)
        except BaseException:
            unlink_quietly(os.path.join(self.path, written.name))
            raise
        file = DataFile(
            self.path, written.name, written.size, written.stats, time.time_ns() // 1_000_000
        )
        return Settled(file, written.contents, written.row_numbers, written.positions, written.size)

    # --- reading ---

    def load_image(self) -> TableImage:
        """Fold the oplog into the newest version's image."""
        return self.load_image_at(None)

    def load_image_at(self, version: Version | None) -> TableImage:
        """Fold the oplog into the image of *version* (None: the newest).

        Raises: NoSuchVersion; StoreDamaged when a file is gone or rows of a commit are.
        """
        if self._lock is None:
            self._use(table.open_table(self.path, writable=False).snapshot)
        while True:
            swaps = self._swaps
            try:
                image = self._images.load(version)
            except StoreDamaged:
                if swaps == self._swaps:
                    raise
            if swaps == self._swaps:
                break
        if image.node_count > _MANY_NODES:
            release_memory()
        if version is None and image.version < self._version:
            raise StoreDamaged(
                f"pond {self.path} has rows up to version {image.version} only, but its log says "
                f"{self._version}: restore it from a backup"
            )
        return image

    @property
    def rows_since_image(self) -> int:
        """How many rows came since the newest image was saved. See `interfaces.Store`."""
        return self._images.rows

    def save_image(self) -> TableImage | None:
        """Save the newest version's image and return it. See `interfaces.Store.save_image`."""
        self._check_writable()
        return self._images.save()

    def release_memory(self) -> None:
        """Give memory that nobody uses back to the system. See `interfaces.Store`."""
        release_memory()

    def find_touched(self, after: Version, up_to: Version) -> set[NodeId]:
        """Return the nodes and directories of rows in a range. See `interfaces.Store`."""
        files = [f for f in self._files if f.max_version > after and f.min_version <= up_to]
        table = read_rows(files, ("version", "op", "part_id", "node_id", "name")).table
        inside = pc.and_(
            pc.and_(pc.greater(table["version"], after), pc.less_equal(table["version"], up_to)),
            pc.not_equal(table["op"], "commit"),
        )
        table = table.filter(inside)
        named = table.filter(pc.is_valid(table["name"]))
        return {
            NodeId(int(digits, 16))
            for column in (table["node_id"], named["part_id"])
            for digits in pc.unique(column).to_pylist()
        }

    def same_bytes(self, some: Sequence[Extent], other: Sequence[Extent], size: int) -> bool:
        """Return whether two files hold the same. See `interfaces.Store`."""
        return same_bytes(self._reader, some, other, size)

    def open_lives(self) -> TableLives:
        """Return all paths through time. See `interfaces.Store.open_lives`."""
        return TableLives(self.path)

    def list_tags(self) -> dict[str, Version]:
        """Return the pinned versions by name, sorted by name."""
        if self._lock is None:
            self._tags = tags_of(table.open_table(self.path, writable=False).snapshot)
        return dict(sorted(self._tags.items()))

    def list_versions(self) -> list[VersionInfo]:
        """Return all versions, newest first."""
        found = read_versions(self.path)
        if self.notes and self._lock is None:
            # The newest log entry is there still, but we opened without it.
            return [info for info in found if info.version <= self._version]
        return found

    def check_loose(self, files: Sequence[str]) -> None:
        """Refuse what is no data file without a version. See `interfaces.Store.check_loose`."""
        self._check_writable()
        self._leftovers.check_loose(files)

    def load_loose(self, files: Sequence[str]) -> list[Row]:
        """Return the rows in *files*. See `interfaces.Store.load_loose`."""
        return self._leftovers.load_loose(files)

    def remove_loose(self, files: Sequence[str]) -> None:
        """Remove *files*. See `interfaces.Store.remove_loose`."""
        self._leftovers.remove_loose(files)

    @property
    def contents(self) -> ContentReader:
        """What reads the contents, and keeps what it decoded."""
        return self._reader

    def read(self, content: Content, skip: int, target: memoryview) -> None:
        """Fill *target* with bytes of a stored *content* from *skip*."""
        self._reader.read(content, skip, target)

    def read_nowait(self, content: Content, skip: int, target: memoryview) -> bool:
        """As `read`, but False when that could mean waiting for the disk."""
        return self._reader.read_nowait(content, skip, target)

    def read_many(self, pieces: Sequence[Piece]) -> None:
        """Do what `read` does with each of *pieces*, in fewer steps."""
        self._reader.read_many(pieces)

    def prefetch(self, wanted: Sequence[tuple[Content, int, int]]) -> None:
        """Have the disk begin to read what will be wanted, and decode it if it is compressed."""
        self._reader.prefetch(wanted)

    def follow(self) -> LogFeed:
        """Return a feed of what comes after the image loaded last. From here on files may go."""
        if self._reading is not None:
            self._reading.release()
        return LogFeed(self.path, self._reader, self._files, self._publisher.next_entry)

    def statvfs(self) -> os.statvfs_result:
        """Return the figures of the disk the store is on."""
        return os.fstatvfs(self._fd)

    def measure(self, budget_s: float) -> Figures:
        """Return what the pond takes. See `interfaces.Store.measure`."""
        # The copy: a stage may be under way.
        return self._measurer.measure(budget_s, frozenset(self._staged))

    def cache_counts(self) -> CacheCounts | None:
        """Return how reading fared. See `interfaces.Store.cache_counts`."""
        return CacheCounts.of(self._reader)

    # --- the rest ---

    @property
    def strays(self) -> list[str]:
        """Data files that belonged to no commit at opening. See `Leftovers.strays`."""
        return self._leftovers.strays

    @property
    def removed_bytes(self) -> int:
        """What `remove_pruned` got back in this session, at opening included."""
        return self._leftovers.removed_bytes

    def remove_strays(self, min_age_s: float) -> list[str]:
        """Remove data files of ours that nothing refers to and that are at least *min_age_s* old.

        Returns: their names. Only the writer may: it alone knows what it is about to commit.
        """
        self._check_writable()
        return self._leftovers.remove_strays(min_age_s)

    def has_old_strays(self) -> bool:
        """Return whether there are strays that may go. See `interfaces.Store`."""
        return self._leftovers.has_old_strays()

    def remove_old_strays(self) -> list[str]:
        """Remove them. See `interfaces.Store.remove_old_strays`."""
        self._check_writable()
        return self._leftovers.remove_old_strays()

    def _known_files(self) -> set[str]:
        """Return the names of data files that are in a version, or are about to be."""
        known = self._staged | {file.name for file in self._files}
        if self._publisher.undecided_file is not None:
            known.add(self._publisher.undecided_file)
        return known

    def has_long_log(self) -> bool:
        """Return whether `keep_log` has something to do. See `interfaces.Store`."""
        return self._lock is not None and self._log_keeper.is_due()

    def _replay(self) -> None:
        """Commit what a crash left in the journal.

        Raises: OSError as the disk says: the journal is as it was then.
        """
        found = journal.load(self.path, self._table_id, Version(self._version))
        if found.cuts:
            *earlier, last = found.cuts
            self.commit(last, earlier)
            fault("replay:committed")
            self.recovered = [cut.version for cut in found.cuts]
            log.info("%s came from the journal", found.versions)
        if found.trouble:
            where = journal.set_aside(self.path)
            self.notes.append(
                f"the journal was not whole ({found.trouble}) and was set aside as {where}; the "
                f"pond opens at version {self._version}"
            )
        else:
            journal.remove(self.path)
        fault("replay:done")

    def keep_log(self) -> None:
        """Keep the log short. See `interfaces.Store.keep_log`."""
        self._check_writable()
        self._log_keeper.keep()

    def log_figures(self) -> LogFigures:
        """Return how long the log is. Looks at nothing on the disk."""
        return self._log_keeper.figures()

    def checkpoint(self, *, now: bool = False) -> bool:
        """Write a Delta checkpoint if enough log entries follow the last one, or *now*.

        Raises: OSError; the table is as it was then.
        """
        return self._lock is not None and self._log_keeper.checkpoint(now=now)

    def close(self) -> None:
        """Write a checkpoint if it is time, let go of files and of the writer lock.

        Calling it twice is harmless.
        """
        if self._fd < 0:
            return
        if self._lock is not None:
            self._leftovers.close()
            self._log_keeper.keep()
        self._journal.close()
        self._keeper.close()
        self._images.close()
        self._let_go()

    def _let_go(self) -> None:
        self._reader.close()
        os.close(self._fd)
        os.close(self._log_fd)
        self._fd = self._log_fd = -1
        if self._lock is not None:
            self._lock.release()
        if self._reading is not None:
            self._reading.release()


def _first_cut() -> Cut:
    """Return version 1: the root directory, owned by whoever makes the pond."""
    now_ns = time.time_ns()
    mode = stat.S_IFDIR | 0o755
    root = Row(
        "create", now_ns, ROOT, ROOT, mode,
        attr=(mode, os.getuid(), os.getgid(), 2, 0, 0, now_ns, now_ns, now_ns),
    )  # fmt: skip
    summary = Summary(message="init", operations=1, nodes_created=1)
    return Cut(Version(1), now_ns, [root], summary)
