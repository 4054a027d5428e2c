"""Repeated n-grams of words, and how often words occur: what the Gopher rules count of a text's words.

Reads the words' hashes and marks as `kernels.words` gives them; writes characters and counts for each text. The
shortest n-grams are told apart by a 64-bit hash. A longer one is the two that overlap in it, one word shorter: it can
repeat only where both do, so each n looks at the places that the n before it left and asks no more than whether the
next n-gram is that of the place where the first was seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

REAL, LETTER, SHIFT = 1, 2, np.uint32(7)
"""A word's flags as `kernels.words` gives them, and how far its length is shifted above them."""

SEEN = np.uint32(1 << 31)
"""Set in an n-gram's count once it has been passed."""
MIX, LOW, HALF = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xFFFFFFFF), np.uint64(32)
"""A hash's multiplier; the low half of a table's entry, a place, and how far the stamp above it is shifted."""

leaf = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""A kernel for other kernels: no reference counts, no wrappers for Python, which cost more than the work."""


@njit(cache=True, nogil=True)
def count_grams(hashes: Any, marks: Any, firsts: Any, lasts: Any, widths: Any, places: Any, columns: int) -> Any:
    """Characters in n-grams of the words of n texts: int64[n, rules].

    Text k has words firsts[k] to lasts[k]: hashes uint64[w], marks uint32[w]. widths: int64[m], the n's in ascending
    order, each once; places: int64[m, 2], the column for the commonest n-gram's characters (overlaps and blanks between
    words counted, the first seen wins a tie) and that for characters in n-grams that occurred before (after one, the
    next n words are passed over); -1 for none; columns: how many there are.
    """
    n, most = len(firsts), np.int64(0)
    for k in range(n):
        most = max(most, lasts[k] - firsts[k])
    totals, chars, keys = np.zeros((n, columns), np.int64), np.zeros(most + 1, np.int64), np.empty(most, np.uint64)
    spots, ids, fresh, counts = (
        np.empty(most + 1, np.uint32),
        np.empty(most + 1, np.uint32),
        np.empty(most + 1, np.uint32),
        np.empty(most + 1, np.uint32),
    )
    table, often, stamp = np.zeros(_slots(most), np.uint64), np.empty(4 * _slots(most), np.uint8), np.uint64(0)
    for k in range(n if len(widths) else 0):
        words, j = lasts[k] - firsts[k], 0
        for word in range(words):
            chars[word + 1] = chars[word] + (marks[firsts[k] + word] >> SHIFT)
        left = _begin(hashes[firsts[k] : lasts[k]], widths[0], spots, keys, often)
        ids[: words + 1] = words
        counts[words] = 0
        for width in range(widths[0], widths[-1] + 1):
            stamp += np.uint64(1)
            if width == widths[0]:
                best, first = _group(keys, spots, left, fresh, counts, table, stamp)
            else:
                best, first = _extend(words, spots, left, ids, fresh, counts, table, stamp)
            asked = width == widths[j]
            if asked and places[j, 0] >= 0 and words >= width:
                totals[k, places[j, 0]] = best * (chars[first + width] - chars[first] + width - 1)
            adds = asked and places[j, 1] >= 0
            left, repeated = _keep(words, spots, left, ids, fresh, counts, width, chars, adds)
            if adds:
                totals[k, places[j, 1]] = repeated
            j += asked
    return totals


@leaf
def _slots(most: int) -> Any:
    """Slots of a table for so many n-grams."""
    slots = 4
    while slots < 2 * most:
        slots *= 2
    return slots


@leaf
def _begin(hashes: Any, width: int, spots: Any, keys: Any, often: Any) -> Any:
    """Writes the hashes of the n-grams of a text's words, and the spots of those that may repeat; how many.

    Most occur once: a first pass marks bytes of `often` by a few bits of each key, without a branch, and leaves out
    whatever shares its byte with none.
    """
    grams, slots, shift = max(len(hashes) - width + 1, 0), 4 * _slots(len(hashes)), np.uint64(64)
    while 1 << (64 - np.int64(shift)) < slots:
        shift -= np.uint64(1)
    often[:slots] = 0
    keys[:grams] = 0
    for j in range(width if grams else 0):
        part = hashes[j : j + grams]
        for i in range(grams):
            key = (keys[i] ^ part[i]) * MIX
            keys[i] = key ^ key >> HALF
    for key in keys[:grams]:
        slot = key * MIX >> shift
        often[slot] = 1 + (often[slot] > 0)
    left = np.int64(0)
    for i in range(grams):
        spots[left] = i
        left += often[keys[i] * MIX >> shift] > 1
    return left


@leaf
def _group(keys: Any, spots: Any, left: int, fresh: Any, counts: Any, table: Any, stamp: Any) -> Any:
    """Counts the n-grams at the spots by their keys: (the commonest's count, its first place).

    fresh: the first spot with the same n-gram; counts: how often the n-gram was met, at its first spot. table: first
    spots, under the stamp of this text and n.
    """
    best, place, mask = np.int64(1), np.uint64(0), np.uint64(_slots(left) - 1)
    for spot in spots[:left]:
        key = keys[spot]
        first, slot = np.uint64(spot), (key >> np.uint64(16)) & mask
        while table[slot] >> HALF == stamp:
            other = table[slot] & LOW
            if keys[other] == key:
                first = other
                break
            slot = (slot + np.uint64(1)) & mask
        fresh[spot] = first
        if first == spot:
            table[slot] = stamp << HALF | first
            counts[spot] = 1
            continue
        counts[first] += np.uint32(1)
        count = np.int64(counts[first])
        if count > best or (count == best and first < place):
            best, place = count, first
    return best, np.int64(place)


@leaf
def _extend(words: int, spots: Any, left: int, ids: Any, fresh: Any, counts: Any, table: Any, stamp: Any) -> Any:
    """The same for n-grams one word longer. ids: the first spot with the same n-gram of the old n, `words` for none."""
    best, place, mask = np.int64(1), np.uint64(0), np.uint64(_slots(left) - 1)
    for spot in spots[:left]:
        old, follow, first = ids[spot], ids[spot + np.uint64(1)], np.uint64(spot)
        if follow == words:
            fresh[spot] = words
            continue
        if ids[old + np.uint64(1)] == follow:
            first = np.uint64(old)
        else:
            slot = (np.uint64(old) << HALF | np.uint64(follow)) * MIX >> HALF & mask
            while table[slot] >> HALF == stamp:
                other = table[slot] & LOW
                if ids[other] == old and ids[other + np.uint64(1)] == follow:
                    first = other
                    break
                slot = (slot + np.uint64(1)) & mask
            if first == spot:
                table[slot] = stamp << HALF | first
        fresh[spot] = first
        if first == spot:
            counts[spot] = 1
            continue
        counts[first] += np.uint32(1)
        count = np.int64(counts[first])
        if count > best or (count == best and first < place):
            best, place = count, first
    return best, np.int64(place)


@leaf
def _keep(
    words: int, spots: Any, left: int, ids: Any, fresh: Any, counts: Any, width: int, chars: Any, adds: bool
) -> Any:
    """Leaves the spots whose n-gram was counted more than once, and their ids: (how many, if it adds them up the
    characters in n-grams that occurred before, with n words passed over after each)."""
    kept, total, free, none = np.int64(0), np.int64(0), np.int64(0), np.uint32(words)
    for spot in spots[:left]:
        first = fresh[spot]
        again = counts[first] > np.uint32(1)
        spots[kept] = spot
        kept += again
        ids[spot] = first if again else none
        if adds and again and spot >= free:
            if counts[first] & SEEN:
                total += chars[spot + np.uint64(width)] - chars[spot]
                free = np.int64(spot) + width
            else:
                counts[first] |= SEEN
    return kept, total


@njit(cache=True, nogil=True)
def count_words(hashes: Any, marks: Any, firsts: Any, lasts: Any, sought: Any) -> Any:
    """int64[n, 4] for n texts: words that are not symbols alone, their characters, words with a letter, distinct words
    among `sought`.

    Text k has words firsts[k] to lasts[k]. sought: uint64[slots], an open-addressing table of hashes by their top bits,
    0 where free.
    """
    counts, seen = np.zeros((len(firsts), 4), np.int64), np.full(len(sought), -1, np.int64)
    shift, mask = np.uint64(64), np.uint64(len(sought) - 1)
    while 1 << (64 - np.int64(shift)) < len(sought):
        shift -= np.uint64(1)
    for k in range(len(firsts)):
        real = characters = letters = distinct = np.int64(0)
        for word in range(firsts[k], lasts[k]):
            mark, key = marks[word], hashes[word]
            is_real = np.int64(mark & REAL)
            real += is_real
            characters += is_real * np.int64(mark >> SHIFT)
            letters += (mark & LETTER) >> 1
            slot = key >> shift
            while sought[slot] != key and sought[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            found = sought[slot] == key
            # no branch: whether the next word is sought is not to be foretold
            distinct += found & (seen[slot] != k)
            seen[slot] = k if found else seen[slot]
        counts[k, 0], counts[k, 1], counts[k, 2], counts[k, 3] = real, characters, letters, distinct
    return counts
