"""Repeated n-grams of words, and how often words occur: what the Gopher rules count of a text's words.

Reads the words' hashes and marks as `kernels.words` gives them; writes characters and counts for each text. An n-gram
can only repeat where both (n - 1)-grams in it do, so each n looks only at such places, of which few are left for the
longer ones. The shortest n-grams are told apart by a 64-bit hash, longer ones by the numbers of the two in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, kernel, leaf, zero_array

REAL, LETTER, SHIFT = 1, 2, np.uint32(7)
"""A word's flags as `kernels.words` gives them, and how far its length is shifted above them."""
MIX, HALF, ONE = np.uint64(0xD6E8FEB86659FD93), np.uint64(32), np.uint64(1)
"""A hash's multiplier; how far the first of two numbers is shifted above the second; a step."""


@kernel
def count_grams(
    hashes: Any, marks: Any, firsts: Any, lasts: Any, widths: Any, places: Any, sizes: Any, limits: Any
) -> Any:
    """Characters in n-grams of the words of n texts: int64[n, rules].

    Text k has words firsts[k] to lasts[k]: hashes uint64[w], marks uint32[w]. widths: int64[m], the n's in ascending
    order, each once; places: int64[m, 2], the column for the commonest n-gram's characters (overlaps and blanks between
    words counted, the first seen wins a tie) and that for characters in n-grams that occurred before (after one, the
    next n words are passed over); -1 for none. Columns after the first whose share of a text's characters, sizes
    int64[n], is over its limit, float64[rules], are -1.
    """
    n, most = len(firsts), np.int64(0)
    for k in range(n if len(widths) else 0):
        most = max(most, lasts[k] - firsts[k])
    totals, chars = zero_array((n, len(limits)), np.int64), zero_array(most + 1, np.int64)
    keys, seen_keys = empty_array(most + 1, np.uint64), empty_array(most + 1, np.uint64)
    spots, ids, seen = (
        empty_array(most + 1, np.uint32),
        empty_array(most + 1, np.uint32),
        empty_array(most + 1, np.uint32),
    )
    counts, met, often = (
        empty_array(most + 1, np.uint32),
        empty_array(most + 1, np.uint8),
        empty_array(4 * _slots(most), np.uint8),
    )
    table = empty_array(_slots(most), np.uint32)
    for k in range(n if most else 0):
        words = hashes[firsts[k] : lasts[k]]
        for j in range(len(words)):
            chars[j + 1] = chars[j] + (marks[firsts[k] + j] >> SHIFT)
        width, left = widths[0], _begin(words, widths[0], keys, spots, often)
        kinds = _number(keys, left, spots, table, seen_keys, ids, counts, seen)
        for rule in range(len(widths)):
            while width < widths[rule]:
                width, left = width + 1, _lengthen(left, spots, ids, counts, keys)
                kinds = _number(keys, left, spots, table, seen_keys, ids, counts, seen)
            if places[rule, 0] >= 0 and len(words) >= width:
                times, first = _commonest(counts, seen, kinds)
                totals[k, places[rule, 0]] = times * (chars[first + width] - chars[first] + width - 1)
            if places[rule, 1] >= 0:
                totals[k, places[rule, 1]] = _repeats(spots, ids, left, kinds, width, chars, met)
            if _is_over(totals[k], sizes[k], places[rule], limits):
                for later in places[rule + 1 :]:
                    for column in later:
                        if column >= 0:
                            totals[k, column] = -1
                break
    return totals


@leaf
def _is_over(totals: Any, size: int, columns: Any, limits: Any) -> Any:
    """Whether one of some columns, those that are none aside, is over its limit."""
    over = False
    for column in columns:
        over |= column >= 0 and totals[column] / size > limits[column]
    return over


@leaf
def _slots(most: int) -> Any:
    """Slots of a table for so many n-grams."""
    slots = 4
    while slots < 2 * most:
        slots *= 2
    return slots


@leaf
def _shift(slots: int) -> Any:
    """How far a key is shifted down to number a slot."""
    shift = np.uint64(64)
    while 1 << (64 - np.int64(shift)) < slots:
        shift -= ONE
    return shift


@leaf
def _begin(words: Any, width: int, keys: Any, spots: Any, often: Any) -> Any:
    """Writes the hashes and the spots of those n-grams of a text's words that may repeat; how many.

    Most occur once: a first pass marks bytes of `often` by a few bits of each key, without a branch, and leaves out
    whatever shares its byte with none.
    """
    grams, slots = max(len(words) - width + 1, 0), 4 * _slots(len(words))
    shift = _shift(slots)
    often[:slots] = 0
    keys[:grams] = 0
    for j in range(width if grams else 0):
        part = words[j : j + grams]
        for i in range(grams):
            keys[i] = keys[i] * MIX + part[i]
    for key in keys[:grams]:
        slot = key >> shift
        often[slot] = 1 + (often[slot] > 0)
    left = np.int64(0)
    for i in range(grams):
        key = keys[i]
        spots[left], keys[left] = i, key
        left += often[key >> shift] > 1
    return left


