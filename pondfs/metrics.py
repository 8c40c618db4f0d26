"""A mount's state for Prometheus: what ``.pond/metrics`` shows.

Nothing is kept here. What a mount counts, it counts where it happens, in plain numbers; they are
read when somebody asks, on the trio thread, and made into text in another, where the client library
is imported, too: mounting does not wait for it (30 ms, 2 MB).
"""

import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pondfs import __version__
from pondfs.figures import CacheCounts, Figures
from pondfs.histogram import Histogram, Timings
from pondfs.options import MountOptions

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from pondfs.vfs.vfs import Vfs

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


Value = float | Histogram | None
Labelled = Iterable[tuple[tuple[str, ...], Value]]


@dataclass(frozen=True, slots=True)
class State:
    """All that the metrics are made of, at one moment. Immutable, or a copy.

    Attributes:
        told: what ``pond status`` tells; see `vfs.Vfs.describe`.
        figures: what the pond takes; None when that could not be counted.
        figures_at: when it was counted; seconds since 1970.
        timings: of the kernel's requests.
        cache: what the cache of decoded content did; None when nobody counts.
    """

    mountpoint: str
    told: Mapping[str, Any]
    commit_s: Histogram
    commit_rows: Histogram
    commit_bytes: Histogram
    journaled: int
    commit_failures: int
    stages: int
    stage_failures: int
    compactions: int
    last_fsync: float | None
    timings: Timings
    figures: Figures | None
    figures_at: float
    cache: CacheCounts | None


@dataclass(frozen=True, slots=True)
class Family:
    """A metric.

    Attributes:
        name: without what Prometheus appends to it (``_total``, ``_bucket``).
        kind: `COUNTER`, `GAUGE` or `HISTOGRAM`.
        help: what it says.
        read: returns its value, or its labels' values each with one; None: it is not told.
        labels: their names.
    """

    name: str
    kind: str
    help: str
    read: "Callable[[State], Value | Labelled]"
    labels: tuple[str, ...] = ()


def _told(key: str) -> Callable[[State], Value]:
    return lambda state: state.told[key] or 0


def _figure(key: str) -> Callable[[State], Value]:
    return lambda state: None if state.figures is None else getattr(state.figures, key)


def _image(key: str) -> Callable[[State], Value]:
    return lambda state: getattr(state.figures and state.figures.image, key, None)


def _compaction(key: str) -> Callable[[State], Value]:
    return lambda state: getattr(state.figures and state.figures.compaction, key, None)


def _cache(key: str) -> Callable[[State], Value]:
    return lambda state: None if state.cache is None else getattr(state.cache, key)


def _last_commit(state: State) -> Value:
    last = state.told["last_commit"]
    return None if last is None else float(last["timestamp"])


def _operations(state: State) -> Labelled:
    return [((op,), seconds) for op, seconds in sorted(state.timings.seconds.items())]


def _errors(state: State) -> Labelled:
    return [
        ((op, errno.errorcode.get(number, str(number))), count)
        for (op, number), count in sorted(state.timings.errors.items())
    ]


