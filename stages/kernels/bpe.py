"""Byte-pair merges from counted words: the pair with the highest count, ties to the smaller ids, again and again.

Reads the bytes of distinct words and their counts; writes the merges in order. The words lie one after the other in one
array, each pair knows the places where it was made, a heap knows the best pair; what became stale is found out when it
is met. Rare pairs stay out of the heap until the bar is lowered to them, since few are ever merged. The trade-off:
memory for speed, 16–21 bytes for each byte of distinct words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inner, kernel, leaf, zero_array

EDGE, INSIDE = -1, -2
"""What stands between words; what stands where a token's right half began."""
LOW = 0xFFFFFFFF
KEY, TOTAL, BEGIN, END = range(4)
"""Columns of the pairs, int64[m, 4]: a pair's left id << 32 | its right one, how often it is met, and where in the list
of places its own begin and end, ascending."""
GAIN, LIST = range(2)
"""Columns of the sides, int64[2 × ids, 2]: what a merge adds to the pair of its new token with a neighbour, and how
many places of it were noted (then: where in the list of places the next one goes, -1 for a pair too rare). Left
neighbours come first."""


@kernel
def learn_merges(data: Any, offsets: Any, counts: Any, ids: Any, most: int, least: int) -> Any:
    """At most `most` merges of pairs met `least` times or more: int32[m, 2], the ids that merge k joins to 256 + k.

    Word k is `data[offsets[k]:offsets[k + 1]]` (uint8[:], int64[n + 1]; words and bytes together fewer than 2^31), met
    counts[k] times (int64[n]). ids: int32[256], the id of each byte. The rule and its ties are those of BpeTrainer
    (huggingface/tokenizers, tokenizers/src/models/bpe/trainer.rs): the highest count, then the smaller first id, then
    the smaller second. The order of the words changes nothing.
    """
    tokens, owners = _lay_out(data, offsets, counts, ids)
    pairs, places, rows, longest = _first_pairs(tokens, owners, counts, least)
    held, heaped, made, bar = pairs[rows - 1, END] if rows else 0, np.int64(0), 0, 1 << 62
    slots, heap = _index(pairs, rows, 4 * rows), empty_array((1024, 2), np.int64)
    merges, sizes = empty_array((most, 2), np.int32), np.ones(256 + most, np.int32)
    sides, touched = zero_array((2 * (256 + most), 2), np.int64), empty_array(2 * (256 + most), np.int32)
    notes = empty_array((2 * longest, 2), np.int32)
    while made < most and (heaped or bar > least):
        if heaped == 0:
            bar = max(least, bar >> 1)
            heap, heaped = _fill(heap, pairs, rows, bar)
            continue
        best, total = heap[0, 1], pairs[heap[0, 1], TOTAL]
        if total >= bar and total != heap[0, 0]:
            _sink(heap, heaped, pairs, total, best)
            continue
        heaped -= 1
        _sink(heap, heaped, pairs, heap[heaped, 0], heap[heaped, 1])
        if total < bar:
            continue
        pairs[best, TOTAL] = 0
        left, right = pairs[best, KEY] >> 32, pairs[best, KEY] & LOW
        sizes[256 + made] = sizes[left] + sizes[right]
        merges[made, 0], merges[made, 1] = left, right
        found = places[pairs[best, BEGIN] : pairs[best, END]]
        noted, seen, again = _merge(
            tokens, owners, counts, found, sizes, left, right, 256 + made, sides, touched, notes
        )
        if rows + seen > len(pairs):
            pairs = _longer(pairs, 2 * (rows + seen))
        if heaped + seen > len(heap):
            heap = _longer(heap, 2 * (heaped + seen))
        if 2 * (rows + seen) > len(slots):
            slots = _index(pairs, rows, 4 * (rows + seen))
        before = rows
        rows, held = _enter(pairs, rows, held, slots, left, right, 256 + made, sides, touched[:seen], least, again)
        for row in range(before, rows):
            if pairs[row, TOTAL] >= bar:
                _push(heap, heaped, pairs, row)
                heaped += 1
        _place(places, sides, touched[:seen], notes[:noted])
        made += 1
    return merges[:made]


