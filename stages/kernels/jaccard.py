"""Exact verification: which documents of a cluster reach a Jaccard similarity with one that stays.

Works on sorted sets of 64-bit shingles, cluster after cluster. Not every pair is compared: two sets of Jaccard ≥ t
share one of the first |x| - ⌈t·|x|⌉ + 1 shingles of each in any common order (prefix filtering), and with the rare ones
first a template that a whole cluster shares is in few prefixes, and too far back to be enough (positional filtering;
both Xiao et al. 2008, PPJoin). Costs 40 to 60 bytes a shingle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.kernels.leaf import empty_array, inner, kernel, leaf, zero_array

COMMON = 255
"""Counts end here: shingles in more documents of a cluster than this are equally common."""


@leaf
def _shared(values: NDArray[np.uint64], a: int, a_end: int, b: int, b_end: int, needed: int) -> int:
    """How many values two sorted, distinct ranges share; -1 as soon as it must be fewer than `needed`."""
    spare_a, spare_b = a_end - a - needed, b_end - b - needed
    shared = 0
    while a < a_end and b < b_end:
        if values[a] == values[b]:
            shared += 1
            a += 1
            b += 1
        elif values[a] < values[b]:
            a += 1
            spare_a -= 1
            if spare_a < 0:
                return -1
        else:
            b += 1
            spare_b -= 1
            if spare_b < 0:
                return -1
    return shared if shared >= needed else -1


@leaf
def _prefix(size: int, smallest: int, similarity: float) -> int:
    """How many of a set's `size` shingles must be looked up, where no other set has fewer than `smallest`."""
    needed = max(similarity * size, similarity * (size + smallest) / (1 + similarity))
    return int(min(max(size - int(np.ceil(needed - 1e-6)) + 1, 1), size))


@leaf
def _count(
    values: NDArray[np.uint64],
    start: int,
    end: int,
    slots: int,
    keys: NDArray[np.uint64],
    counts: NDArray[np.uint8],
    slot_of: NDArray[np.int32],
) -> None:
    """Finds a slot for each value of a cluster, and in how many documents it is."""
    for free in range(slots):
        counts[free] = 0
    for j in range(start, end):
        slot = np.int64(values[j] & np.uint64(slots - 1))
        while counts[slot] > 0 and keys[slot] != values[j]:
            slot = (slot + 1) & (slots - 1)
        keys[slot] = values[j]
        if counts[slot] < COMMON:
            counts[slot] += 1
        slot_of[j] = slot


@leaf
def _rarest(
    start: int,
    end: int,
    wanted: int,
    counts: NDArray[np.uint8],
    slot_of: NDArray[np.int32],
    histogram: NDArray[np.int64],
    out: NDArray[np.int32],
) -> int:
    """Slots of the `wanted` rarest shingles of a set, the rarest first, but for those that no other document has → out;
    how many."""
    for k in range(COMMON + 1):
        histogram[k] = 0
    for j in range(start, end):
        histogram[counts[slot_of[j]]] += 1
    limit, below = 1, 0
    while below + histogram[limit] < wanted:
        below += histogram[limit]
        limit += 1
    at_limit, found = wanted - below, 0
    for count in range(2, limit + 1):
        here = at_limit if count == limit else histogram[count]
        histogram[count] = found
        found += here
    for j in range(start, end):
        times = np.int64(counts[slot_of[j]])
        if times == 1 or times > limit or (times == limit and at_limit == 0):
            continue
        at_limit -= times == limit
        out[histogram[times]] = slot_of[j]
        histogram[times] += 1
    return int(found)


@leaf
def _nearest(
    k: int,
    values: NDArray[np.uint64],
    ends: NDArray[np.int64],
    rare: NDArray[np.int32],
    found: int,
    alone: int,
    heads: NDArray[np.int32],
    posts: NDArray[np.int32],
    floor: int,
    seen: NDArray[np.int64],
    similarity: float,
) -> tuple[int, float]:
    """(survivor, Jaccard) nearest to set k among those posted from `floor` on; (-1, similarity) where none reaches it.

    rare: the `found` slots of set k's prefix, rarest first, after the `alone` that no other set has. heads: per slot
    the last post; posts int32[m, 3]: (set, post before, shingles of the set from here on). seen: scratch.
    """
    size, best, best_score = ends[k + 1] - ends[k], -1, similarity
    for j in range(found):
        post = np.int64(heads[rare[j]])
        while post >= floor:
            other, rest, post = np.int64(posts[post, 0]), np.int64(posts[post, 2]), np.int64(posts[post, 1])
            if seen[other] == k:
                continue
            seen[other] = k
            both = size + ends[other + 1] - ends[other]
            needed = np.int64(np.ceil(best_score * both / (1 + best_score) - 1e-6))
            if min(size - alone - j, rest) < needed:  # in rarity they share nothing before this (positional filter)
                continue
            shared = _shared(values, ends[k], ends[k + 1], ends[other], ends[other + 1], needed)
            score = shared / (both - shared)
            if score > best_score or (score == best_score and (best < 0 or other < best)):
                best, best_score = int(other), score
    return best, best_score