FAMILIES = (
    Family("pondfs_build_info", GAUGE, "1; the label says which pondfs serves the mount.",
           lambda state: [((__version__,), 1)], ("version",)),
    # What the kernel asks.
    Family("pondfs_operation_duration_seconds", HISTOGRAM,
           "Requests of the kernel by operation, from when the daemon takes one up until it has "
           "the answer: waiting for the disk, or for a commit, is in it.", _operations, ("op",)),
    Family("pondfs_operation_errors", COUNTER,
           "Requests answered with an error, by operation and errno. A name that is not there is "
           "no error of lookup: the kernel is told that it may remember that.",
           _errors, ("op", "errno")),
    # What is pending.
    Family("pondfs_pending_bytes", GAUGE,
           "New content in memory that is not on disk yet.", _told("pending_bytes")),
    Family("pondfs_pending_nodes", GAUGE,
           "Files and directories that changed since the last commit.", _told("pending_nodes")),
    Family("pondfs_pending_entries", GAUGE,
           "Names that changed since the last commit.", _told("pending_entries")),
    Family("pondfs_pending_age_seconds", GAUGE,
           "How long the oldest pending change has been waiting; 0 when nothing is pending.",
           _told("pending_age_s")),
    # Commits.
    Family("pondfs_version", GAUGE, "The newest version.", _told("version")),
    Family("pondfs_commit_duration_seconds", HISTOGRAM,
           "Commits of this mount, from the cut until the version was durable.",
           lambda state: state.commit_s),
    Family("pondfs_commit_rows", HISTOGRAM,
           "Commits of this mount by how many rows they added to the table.",
           lambda state: state.commit_rows),
    Family("pondfs_commit_bytes", HISTOGRAM,
           "Commits of this mount by how much new content they brought.",
           lambda state: state.commit_bytes),
    Family("pondfs_journaled_versions", COUNTER,
           "Versions that an fsync made durable in the journal, before their commit.",
           lambda state: state.journaled),
    Family("pondfs_journal_versions", GAUGE,
           "Versions that are in the journal only: the next commit has them.",
           _told("journaled_versions")),
    Family("pondfs_journal_bytes", GAUGE,
           "Content of those.", _told("journaled_bytes")),
    Family("pondfs_commit_failures", COUNTER,
           "Tries to commit that failed. What they had is kept and tried again.",
           lambda state: state.commit_failures),
    Family("pondfs_commit_failing", GAUGE,
           "1 while the latest try to write failed: what is pending is not durable.",
           lambda state: int(state.told["last_error"] is not None)),
    Family("pondfs_last_commit_timestamp_seconds", GAUGE,
           "When this mount committed last; not there before it did.", _last_commit),
    Family("pondfs_last_fsync_timestamp_seconds", GAUGE,
           "When an fsync of a program was answered last: all before it is durable.",
           lambda state: state.last_fsync),
    Family("pondfs_stages", COUNTER,
           "Pieces of large content that were written before their commit.",
           lambda state: state.stages),
    Family("pondfs_stage_failures", COUNTER,
           "Such pieces that could not be written, and became part of a commit.",
           lambda state: state.stage_failures),
    # The tree.
    Family("pondfs_nodes", GAUGE, "Files and directories in the tree.", _told("nodes")),
    Family("pondfs_nodes_in_memory", GAUGE,
           "Those that the daemon holds as objects: what the kernel knows, and what changed.",
           _told("nodes_in_memory")),
    # The store.
    Family("pondfs_storage_error", GAUGE,
           "1 when the metrics from here to the last compaction's could not be counted; they are "
           "not there then.", lambda state: int(state.figures is None)),
    Family("pondfs_storage_timestamp_seconds", GAUGE,
           "When they were counted.",
           lambda state: None if state.figures is None else state.figures_at),
    Family("pondfs_data_files", GAUGE, "Data files of the table.", _figure("data_files")),
    Family("pondfs_data_bytes", GAUGE, "What they take.", _figure("data_bytes")),
    Family("pondfs_rows", GAUGE, "Rows in them.", _figure("rows")),
    Family("pondfs_counted_version", GAUGE,
           "The version that live and history bytes are about: an older one when finding out about "
           "the newest would take long; not there when neither is known.", _figure("version")),
    Family("pondfs_live_bytes", GAUGE, "Content that version shows.", _figure("live_bytes")),
    Family("pondfs_history_bytes", GAUGE,
           "All other content up to it: what only older versions show. Pruning gives it back.",
           _figure("history_bytes")),
    Family("pondfs_newer_bytes", GAUGE,
           "Content that came after it, live or not.", _figure("newer_bytes")),
    Family("pondfs_reclaimable_files", GAUGE,
           "Data files that no version needs: put out of use by a prune or a compaction and "
           "waiting to be removed, or left by a crash.", _figure("reclaimable_files")),
    Family("pondfs_reclaimable_bytes", GAUGE, "What they take.", _figure("reclaimable_bytes")),
    Family("pondfs_disk_free_bytes", GAUGE,
           "Room on the store's disk for whoever is not root.", _figure("disk_free_bytes")),
    Family("pondfs_disk_bytes", GAUGE, "Size of that disk.", _figure("disk_bytes")),
    Family("pondfs_log_entries_since_checkpoint", GAUGE,
           "Entries in the table's log that opening has to read.", _figure("log_entries")),
    Family("pondfs_image_version", GAUGE,
           "The version of the saved image: opening reads the rows after it. Not there when none "
           "is saved.", _image("version")),
    Family("pondfs_image_timestamp_seconds", GAUGE, "When it was saved.", _image("timestamp")),
    Family("pondfs_image_bytes", GAUGE, "What it takes.", _image("bytes")),
    Family("pondfs_last_compaction_timestamp_seconds", GAUGE,
           "When data files were put together last, in this mount or before; not there if that is "
           "not known.", _compaction("timestamp")),
    Family("pondfs_last_compaction_duration_seconds", GAUGE,
           "How long that took to write.", _compaction("duration_s")),
    Family("pondfs_last_compaction_read_files", GAUGE,
           "Data files that were put together.", _compaction("files_before")),
    Family("pondfs_last_compaction_read_bytes", GAUGE,
           "What they had.", _compaction("bytes_before")),
    Family("pondfs_last_compaction_written_files", GAUGE,
           "Data files that came of it.", _compaction("files_after")),
    Family("pondfs_last_compaction_written_bytes", GAUGE,
           "What they have.", _compaction("bytes_after")),
    Family("pondfs_compactions", COUNTER,
           "Compactions put in place during this mount, those of pond compact among them.",
           lambda state: state.compactions),
    # Reading.
    Family("pondfs_content_cache_hits", COUNTER,
           "Reads of compressed content that was found decoded.", _cache("hits")),
    Family("pondfs_content_cache_misses", COUNTER,
           "Reads that had to decode it.", _cache("misses")),
    Family("pondfs_content_cache_bytes", GAUGE,
           "Decoded content in memory.", _cache("bytes")),
)  # fmt: skip
"""All of them but the process's own, in the order in which they are told."""