@leaf
def _merge(
    tokens: Any,
    owners: Any,
    counts: Any,
    found: Any,
    sizes: Any,
    left: int,
    right: int,
    new: int,
    sides: Any,
    touched: Any,
    notes: Any,
) -> Any:
    """Joins left and right to new at all places where they still are; sums up what that does to pairs in `sides`.

    Returns how many rows of `notes` (side, place of the new pair) and of `touched` (sides) were written, and how often
    the token joined was followed by another such.
    """
    noted, seen, again = 0, 0, 0
    shift, size, second = sizes[left], sizes[new], len(sizes)
    for place in found:
        if tokens[place] != left or tokens[place + shift] != right:
            continue
        times = counts[owners[place]] if place < len(owners) else 1
        tokens[place + shift] = INSIDE
        tokens[place] = new
        tokens[place + size - 1] = new
        for side in (0, 1):
            other = tokens[place + size] if side else tokens[place - 1]
            if other < 0:
                continue
            row = second + other if side else other
            if other == new:  # to the left, joined just before: it was noted before the token that is now gone
                sides[second + left, GAIN] -= times
                again += times
            if sides[row, LIST] == 0:
                touched[seen] = row
                seen += 1
            sides[row, GAIN] += times
            sides[row, LIST] += 1
            notes[noted, 0], notes[noted, 1] = row, place if side else place - sizes[other]
            noted += 1
    return noted, seen, again


@leaf
def _enter(
    pairs: Any,
    rows: int,
    held: int,
    slots: Any,
    left: int,
    right: int,
    new: int,
    sides: Any,
    touched: Any,
    least: int,
    again: int,
) -> Any:
    """Takes losses from old pairs and adds the new ones met `least` times or more: (rows, held) after that."""
    mask, second = np.uint64(len(slots) - 1), len(sides) >> 1
    for side in touched:
        other = np.int64(side - second if side >= second else side)
        loss = sides[side, GAIN] + (again if side == second + left else 0)
        if other != new and loss:
            key = right << 32 | other if side >= second else other << 32 | left
            slot = _hash(key) & mask
            while slots[slot] and pairs[slots[slot] - 1, KEY] != key:
                slot = (slot + np.uint64(1)) & mask
            if slots[slot]:
                pairs[slots[slot] - 1, TOTAL] -= loss
        if sides[side, GAIN] >= least:
            key = new << 32 | other if side >= second else other << 32 | new
            slot = _hash(key) & mask
            while slots[slot]:
                slot = (slot + np.uint64(1)) & mask
            size = sides[side, LIST]
            pairs[rows, KEY], pairs[rows, TOTAL] = key, sides[side, GAIN]
            pairs[rows, BEGIN], pairs[rows, END] = held, held + size
            sides[side, LIST] = held
            held += size
            rows += 1
            slots[slot] = rows
        else:
            sides[side, LIST] = -1
    return rows, held


@leaf
def _place(places: Any, sides: Any, touched: Any, notes: Any) -> None:
    """Writes the noted places of new pairs into their lists and empties the sides."""
    for item in range(len(notes)):
        side = notes[item, 0]
        if sides[side, LIST] >= 0:
            places[sides[side, LIST]] = notes[item, 1]
            sides[side, LIST] += 1
    for side in touched:
        sides[side, GAIN] = sides[side, LIST] = 0


@inner
def _lay_out(data: Any, offsets: Any, counts: Any, ids: Any) -> Any:
    """Words of two bytes and more as ids, EDGE before, between and after them: (tokens int32[:], owners int32[:]).

    Those met once come last, so that their places need no owner: to ask for it would cost a cache miss.
    """
    total, owned = 1, 1
    for word in range(len(counts)):
        size = offsets[word + 1] - offsets[word]
        if size > 1:
            total += size + 1
            owned += 0 if counts[word] == 1 else size + 1
    tokens, owners, place = empty_array(total, np.int32), empty_array(owned, np.int32), 1
    tokens[0] = EDGE
    for once in (False, True):
        for word in range(len(counts)):
            if offsets[word + 1] - offsets[word] > 1 and (counts[word] == 1) == once:
                for k in range(offsets[word], offsets[word + 1]):
                    tokens[place] = ids[data[k]]
                    if not once:
                        owners[place] = word
                    place += 1
                tokens[place] = EDGE
                place += 1
    return tokens, owners


