"""Repeated n-grams of words, and how often words occur: what the Gopher rules count of a text's words.

Reads the words' hashes and marks as `kernels.words` gives them; writes characters and counts for each text. n-grams
are told apart by 48 and more bits of a hash. An n-gram can only repeat where its first words do, so each n looks at
the places that the n before it left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

REAL, LETTER, SHIFT = 1, 2, np.uint32(6)
"""A word's flags as `kernels.words` gives them, and how far its length is shifted above them."""

SEEN = np.uint64(1 << 31)
"""Set in a table's count and first place once the n-gram has been passed."""

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
    slots = 4
    while slots < 2 * most:
        slots *= 2
    table, chars = np.zeros((slots, 2), np.uint64), np.zeros(most + 1, np.int64)
    spots, found, keys = np.zeros(most, np.int64), np.zeros(most, np.int64), np.zeros(most, np.uint64)
    totals = np.zeros((n, columns), np.int64)
    stamp = np.uint64(0)
    for k in range(n):
        words = lasts[k] - firsts[k]
        for j in range(words):
            spots[j], keys[j] = j, 0
            chars[j + 1] = chars[j] + (marks[firsts[k] + j] >> SHIFT)
        left, before = words, np.int64(0)
        for j in range(len(widths)):
            stamp += np.uint64(1)
            if stamp == np.uint64(0xFFFF):
                for slot in range(len(table)):
                    table[slot, 0] = 0
                stamp = np.uint64(1)
            width = widths[j]
            slots = 4
            while slots < 2 * left:
                slots *= 2
            left, best, first = _count(
                hashes[firsts[k] : lasts[k]], before, width, spots, found, keys, left, table, slots - 1, stamp
            )
            if places[j, 0] >= 0 and words >= width:
                totals[k, places[j, 0]] = best * (chars[first + width] - chars[first] + width - 1)
            left, repeated = _keep(spots, found, keys, left, width, chars, table)
            if places[j, 1] >= 0:
                totals[k, places[j, 1]] = repeated
            before = width
    return totals


@leaf
def _count(
    hashes: Any,
    before: int,
    width: int,
    spots: Any,
    found: Any,
    keys: Any,
    left: int,
    table: Any,
    mask: int,
    stamp: Any,
) -> Any:
    """Counts the n-grams at the spots: (spots where there are n words, the commonest's count, its first place).

    keys: hashes of the `before` first words at each spot, drawn out to n. found: each spot's slot in the table, whose
    rows are (48 bits of the key and the stamp, count and first place).
    """
    best, place, size = np.int64(1), np.int64(0), len(hashes)
    while left > 0 and spots[left - 1] + width > size:
        left -= 1
    for i in range(left):
        spot, key = spots[i], keys[i]
        for j in range(spot + before, spot + width):
            key = (key ^ hashes[j]) * np.uint64(0xD6E8FEB86659FD93)
            key ^= key >> np.uint64(32)
        keys[i] = key
        slot = np.int64(key >> np.uint64(16)) & mask
        key = key & ~np.uint64(0xFFFF) | stamp
        while table[slot, 0] != key and table[slot, 0] & np.uint64(0xFFFF) == stamp:
            slot = (slot + 1) & mask
        if table[slot, 0] == key:
            table[slot, 1] += np.uint64(1 << 32)
            count, seen = np.int64(table[slot, 1] >> np.uint64(32)), np.int64(table[slot, 1] & np.uint64(0xFFFFFFFF))
            if count > best or (count == best and seen < place):
                best, place = count, seen
        else:
            table[slot, 0], table[slot, 1] = key, np.uint64(1 << 32 | spot)
        found[i] = slot
    return left, best, place


@leaf
def _keep(spots: Any, found: Any, keys: Any, left: int, width: int, chars: Any, table: Any) -> Any:
    """Leaves the spots whose n-gram was counted more than once: (how many, characters in n-grams that occurred before,
    with n words passed over after each)."""
    kept, total, free = np.int64(0), np.int64(0), np.int64(0)
    for i in range(left):
        spot, slot = spots[i], found[i]
        entry = table[slot, 1]
        if entry >> np.uint64(32) > np.uint64(1):
            spots[kept], keys[kept] = spot, keys[i]
            kept += 1
            if spot >= free:
                if entry & SEEN:
                    total += chars[spot + width] - chars[spot]
                    free = spot + width
                else:
                    table[slot, 1] = entry | SEEN
    return kept, total


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