PROCESS = "pondfs"
"""What the names of the process's own metrics begin with: those of the library, ``process_…``."""


class Metrics:
    """Tells a mount's metrics."""

    def __init__(self, vfs: "Vfs", options: MountOptions, timings: Callable[[], Timings]) -> None:
        self._vfs = vfs
        self._mountpoint = os.fspath(options.mountpoint)
        self._timings = timings

    async def text(self) -> str:
        """Return all metrics as Prometheus reads them (text format 0.0.4)."""
        from pondfs.vfs import offload

        return await offload.run(render, await self.state())

    async def state(self) -> State:
        """Return what there is to tell, copied, so that any thread may tell it."""
        found = await self._vfs.storage.look()
        totals = self._vfs.committer.totals
        return State(
            mountpoint=self._mountpoint,
            told=self._vfs.describe(),
            commit_s=totals.commit_s.copy(),
            commit_rows=totals.commit_rows.copy(),
            commit_bytes=totals.commit_bytes.copy(),
            journaled=totals.journaled,
            commit_failures=totals.commit_failures,
            stages=totals.stages,
            stage_failures=totals.stage_failures,
            compactions=totals.compactions,
            last_fsync=totals.last_fsync,
            timings=self._timings(),
            figures=found.figures,
            figures_at=time.time() - found.age_s,
            cache=self._vfs.store.cache_counts(),
        )


def render(state: State) -> str:
    """Return *state*, and what the library says of this process, as text. Blocks."""
    from prometheus_client import generate_latest

    return generate_latest(registry_of(lambda: state)).decode()


def registry_of(ask: Callable[[], State]) -> "CollectorRegistry":
    """Return a registry that asks for the state each time it is read."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class _Pond(Collector):
        def collect(self) -> "Iterable[Metric]":
            return _collect(ask())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Pond())
    return registry


def _collect(state: State) -> "Iterator[Metric]":
    from prometheus_client import ProcessCollector

    own = (metric for metric in map(_metric, FAMILIES, [state] * len(FAMILIES)) if metric)
    process = ProcessCollector(namespace=PROCESS, registry=None).collect()
    for metric in (*own, *process):
        # One collector may read files of several mounts: no sample of theirs is the same.
        metric.samples = [
            sample._replace(labels={"mountpoint": state.mountpoint, **sample.labels})
            for sample in metric.samples
        ]
        yield metric


def _metric(family: Family, state: State) -> "Metric | None":
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    found = family.read(state)
    if found is None:
        return None
    values: Labelled = [((), found)] if isinstance(found, int | float | Histogram) else found
    if family.kind == HISTOGRAM:
        histograms = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in values:
            assert isinstance(value, Histogram)
            histograms.add_metric(labels, _buckets(value), value.sum)
        return histograms
    kind = CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in values:
        assert isinstance(value, int | float)
        metric.add_metric(labels, value)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return upper bounds with how many values are up to each."""
    buckets, below = [], 0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == math.inf else str(bound), float(below)))
    return buckets
