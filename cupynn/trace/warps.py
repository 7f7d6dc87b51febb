"""Accesses of single threads put together to accesses of warps, as a GPU makes them.

A GPU's warp runs in lockstep. The k-th time that its lanes come to an instruction, since they last met at a barrier or
warp function, is taken to be one access of the warp; lanes that do not come there are inactive. A warp's steps stand
in an order in which each lane could have made its own; warps stand one after another between two barriers.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from cupynn.trace.recording import BARRIER, WARP, Recording

SITE_FIELDS = "where", "call", "kind", "size"


@dataclass(frozen=True)
class Steps:
    """A block's steps, in order. Arrays with an entry per step, but for `sites` and `members`.

    site: the instruction, a number of `sites`, which has the fields where, call, kind and size of EVENT.
    warp, phase: its warp, and the barriers that the warp has passed before. begin, end: of `members`, the numbers of
        its lanes' events, in the lanes' order.
    """

    sites: np.ndarray
    site: np.ndarray
    warp: np.ndarray
    phase: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.site)

    @property
    def kind(self) -> np.ndarray:
        return self.sites["kind"][self.site]


def steps(recording: Recording) -> Steps:
    """The steps of a recording's warps."""
    by_thread = np.argsort(recording.events["thread"], kind="stable")
    events = recording.events[by_thread]
    thread = events["thread"].astype(np.int64)
    kinds = _unique_rows(*(events[name] for name in SITE_FIELDS))
    sites, site = events[kinds.first], kinds.number

    first = np.searchsorted(thread, thread)  # of its thread's events
    waits = events["kind"] >= BARRIER
    epoch, phase = (_before(mask, first) for mask in (waits, events["kind"] == BARRIER))
    # The how manyth time is this that its thread, in this epoch, comes to this instruction?
    same = np.lexsort((site, epoch, thread))
    runs = _unique_rows(thread[same], epoch[same], site[same])
    time = np.empty(len(events), np.int64)
    time[same] = np.arange(len(events)) - runs.first[runs.number]

    warp = thread // WARP
    found = _unique_rows(warp, epoch, site, time)
    group, one = found.number, found.first  # of each event its step, and of each step one event
    rank = _ranks(group, np.arange(len(events)) - first, thread, warp, epoch)
    order = np.lexsort((rank, epoch[one], warp[one], phase[one]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    members = np.lexsort((thread, place[group]))
    counts = np.bincount(place[group], minlength=len(order))
    end = np.cumsum(counts)
    one = one[order]
    return Steps(sites, site[one], warp[one], phase[one], end - counts, end, by_thread[members])


@dataclass(frozen=True)
class _Rows:
    number: np.ndarray  # which row each one is, among those that differ
    first: np.ndarray  # where each of those is found first


def _unique_rows(*columns: np.ndarray) -> _Rows:
    """The rows that differ, in the columns' order."""
    order = np.lexsort(columns[::-1])
    new = np.zeros(len(order), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= np.diff(column[order]) != 0
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    return _Rows(number, order[new])


def _before(mask: np.ndarray, first: np.ndarray) -> np.ndarray:
    """How many events of its own thread before it, of those the mask marks, there are for each event."""
    count = np.cumsum(mask) - mask
    return count - count[first] if len(count) else count


def _ranks(
    group: np.ndarray, position: np.ndarray, thread: np.ndarray, warp: np.ndarray, epoch: np.ndarray
) -> np.ndarray:
    """Of each step a number that orders it among the steps of its warp and epoch."""
    rank = np.zeros(int(group.max()) + 1 if len(group) else 0, np.int64)
    order = np.lexsort((position, thread, epoch, warp))
    parts = _unique_rows(warp[order], epoch[order])
    for part in np.split(order, parts.first[1:]) if len(order) else ():
        lanes = [group[lane] for lane in np.split(part, np.flatnonzero(np.diff(thread[part])) + 1)]
        longest = max(lanes, key=len)
        if len(longest) < len(np.unique(group[part])):
            longest = _merged(lanes)
        rank[longest] = np.arange(len(longest))
    return rank


def _merged(lanes: list[np.ndarray]) -> list[int]:
    """One order of all steps that is every lane's; where lanes contradict each other, the earlier place counts."""
    earliest: dict[int, int] = {}
    after: dict[int, set[int]] = {}
    waits_for: dict[int, int] = {}
    for lane in lanes:
        for place, step in enumerate(lane.tolist()):
            earliest[step] = min(place, earliest.get(step, place))
        for step, following in zip(lane[:-1].tolist(), lane[1:].tolist(), strict=True):
            if following not in after.setdefault(step, set()):
                after[step].add(following)
                waits_for[following] = waits_for.get(following, 0) + 1
    left = sorted(earliest, key=earliest.__getitem__, reverse=True)
    ready = [(earliest[step], step) for step in earliest if not waits_for.get(step)]
    heapq.heapify(ready)
    order, done = [], set()
    while len(order) < len(earliest):
        step = heapq.heappop(ready)[1] if ready else left.pop()
        if step in done:
            continue
        done.add(step)
        order.append(step)
        for following in after.get(step, ()):
            waits_for[following] -= 1
            if waits_for[following] == 0 and following not in done:
                heapq.heappush(ready, (earliest[following], following))
    return order
