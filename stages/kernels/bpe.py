"""Byte-pair merges from counted words: the pair with the highest count, ties to the smaller ids, again and again.

Reads the bytes of distinct words and their counts; writes the merges in order. The words lie one after the other in one
array, each pair knows the places where it was made, a heap knows the best pair; what became stale is found out when it
is met. The trade-off: memory for speed, about MEMORY bytes for each byte of distinct words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

EDGE, INSIDE = -1, -2
"""What stands between words; what stands where a token's right half began."""
LOW = 0xFFFFFFFF


@njit(cache=True, nogil=True)
def learn_merges(data: Any, offsets: Any, counts: Any, ids: Any, most: int, least: int) -> Any:
    """At most `most` merges of pairs met `least` times or more: int32[m, 2], the ids that merge k joins to 256 + k.

    Word k is `data[offsets[k]:offsets[k + 1]]` (uint8[:], int64[n + 1]; words and bytes together fewer than 2^31), met
    counts[k] times (int64[n]). ids: int32[256], the id of each byte. The rule and its ties are those of BpeTrainer
    (huggingface/tokenizers, tokenizers/src/models/bpe/trainer.rs): the highest count, then the smaller first id, then
    the smaller second. The order of the words changes nothing.
    """
    tokens, owners = _lay_out(data, offsets, ids)
    keys, totals, begins, ends, places = _first_pairs(tokens, owners, counts, least)
    pairs, held = len(keys), len(places)
    slots = _index(keys, pairs, 4 * pairs + 64)
    ranks, heap, heaped = np.empty(2 * pairs + 64, np.int64), np.empty(2 * pairs + 64, np.int32), 0
    for pair in range(pairs):
        _push(ranks, heap, heaped, keys, totals[pair], pair)
        heaped += 1
    merges, sizes = np.empty((most, 2), np.int32), np.ones(256 + most, np.int32)
    gains, losses = np.zeros(2 * (256 + most), np.int64), np.zeros(2 * (256 + most), np.int64)
    lists, touched = np.zeros(2 * (256 + most), np.int64), np.empty(2 * (256 + most), np.int32)
    sides, spots = np.empty(1024, np.int32), np.empty(1024, np.int32)
    made, second = 0, 256 + most
    while made < most and heaped:
        best, total = heap[0], totals[heap[0]]
        if total < least:
            heaped -= 1
            _sink(ranks, heap, heaped, keys, ranks[heaped], heap[heaped])
            continue
        if total != ranks[0]:
            _sink(ranks, heap, heaped, keys, total, best)
            continue
        heaped -= 1
        _sink(ranks, heap, heaped, keys, ranks[heaped], heap[heaped])
        left, right, new = keys[best] >> 32, keys[best] & LOW, 256 + made
        shift, size = sizes[left], sizes[left] + sizes[right]
        sizes[new] = size
        merges[made, 0], merges[made, 1] = left, right
        made += 1
        if 2 * (ends[best] - begins[best]) > len(sides):
            sides = np.empty(4 * (ends[best] - begins[best]), np.int32)
            spots = np.empty(4 * (ends[best] - begins[best]), np.int32)
        noted, seen = 0, 0
        for at in range(begins[best], ends[best]):
            place = places[at]
            middle = place + shift
            if tokens[place] != left or tokens[middle] != right:
                continue
            times = counts[owners[place]]
            tokens[middle] = INSIDE
            tokens[place] = new
            tokens[place + size - 1] = new
            before, after = tokens[place - 1], tokens[place + size]
            if before >= 0:
                if before == new:
                    gains[second + left] -= times
                else:
                    losses[before] += times
                if lists[before] == 0:
                    touched[seen] = before
                    seen += 1
                lists[before] += 1
                gains[before] += times
                sides[noted], spots[noted] = before, place - sizes[before]
                noted += 1
            if after >= 0:
                side = second + after
                losses[side] += times
                if lists[side] == 0:
                    touched[seen] = side
                    seen += 1
                lists[side] += 1
                gains[side] += times
                sides[noted], spots[noted] = side, place
                noted += 1
        if pairs + seen > len(keys) - 1:
            keys, totals = _longer(keys, 2 * (pairs + seen)), _longer(totals, 2 * (pairs + seen))
            begins, ends = _longer(begins, 2 * (pairs + seen)), _longer(ends, 2 * (pairs + seen))
        if heaped + seen > len(heap):
            ranks, wider = _longer(ranks, 2 * (heaped + seen)), np.empty(2 * (heaped + seen), np.int32)
            wider[:heaped] = heap[:heaped]
            heap = wider
        if 2 * (pairs + seen) > len(slots):
            slots = _index(keys, pairs, 4 * (pairs + seen))
        if held + noted > len(places):
            room = np.empty(len(places) + len(places) // 2 + noted, np.int32)
            room[:held] = places[:held]
            places = room
        mask = np.uint64(len(slots) - 1)
        for item in range(seen):
            side = np.int64(touched[item])
            if losses[side]:
                key = side << 32 | left if side < second else right << 32 | (side - second)
                slot = _slot(key) & mask
                while slots[slot] and keys[slots[slot] - 1] != key:
                    slot = (slot + np.uint64(1)) & mask
                if slots[slot]:
                    totals[slots[slot] - 1] -= losses[side]
                losses[side] = 0
            if gains[side] >= least:
                key = side << 32 | new if side < second else np.int64(new) << 32 | (side - second)
                slot = _slot(key) & mask
                while slots[slot]:
                    slot = (slot + np.uint64(1)) & mask
                keys[pairs], totals[pairs], begins[pairs], ends[pairs] = key, gains[side], held, held
                held += lists[side]
                lists[side] = -1 - pairs
                _push(ranks, heap, heaped, keys, gains[side], pairs)
                heaped += 1
                pairs += 1
                slots[slot] = pairs
            gains[side] = 0
        for item in range(noted):
            pair = -1 - lists[sides[item]]
            if pair >= 0:
                places[ends[pair]] = spots[item]
                ends[pair] += 1
        for item in range(seen):
            lists[touched[item]] = 0
    return merges[:made]


@njit(cache=True, nogil=True)
def _lay_out(data: Any, offsets: Any, ids: Any) -> Any:
    """Words of two bytes and more as ids, EDGE before, between and after them: (tokens int32[:], owners int32[:])."""
    total = 1
    for word in range(len(offsets) - 1):
        size = offsets[word + 1] - offsets[word]
        total += size + 1 if size > 1 else 0
    tokens, owners, place = np.empty(total, np.int32), np.empty(total, np.int32), 1
    tokens[0] = EDGE
    for word in range(len(offsets) - 1):
        if offsets[word + 1] - offsets[word] > 1:
            for k in range(offsets[word], offsets[word + 1]):
                tokens[place] = ids[data[k]]
                owners[place] = word
                place += 1
            tokens[place] = EDGE
            place += 1
    return tokens, owners


@njit(cache=True, nogil=True)
def _first_pairs(tokens: Any, owners: Any, counts: Any, least: int) -> Any:
    """The pairs of bytes met `least` times or more: (keys, totals, begins, ends: int64[m], places: int32[:]).

    Pair k is `keys[k] >> 32` before `keys[k] & LOW`, met totals[k] times, at places[begins[k]:ends[k]], ascending.
    """
    sums, numbers = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    for place in range(1, len(tokens) - 1):
        if tokens[place] >= 0 and tokens[place + 1] >= 0:
            pair = tokens[place] << 8 | tokens[place + 1]
            sums[pair] += counts[owners[place]]
            numbers[pair] += 1
    kept = np.flatnonzero(sums >= least)
    keys, totals = (kept >> 8) << 32 | kept & 255, sums[kept]
    begins, held = np.empty(len(kept), np.int64), 0
    for k in range(len(kept)):
        begins[k] = held
        held += numbers[kept[k]]
        numbers[kept[k]] = begins[k]
    places = np.empty(held, np.int32)
    for place in range(1, len(tokens) - 1):
        if tokens[place] >= 0 and tokens[place + 1] >= 0:
            pair = tokens[place] << 8 | tokens[place + 1]
            if sums[pair] >= least:
                places[numbers[pair]] = place
                numbers[pair] += 1
    return keys, totals, begins, numbers[kept], places


@njit(cache=True, nogil=True)
def _slot(key: int) -> Any:
    """A pair's hash."""
    value = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@njit(cache=True, nogil=True)
def _index(keys: Any, pairs: int, room: int) -> Any:
    """Pairs by key, open addressing: int32[power of two of at least `room`], 0 or the pair's number and 1."""
    size = 64
    while size < room:
        size *= 2
    slots, mask = np.zeros(size, np.int32), np.uint64(size - 1)
    for pair in range(pairs):
        slot = _slot(keys[pair]) & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = pair + 1
    return slots


@njit(cache=True, nogil=True)
def _longer(values: Any, size: int) -> Any:
    """A copy of an int64 array with room for `size`."""
    wider = np.empty(size, np.int64)
    wider[: len(values)] = values
    return wider


@njit(cache=True, nogil=True)
def _push(ranks: Any, heap: Any, heaped: int, keys: Any, total: int, pair: int) -> None:
    """Puts a pair into a heap of `heaped`; the highest total is on top, then the smallest key."""
    place = heaped
    while place:
        above = (place - 1) >> 1
        if ranks[above] > total or (ranks[above] == total and keys[heap[above]] < keys[pair]):
            break
        ranks[place], heap[place] = ranks[above], heap[above]
        place = above
    ranks[place], heap[place] = total, pair


@njit(cache=True, nogil=True)
def _sink(ranks: Any, heap: Any, heaped: int, keys: Any, total: int, pair: int) -> None:
    """Puts a pair in the place of the heap's top."""
    place, below = 0, 1
    while below < heaped:
        other = below + 1
        if other < heaped and (
            ranks[other] > ranks[below] or (ranks[other] == ranks[below] and keys[heap[other]] < keys[heap[below]])
        ):
            below = other
        if ranks[below] < total or (ranks[below] == total and keys[heap[below]] > keys[pair]):
            break
        ranks[place], heap[place] = ranks[below], heap[below]
        place, below = below, 2 * below + 1
    ranks[place], heap[place] = total, pair