@inner
def _plan(
    ends: NDArray[np.int64], clusters: NDArray[np.uint64], similarity: float
) -> tuple[NDArray[np.int64], int, int, int, int]:
    """(first set of each cluster, then n; clusters; values in the largest; posts at most; the longest prefix)."""
    n = len(ends) - 1
    starts, count = zero_array(n + 1, np.int64), 0
    largest, posts, longest = np.int64(0), np.int64(0), np.int64(0)
    for k in range(n):
        if k == 0 or clusters[k] != clusters[k - 1]:
            starts[count] = k
            count += 1
        largest = max(largest, ends[k + 1] - ends[starts[count - 1]])
        prefix = _prefix(ends[k + 1] - ends[k], np.int64(0), similarity)
        posts, longest = posts + prefix, max(longest, prefix)
    starts[count] = n
    return starts, count, int(largest), int(posts), int(longest)


@leaf
def _slots(values: int) -> int:
    """A power of two, at least twice as many."""
    slots = 2
    while slots < 2 * values:
        slots *= 2
    return slots


@kernel
def survivors(
    values: NDArray[np.uint64],
    ends: NDArray[np.int64],
    clusters: NDArray[np.uint64],
    settled: int,
    similarity: float,
    most: int,
    most_values: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Greedy and exact: (survivor int64[n], its Jaccard float64[n], block int64[n]) of n sets in order.

    values: the sets, sorted and distinct, set k at `values[ends[k]:ends[k + 1]]`. clusters: equal for neighbours to be
    compared. A set joins the survivor of its block with the highest Jaccard of at least `similarity` (ties: the
    earlier), or survives itself, with 1. A block is a cluster, or the part of one from where the part before has `most`
    survivors or `most_values` values in them; it is named by its first set. settled: so many sets at the beginning are
    the survivors of a block that goes on.
    """
    n = len(ends) - 1
    chosen, scores, blocks = np.arange(n), np.ones(n), zero_array(n, np.int64)
    starts, many, largest, most_posts, longest = _plan(ends, clusters, similarity)
    slots = _slots(largest)
    keys, counts, heads = empty_array(slots, np.uint64), empty_array(slots, np.uint8), empty_array(slots, np.int32)
    slot_of, rare = empty_array(len(values), np.int32), empty_array(longest, np.int32)
    posts, seen, histogram = empty_array((most_posts, 3), np.int32), np.full(n, -1), empty_array(COMMON + 1, np.int64)
    for cluster in range(many):
        first, last = starts[cluster], starts[cluster + 1]
        slots = _slots(ends[last] - ends[first])
        _count(values, ends[first], ends[last], slots, keys, counts, slot_of)
        for slot in range(slots):
            heads[slot] = -1
        smallest = ends[first + 1] - ends[first]
        for k in range(first, last):
            smallest = min(smallest, ends[k + 1] - ends[k])
        block, used, floor = first, np.int64(0), np.int64(0)
        alive, alive_values = 0, 0
        for k in range(first, last):
            if k >= settled and (alive >= most or alive_values >= most_values):
                block, floor, alive, alive_values = k, used, 0, 0
            blocks[k] = block
            size = ends[k + 1] - ends[k]
            wanted = _prefix(size, smallest, similarity)
            found = _rarest(ends[k], ends[k + 1], wanted, counts, slot_of, histogram, rare)
            alone = min(wanted, histogram[1])
            if k >= settled:
                best, score = _nearest(k, values, ends, rare, found, alone, heads, posts, floor, seen, similarity)
                if best >= 0:
                    chosen[k], scores[k] = best, score
                    continue
            alive, alive_values = alive + 1, alive_values + size
            for j in range(found):
                slot = rare[j]
                posts[used, 0], posts[used, 1], posts[used, 2], heads[slot] = k, heads[slot], size - alone - j, used
                used += 1
    return chosen, scores, blocks
