"""Repeated n-grams of words, and how often words occur: what the Gopher rules count of a text's words.

Reads the words' hashes and marks as `kernels.words` gives them; writes characters and counts for each text. All n's are
counted in one walk: a place is followed along the first place with the same shortest n-gram, word by word; where the
two part, a table tells which place went that way first, and the walk goes on along that one. The shortest n-grams, and
the ways from a place, are told apart by a 64-bit hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stages.kernels.leaf import inner, leaf

REAL, LETTER, SHIFT = 1, 2, np.uint32(7)
"""A word's flags as `kernels.words` gives them, and how far its length is shifted above them."""
MIX, LOW, HALF = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xFFFFFFFF), np.uint64(32)
"""A hash's multiplier; the low half of a table's entry, a place, and how far the stamp above it is shifted."""
ONE, BIT, BITS, NEVER = np.uint64(1), np.uint32(1), np.uint32(0xFFFFFFFF), 1 << 62
"""A step; a bit and all bits of the n's whose repeats are asked for; a width that no walk reaches."""


@njit(cache=True, nogil=True)
def count_grams(hashes: Any, marks: Any, firsts: Any, lasts: Any, widths: Any, places: Any, columns: int) -> Any:
    """Characters in n-grams of the words of n texts: int64[n, rules].

    Text k has words firsts[k] to lasts[k]: hashes uint64[w], marks uint32[w]. widths: int64[m], the n's in ascending
    order, each once; places: int64[m, 2], the column for the commonest n-gram's characters (overlaps and blanks between
    words counted, the first seen wins a tie) and that for characters in n-grams that occurred before (after one, the
    next n words are passed over), of 32 n's at most; -1 for none; columns: how many there are.
    """
    n, most = len(firsts), np.int64(0)
    for k in range(n if len(widths) else 0):
        most = max(most, lasts[k] - firsts[k])
    tops, repeats, reached = _plan(widths, places)
    totals, chars, keys = np.zeros((n, columns), np.int64), np.zeros(most + 1, np.int64), np.empty(most, np.uint64)
    spots, ids, counts = np.empty(most + 1, np.uint32), np.empty(most, np.uint32), np.empty(most, np.uint32)
    table, often = np.zeros(_slots(most), np.uint64), np.empty(4 * _slots(most), np.uint8)
    met, back, best = (
        np.empty((most, len(tops) - 1), np.uint32),
        np.zeros(most + 1, np.uint32),
        np.empty((len(tops) - 1, 2), np.int64),
    )
    for k in range(n if most else 0):
        words = hashes[firsts[k] : lasts[k]]
        for j in range(len(words)):
            chars[j + 1] = chars[j] + (marks[firsts[k] + j] >> SHIFT)
        left = _begin(words, widths[0], keys, spots, often)
        best[:, 0], best[:, 1] = 1, 0
        again = _group(keys, spots, left, ids, counts, table, np.uint64(2 * k + 1), best)
        spots[left] = len(words)
        _walk(
            *(words, chars, keys, spots, left, ids, table, again, np.uint64(2 * k + 2)),
            *(tops, repeats, reached, met, back, best, totals[k]),
        )
        for top in range(len(best)):
            width, first = tops[top, 0], best[top, 1]
            if tops[top, 1] >= 0 and len(words) >= width:
                totals[k, tops[top, 1]] = best[top, 0] * (chars[first + width] - chars[first] + width - 1)
    return totals


@inner
def _plan(widths: Any, places: Any) -> Any:
    """What a walk looks up: (int64[t + 1, 2], widths with a commonest n-gram's column, the narrowest even without one
    and NEVER; int64[b, 2], widths with a repeats' column, by bit; uint32[widest + 1], the bits of those that a depth
    reaches)."""
    tops, repeats = np.full((len(widths) + 1, 2), NEVER), np.zeros((len(widths), 2), np.int64)
    reached = np.zeros(widths[-1] + 1 if len(widths) else 1, np.uint32)
    t = b = 0
    for j in range(len(widths)):
        if j == 0 or places[j, 0] >= 0:
            tops[t, 0], tops[t, 1] = widths[j], places[j, 0]
            t += 1
        if places[j, 1] >= 0:
            repeats[b, 0], repeats[b, 1] = widths[j], places[j, 1]
            for depth in range(widths[j], len(reached)):
                reached[depth] |= BIT << np.uint32(b)
            b += 1
    return tops[: t + 1], repeats, reached


@leaf
def _slots(most: int) -> Any:
    """Slots of a table for so many n-grams."""
    slots = 4
    while slots < 2 * most:
        slots *= 2
    return slots


