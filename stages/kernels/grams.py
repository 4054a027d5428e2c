"""Repeated n-grams of words, and how often words occur: what the Gopher rules count of a text's words.

Reads the words' hashes and marks as `kernels.words` gives them; writes characters and counts for each text. The shortest
n-grams are told apart by 63 bits of a hash; a longer one is the pair of the two, one word shorter, that overlap in it, so
it can repeat only where both do, and each n looks at the places that the n before it left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

REAL, LETTER, SHIFT = 1, 2, np.uint32(7)
"""A word's flags as `kernels.words` gives them, and how far its length is shifted above them."""

SEEN = np.uint64(1 << 31)
"""Set in a table's count and first place once the n-gram has been passed."""
MIX = np.uint64(0xD6E8FEB86659FD93)

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
    slots = _slots(most)
    table, chars = np.empty((slots, 2), np.uint64), np.zeros(most + 1, np.int64)
    spots, found, keys = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint64)
    often, totals = np.empty(4 * slots, np.uint8), np.zeros((n, columns), np.int64)
    for k in range(n if len(widths) else 0):
        words, width = lasts[k] - firsts[k], widths[0]
        for j in range(words):
            chars[j + 1] = chars[j] + (marks[firsts[k] + j] >> SHIFT)
        left = _begin(hashes[firsts[k] : lasts[k]], width, spots, keys, often)
        for j in range(len(widths)):
            while width < widths[j]:
                _, _ = _count(spots, found, keys, left, table)
                left, _ = _keep(spots, found, left, width, chars, table, False)
                left = _pair(spots, found, keys, left)
                width += 1
            best, first = _count(spots, found, keys, left, table)
            if places[j, 0] >= 0 and words >= width:
                totals[k, places[j, 0]] = best * (chars[first + width] - chars[first] + width - 1)
            left, repeated = _keep(spots, found, left, width, chars, table, places[j, 1] >= 0)
            if places[j, 1] >= 0:
                totals[k, places[j, 1]] = repeated
            left = _pair(spots, found, keys, left)
            width += 1
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
    """Writes the spots, and keys there, of the n-grams of a text's words that may repeat; how many.

    Most occur once: a first pass marks bytes of `often` by a few bits of each key, without a branch, and leaves out
    whatever shares its byte with none.
    """
    grams = len(hashes) - width + 1
    slots = 4 * _slots(len(hashes))
    shift = np.uint64(64)
    while 1 << (64 - np.int64(shift)) < slots:
        shift -= np.uint64(1)
    often[:slots] = 0
    for i in range(grams):
        key = np.uint64(0)
        for j in range(i, i + width):
            key = (key ^ hashes[j]) * MIX
            key ^= key >> np.uint64(32)
        key = (key | np.uint64(1)) * MIX
        keys[i] = key
        slot = key >> shift
        often[slot] = 1 + (often[slot] > 0)
    left = np.int64(0)
    for i in range(grams):
        spots[left], keys[left] = i, keys[i]
        left += often[keys[i] >> shift] > 1
    return left


@leaf
def _count(spots: Any, found: Any, keys: Any, left: int, table: Any) -> Any:
    """Counts the n-grams at the spots: (the commonest's count, its first place).

    found: each spot's slot in the table, whose rows are (key, count and first place).
    """
    best, place, slots = np.int64(1), np.int64(0), _slots(left)
    mask, empty = slots - 1, np.uint64(0)
    for slot in range(slots):
        table[slot, 0] = empty
    for i in range(left):
        key = keys[i]
        slot = np.int64((key * MIX) >> np.uint64(32)) & mask
        while table[slot, 0] != key and table[slot, 0] != empty:
            slot = (slot + 1) & mask
        if table[slot, 0] == key:
            table[slot, 1] += np.uint64(1 << 32)
            count, seen = np.int64(table[slot, 1] >> np.uint64(32)), np.int64(table[slot, 1] & np.uint64(0xFFFFFFFF))
            if count > best or (count == best and seen < place):
                best, place = count, seen
        else:
            table[slot, 0], table[slot, 1] = key, np.uint64(1 << 32 | spots[i])
        found[i] = slot
    return best, place


@leaf
def _keep(spots: Any, found: Any, left: int, width: int, chars: Any, table: Any, adds: bool) -> Any:
    """Leaves the spots whose n-gram was counted more than once: (how many, if it adds them up the characters in n-grams
    that occurred before, with n words passed over after each)."""
    kept, total, free = np.int64(0), np.int64(0), np.int64(0)
    for i in range(left):
        spot, slot = spots[i], found[i]
        entry = table[slot, 1]
        spots[kept], found[kept] = spot, slot
        again = entry >> np.uint64(32) > np.uint64(1)
        kept += again
        if adds and again and spot >= free:
            if entry & SEEN:
                total += chars[spot + width] - chars[spot]
                free = spot + width
            else:
                table[slot, 1] = entry | SEEN
    return kept, total


@leaf
def _pair(spots: Any, found: Any, keys: Any, left: int) -> Any:
    """Leaves the spots with a spot right after them, and writes the pair of their slots as the key; how many."""
    kept = np.int64(0)
    for i in range(left - 1):
        spots[kept], keys[kept] = spots[i], np.uint64((found[i] + 1) << 32 | found[i + 1])
        kept += spots[i + 1] == spots[i] + 1
    return kept


@njit(cache=True, nogil=True)
def count_words(hashes: Any, marks: Any, firsts: Any, lasts: Any, sought: Any) -> Any:
    """int64[n, 4] for n texts: words that are not symbols alone, their characters, words with a letter, distinct words
    among `sought`.

    Text k has words firsts[k] to lasts[k]. sought: uint64[slots], an open-addressing table of hashes by their top bits,
    0 where free.
    """
    counts, seen = np.zeros((len(firsts), 4), np.int64), np.full(len(sought), -1, np.int64)
    shift, mask = np.uint64(64), len(sought) - 1
    while 1 << (64 - np.int64(shift)) < len(sought):
        shift -= np.uint64(1)
    for k in range(len(firsts)):
        real = characters = letters = distinct = 0
        for word in range(firsts[k], lasts[k]):
            if marks[word] & REAL:
                real += 1
                characters += marks[word] >> SHIFT
            letters += (marks[word] & LETTER) >> 1
            slot = np.int64(hashes[word] >> shift)
            while sought[slot] != 0:
                if sought[slot] == hashes[word]:
                    distinct += seen[slot] != k
                    seen[slot] = k
                    break
                slot = (slot + 1) & mask
        counts[k, 0], counts[k, 1], counts[k, 2], counts[k, 3] = real, characters, letters, distinct
    return counts
