"""Which rows the kept versions need, whole columns at a time; each node and entry by itself.

A row says up to four things: what an entry leads to, what a node's attributes are, what stands in
a file, how far a file was cut off. Each of them lives from its row's version until a later row
says otherwise, and is needed if a kept version lies in between. So a version is only known here by
its *epoch*: the number of the first kept version at or after it. What is born and superseded in
one epoch, no kept version ever showed.

A row that is needed for anything stays, and then everything else it says is there again, too.
That must not bring back what was gone: removals and cuts stay while there is something before
them that they take away. Content is the exception: it is taken out of rows that are needed only
for something else, as it is what space is spent on (else each small file would keep its first
content for as long as it has its name).

Every rule errs on the side of keeping.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pondfs.extent import Content, Extent, ExtentMap
from pondfs.store.image import Ints

Flags = NDArray[np.bool_]

_FOREVER = np.iinfo(np.int32).max
_END = 1 << 63
"""Behind every byte a file can have."""


@dataclass(slots=True)
class NodeRows:
    """Rows about some nodes, all there are of each, sorted by (node, version, seq).

    Shape: all parallel. *below* is -1 where nothing is cut off; *gone*: the node is removed.
    """

    node: Ints
    epoch: Ints
    has_attr: Flags
    linked: Flags
    has_name: Flags
    gone: Flags
    below: Ints
    has_content: Flags
    offset: Ints
    length: Ints


@dataclass(slots=True)
class EntryRows:
    """Rows about some entries, all there are of each, sorted by (part, name, version, seq).

    Shape: all parallel. *first* marks the first row of each entry; *kept* are rows that stay in
    any case.
    """

    first: Flags
    epoch: Ints
    removed: Flags
    kept: Flags


def needed_of_nodes(rows: NodeRows) -> tuple[Flags, Flags]:
    """Return which rows are needed for what they say of nodes, and whose content is."""
    count = len(rows.node)
    if not count:
        return np.zeros(0, bool), np.zeros(0, bool)
    at = np.arange(count)
    first = np.append(True, rows.node[1:] != rows.node[:-1])
    group = np.cumsum(first) - 1

    # Attributes: until the node's next row that has some, or says that it is gone.
    state = np.flatnonzero(rows.has_attr | rows.gone)
    attr = np.zeros(count, bool)
    attr[state] = rows.epoch[state] < _next_epoch(rows.epoch[state], group[state])
    attr &= rows.has_attr

    # When the node went for good. An open file without a name may be written to afterwards.
    alive = np.full(int(group[-1]) + 1, -1)
    linked = np.flatnonzero(rows.has_attr & rows.linked & ~rows.gone)
    alive[group[linked]] = linked
    gone = np.flatnonzero(rows.gone)
    gone = gone[gone > alive[group[gone]]][::-1]
    removed_at = np.full(len(alive), count)
    removed_at[group[gone]] = gone
    epochs = np.append(rows.epoch, _FOREVER)
    death = np.where(at < removed_at[group], epochs[removed_at[group]], rows.epoch)

    content = np.zeros(count, bool)
    some = np.flatnonzero(rows.has_content & (rows.length > 0))
    covered = np.minimum(_covered(rows, first, some), death[some])
    content[some] = rows.epoch[some] < covered

    cut = _needed_cuts(rows, group, death, content)
    kept = attr | content | cut
    # The removal of what is still there somewhere before it.
    before = kept | (rows.has_name & (rows.epoch < death))
    kept |= rows.gone & _any_before(before & rows.has_attr, group)
    return kept, content


def needed_of_entries(rows: EntryRows) -> Flags:
    """Return which rows are needed for what they say of entries."""
    count = len(rows.first)
    if not count:
        return np.zeros(0, bool)
    group = np.cumsum(rows.first) - 1
    shown = rows.epoch < _next_epoch(rows.epoch, group)
    kept: Flags = shown & ~rows.removed
    # A removal counts if what it takes away is still there, and no earlier one takes it already.
    there = _last_before((kept | rows.kept) & ~rows.removed, group)
    taken = _last_before(shown & rows.removed, group)
    kept |= shown & rows.removed & (there > taken)
    return kept


def _next_epoch(epoch: Ints, group: Ints) -> Ints:
    """Return the epoch of each row's follower in its group."""
    following = np.full(len(epoch), _FOREVER, np.int64)
    following[:-1] = np.where(group[1:] == group[:-1], epoch[1:], _FOREVER)
    return following


def _last_before(flags: Flags, group: Ints) -> Ints:
    """Return the place of the last flagged row before each row in its group; -1 if none is."""
    at = np.arange(len(flags))
    last = np.append(-1, np.maximum.accumulate(np.where(flags, at, -1))[:-1])
    start = np.searchsorted(group, group)
    found: Ints = np.where(last >= start, last, -1)
    return found