@leaf
def _begin(words: Any, width: int, keys: Any, spots: Any, often: Any) -> Any:
    """Writes the hashes of the n-grams of a text's words, and the spots of those that may repeat; how many.

    Most occur once: a first pass marks bytes of `often` by a few bits of each key, without a branch, and leaves out
    whatever shares its byte with none.
    """
    grams, slots, shift = max(len(words) - width + 1, 0), 4 * _slots(len(words)), np.uint64(64)
    while 1 << (64 - np.int64(shift)) < slots:
        shift -= ONE
    often[:slots] = 0
    keys[:grams] = 0
    for j in range(width if grams else 0):
        part = words[j : j + grams]
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
def _group(keys: Any, spots: Any, left: int, ids: Any, counts: Any, table: Any, stamp: Any, best: Any) -> Any:
    """Tells apart the shortest n-grams at the spots: how many were met before.

    ids: the first spot with the same n-gram; counts: how often the n-gram was met, at its first spot; best[0]: the
    commonest's count and first spot. table: first spots, under a stamp.
    """
    most, place, mask, again = np.int64(1), np.uint64(0), np.uint64(_slots(left) - 1), np.int64(0)
    for spot in spots[:left]:
        key = keys[spot]
        first, slot = np.uint64(spot), (key >> np.uint64(16)) & mask
        while table[slot] >> HALF == stamp:
            other = table[slot] & LOW
            if keys[other] == key:
                first = other
                break
            slot = (slot + ONE) & mask
        ids[spot] = first
        if first == spot:
            table[slot] = stamp << HALF | first
            counts[spot] = 1
            continue
        again += 1
        counts[first] += BIT
        count = np.int64(counts[first])
        if count > most or (count == most and first < place):
            most, place = count, first
    best[0, 0], best[0, 1] = most, place
    return again


@leaf
def _walk(
    words: Any,
    chars: Any,
    keys: Any,
    spots: Any,
    left: int,
    ids: Any,
    table: Any,
    again: int,
    stamp: Any,
    tops: Any,
    repeats: Any,
    reached: Any,
    met: Any,
    back: Any,
    best: Any,
    totals: Any,
) -> None:
    """Counts the n-grams at the spots, from the first along the places `ids`, and adds up characters of repeats.

    again: spots that were met before. tops, repeats, reached: of `_plan`. table: which spot first went a way, under a
    stamp; its key is in `keys`. met: by first spot, bits of the n's whose n-gram was met, not passed over, and how
    often that of each of `tops` was met; back: by number of a spot, bits of the n's that are passed over up to there;
    best: counts and first spots.
    """
    mask, widest, live = np.uint64(_slots(again) - 1), np.int64(len(reached) - 1), BITS
    for at in range(left):
        spot = np.uint64(spots[np.uint64(at)])
        live |= back[np.uint64(at)]
        back[np.uint64(at)] = 0
        met[spot, 0] = live
        for top in range(1, len(best)):
            met[spot, top] = 1
        first = np.uint64(ids[spot])
        if first == spot:
            continue
        depth, limit, done = tops[0, 0], min(widest, len(words) - np.int64(spot)), np.uint32(0)
        t: Any = ONE
        while True:
            while depth < limit and words[first + np.uint64(depth)] == words[spot + np.uint64(depth)]:
                depth += 1
            while tops[t, 0] <= depth:
                met[first, t] += BIT
                count = np.int64(met[first, t])
                if count > best[t, 0] or (count == best[t, 0] and np.int64(first) < best[t, 1]):
                    best[t, 0], best[t, 1] = count, first
                t += ONE
            asked = reached[np.uint64(depth)] & ~done & live
            done, old = reached[np.uint64(depth)], met[first, 0] & asked
            met[first, 0] |= asked
            live ^= old
            b = np.uint64(0)
            while old:
                if old & BIT:
                    end = np.int64(spot) + repeats[b, 0]
                    totals[repeats[b, 1]] += chars[end] - chars[spot]
                    free = min(at + repeats[b, 0], left)
                    while spots[free - 1] >= end:
                        free -= 1
                    back[free] |= BIT << np.uint32(b)
                old >>= BIT
                b += ONE
            if depth == limit:
                break
            key = ((first << HALF | np.uint64(depth)) * MIX ^ words[spot + np.uint64(depth)]) * MIX
            key ^= key >> HALF
            depth += 1
            first, slot = spot, key >> np.uint64(16) & mask
            while table[slot] >> HALF == stamp:
                other = table[slot] & LOW
                if keys[other] == key:
                    first = other
                    break
                slot = slot + ONE & mask
            if first == spot:
                table[slot], keys[spot] = stamp << HALF | spot, key
                break
    back[left] = 0


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