@inner
def _first_pairs(tokens: Any, owners: Any, counts: Any, least: int) -> Any:
    """The pairs of bytes met `least` times or more, the list of places, how many the pairs are, the most places of one.

    The list has room for all that ever come: a place where a pair is joined makes two at most, and one token fewer.
    """
    rows, held, longest = 0, 0, 1
    sums = zero_array((1 << 16, 2), np.int64)
    for place in range(1, len(tokens) - 1):
        if tokens[place] >= 0 and tokens[place + 1] >= 0:
            code = tokens[place] << 8 | tokens[place + 1]
            sums[code, 0] += counts[owners[place]] if place < len(owners) else 1
            sums[code, 1] += 1
    pairs = empty_array((1 << 17, 4), np.int64)
    for code in range(1 << 16):
        if sums[code, 0] >= least:
            pairs[rows, KEY], pairs[rows, TOTAL] = np.int64(code >> 8) << 32 | code & 255, sums[code, 0]
            pairs[rows, BEGIN], pairs[rows, END] = held, held
            held += sums[code, 1]
            longest = max(longest, sums[code, 1])
            sums[code, 1] = rows
            rows += 1
    places = empty_array(3 * len(tokens), np.int32)
    for place in range(1, len(tokens) - 1):
        if tokens[place] >= 0 and tokens[place + 1] >= 0:
            code = tokens[place] << 8 | tokens[place + 1]
            if sums[code, 0] >= least:
                places[pairs[sums[code, 1], END]] = place
                pairs[sums[code, 1], END] += 1
    return pairs, places, rows, longest


@leaf
def _hash(key: int) -> Any:
    """A pair's hash."""
    value = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@inner
def _index(pairs: Any, rows: int, room: int) -> Any:
    """Pairs by key, open addressing: int32[power of two of at least `room`], 0 or the pair's row and 1."""
    size = 64
    while size < room:
        size *= 2
    slots, mask = zero_array(size, np.int32), np.uint64(size - 1)
    for row in range(rows):
        slot = _hash(pairs[row, KEY]) & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = row + 1
    return slots


@inner
def _longer(rows: Any, size: int) -> Any:
    """A copy of int64 rows with room for `size`."""
    longer = empty_array((size, rows.shape[1]), np.int64)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            longer[row, column] = rows[row, column]
    return longer


@inner
def _fill(heap: Any, pairs: Any, rows: int, bar: int) -> Any:
    """A heap of the pairs met `bar` times or more: (heap, how many)."""
    heaped = np.int64(0)
    for row in range(rows):
        if pairs[row, TOTAL] >= bar:
            if heaped == len(heap):
                heap = _longer(heap, 2 * heaped)
            _push(heap, heaped, pairs, row)
            heaped += 1
    return heap, heaped


@leaf
def _push(heap: Any, heaped: int, pairs: Any, row: int) -> None:
    """Puts a pair into a heap of `heaped`, int64[:, 2] of total and row; the highest total is on top, then the smallest
    key."""
    place, total = heaped, pairs[row, TOTAL]
    while place:
        above = (place - 1) >> 1
        if heap[above, 0] > total or (heap[above, 0] == total and pairs[heap[above, 1], KEY] < pairs[row, KEY]):
            break
        heap[place, 0], heap[place, 1] = heap[above, 0], heap[above, 1]
        place = above
    heap[place, 0], heap[place, 1] = total, row


@leaf
def _sink(heap: Any, heaped: int, pairs: Any, total: int, row: int) -> None:
    """Puts a pair in the place of the heap's top."""
    place, below = 0, 1
    while below < heaped:
        if below + 1 < heaped:
            gap = heap[below + 1, 0] - heap[below, 0]
            below += gap > 0 or (gap == 0 and pairs[heap[below + 1, 1], KEY] < pairs[heap[below, 1], KEY])
        if heap[below, 0] < total or (heap[below, 0] == total and pairs[heap[below, 1], KEY] > pairs[row, KEY]):
            break
        heap[place, 0], heap[place, 1] = heap[below, 0], heap[below, 1]
        place, below = below, 2 * below + 1
    heap[place, 0], heap[place, 1] = total, row