def _any_before(flags: Flags, group: Ints) -> Flags:
    found: Flags = _last_before(flags, group) >= 0
    return found


def _covered(rows: NodeRows, first: Flags, some: Ints) -> Ints:
    """Return the epoch in which the last byte of each content *some* was covered or cut off."""
    # Files are mostly written anew from the start: such a cut ends all that was before it.
    segment = np.cumsum(first | (rows.below == 0)) - 1
    starts = np.flatnonzero(np.append(True, segment[1:] != segment[:-1]))
    ends = np.append(starts[1:], len(first))
    follows = (ends < len(first)) & ~np.append(first, True)[ends]
    end_epoch = np.where(follows, np.append(rows.epoch, 0)[ends], _FOREVER)
    covered: Ints = end_epoch[segment[some]]

    # Within one segment most files have no two contents that overlap.
    order = some[np.lexsort((rows.offset[some], segment[some]))]
    meets = (segment[order][1:] == segment[order][:-1]) & (
        rows.offset[order][1:] < (rows.offset + rows.length)[order][:-1]
    )
    busy = np.zeros(len(starts), bool)
    busy[segment[order][1:][meets]] = True
    busy[segment[rows.below > 0]] = True
    rest = np.flatnonzero(busy[segment[some]])
    if len(rest):
        acting = np.flatnonzero(busy[segment] & ((rows.below > 0) | rows.has_content))
        covered[rest] = np.minimum(covered[rest], _sweep(rows, segment, acting)[some[rest]])
    return covered


def _sweep(rows: NodeRows, segment: Ints, acting: Ints) -> Ints:
    """Return as `_covered`, one row after the other, backwards: what is later is known by then."""
    covered = np.full(len(rows.node), _FOREVER, np.int64)
    later = ExtentMap()
    last = -1
    for row, number, epoch, below, has_content, offset, length in zip(
        acting[::-1].tolist(),
        segment[acting[::-1]].tolist(),
        rows.epoch[acting[::-1]].tolist(),
        rows.below[acting[::-1]].tolist(),
        rows.has_content[acting[::-1]].tolist(),
        rows.offset[acting[::-1]].tolist(),
        rows.length[acting[::-1]].tolist(),
        strict=True,
    ):
        if number != last:
            later, last = ExtentMap(), number
        # The number of the "row" is the epoch here.
        over = Content.stored(None, epoch, 0)
        if has_content and length > 0:
            found = later.find(offset, length)
            seen = sum(
                min(e.offset + e.length, offset + length) - max(e.offset, offset) for e in found
            )
            if seen == length:
                covered[row] = max(e.content.row for e in found)
            later.write(Extent(offset, length, over))
        # A row's own content came after its cut.
        if below > 0:
            later.write(Extent(below, _END - below, over))
    return covered


def _needed_cuts(rows: NodeRows, group: Ints, death: Ints, content: Flags) -> Flags:
    """Return the rows whose ``valid_below`` still cuts off something that is kept before it."""
    needed = np.zeros(len(group), bool)
    cuts = np.flatnonzero((rows.below >= 0) & rows.has_attr & (rows.epoch < death))
    if not len(cuts) or not content.any():
        return needed
    # Of one epoch's cuts only those below every later one count.
    values, rank = np.unique(rows.below[cuts], return_inverse=True)
    span = len(values) + 1
    both = np.append(True, (group[cuts][1:] != group[cuts][:-1])
                     | (rows.epoch[cuts][1:] != rows.epoch[cuts][:-1]))  # fmt: skip
    lane = np.cumsum(both)
    ranks = (rank + lane * span)[::-1]
    # Backwards the lanes fall, so a minimum never reaches over into the next lane.
    least = np.minimum.accumulate(ranks)
    lowest = np.append(True, ranks[1:] < least[:-1])[::-1]
    cuts = cuts[lowest]

    # The farthest end of what is kept before each cut, as ranks that rise from node to node.
    kept = np.flatnonzero(content)
    end = (rows.offset + rows.length)[kept]
    values, rank = np.unique(end, return_inverse=True)
    highs = np.zeros(len(group), np.int64)
    highs[kept] = rank + 1
    highs += group * (len(values) + 1)
    highest = np.append(-1, np.maximum.accumulate(highs)[:-1])[cuts] - group[cuts] * (
        len(values) + 1
    )
    reach = np.append(-1, values)[np.maximum(highest, 0)]
    needed[cuts[reach > rows.below[cuts]]] = True
    return needed