@leaf
def _number(keys: Any, left: int, spots: Any, table: Any, seen_keys: Any, ids: Any, counts: Any, seen: Any) -> Any:
    """Numbers the n-grams of these keys from 1 on, in order of their first spots: how many they are.

    ids: each one's number; by number, seen_keys: its key, counts: how often it was met, seen: its first spot. table:
    room for numbers by slot: a small one, since most of the time goes to the memory that it takes.
    """
    slots, kinds = _slots(left), np.uint32(0)
    mask, shift = np.uint64(slots - 1), _shift(slots)
    table[:slots] = 0
    for j in range(left):
        key = keys[j]
        slot = key * MIX >> shift
        while table[slot] and seen_keys[table[slot]] != key:
            slot = (slot + ONE) & mask
        number = table[slot]
        if number == 0:
            kinds += np.uint32(1)
            number = kinds
            table[slot], seen_keys[number], counts[number], seen[number] = number, key, 0, spots[j]
        ids[j] = number
        counts[number] += np.uint32(1)
    return np.int64(kinds)


@leaf
def _commonest(counts: Any, seen: Any, kinds: int) -> Any:
    """The commonest n-gram, the first seen of them: how often it was met, and its first spot."""
    times, first = np.uint32(1), np.uint32(0)
    for number in range(1, kinds + 1):
        if counts[number] > times:
            times, first = counts[number], seen[number]
    return np.int64(times), np.int64(first)


@leaf
def _repeats(spots: Any, ids: Any, left: int, kinds: int, width: int, chars: Any, met: Any) -> Any:
    """Characters in n-grams that occurred before, at spots not passed over."""
    total, free = np.int64(0), np.int64(0)
    met[: kinds + 1] = 0
    j, end = np.uint64(0), np.uint64(left)
    while j < end:
        spot, number = np.int64(spots[j]), ids[j]
        j += ONE
        if not met[number]:
            met[number] = 1
            continue
        free = spot + width
        total += chars[free] - chars[spot]
        while j < end and np.int64(spots[j]) < free:
            j += ONE
    return total


@leaf
def _lengthen(left: int, spots: Any, ids: Any, counts: Any, keys: Any) -> Any:
    """Writes the spots of the n-grams one word longer that may repeat, and keys of two numbers each: how many.

    No branch: whether one may is not to be foretold.
    """
    count, last, one, before = np.int64(0), np.uint32(0), np.uint32(0), np.int64(0)
    for j in range(left):
        spot, two = spots[j], ids[j]
        again = np.int64(counts[two] > 1)
        spots[count], keys[count] = last, np.uint64(one) << HALF | np.uint64(two)
        count += before & again & np.int64(spot - last == 1)
        last, one, before = spot, two, again
    return count


@kernel
def count_words(hashes: Any, marks: Any, firsts: Any, lasts: Any, sought: Any) -> Any:
    """int64[n, 4] for n texts: words that are not symbols alone, their characters, words with a letter, distinct words
    among `sought`.

    Text k has words firsts[k] to lasts[k]. sought: uint64[slots], an open-addressing table of hashes by their top bits,
    0 where free.
    """
    counts, seen = zero_array((len(firsts), 4), np.int64), np.full(len(sought), -1, np.int64)
    shift, mask, every = _shift(len(sought)), np.uint64(len(sought) - 1), np.int64(0)
    for key in sought:
        every += key != 0
    for k in range(len(firsts)):
        real = characters = letters = distinct = np.int64(0)
        for mark in marks[firsts[k] : lasts[k]]:
            real += np.int64(mark & np.uint32(REAL))
            characters += np.int64((mark & np.uint32(REAL)) * (mark >> SHIFT))
            letters += np.int64((mark & np.uint32(LETTER)) >> np.uint32(1))
        for key in hashes[firsts[k] : lasts[k]]:
            slot = key >> shift
            while sought[slot] != key and sought[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            if sought[slot] == key and seen[slot] != k:
                seen[slot] = k
                distinct += 1
                if distinct == every:  # most texts soon hold them all, and no other word need be looked up
                    break
        counts[k, 0], counts[k, 1], counts[k, 2], counts[k, 3] = real, characters, letters, distinct
    return counts
