"""Shingles and MinHash signatures, straight from the bytes of a batch.

Words are maximal runs of word characters (letters, digits, _; Python's `\\w`), lower-cased code point by code point;
in scripts written without spaces
each character is a word. A shingle is n words in a row (all of them where a document has fewer), as a 64-bit hash:
two different
ones collide once in 2^64. Lower case differs from `str.lower()` in two places: İ becomes i, and Σ at a word's end
becomes σ.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic marks
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0x20000, 0x3FFFF),  # Han B and later
)


@cache
def folding() -> NDArray[np.int32]:
    """int32[0x110000]: 0 for a character that is in no word, else its lower case, negative where it is a word of its
    own."""
    table = np.zeros(0x110000, np.int32)
    for code in range(0x110000):
        char = chr(code)
        if char.isalnum() or char == "_":
            lower = char.lower()
            table[code] = ord(lower[0])
    for first, last in SPACELESS:
        table[first : last + 1] = -np.abs(table[first : last + 1])
    table.flags.writeable = False
    return table


@njit(cache=True, nogil=True, inline="always")
def _mix(x: np.uint64) -> np.uint64:
    """A 64-bit finaliser (splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _words(data: NDArray[np.uint8], start: int, end: int, table: NDArray[np.int32], out: NDArray[np.uint64]) -> int:
    """Hashes of the words of one text → out; how many."""
    count = 0
    state = np.uint64(0)
    inside = False
    place = start
    while place < end:
        byte = np.int64(data[place])
        if byte < 0x80:
            code, place = byte, place + 1
        elif byte < 0xE0:
            code = ((byte & 0x1F) << 6) | (np.int64(data[place + 1]) & 0x3F)
            place += 2
        elif byte < 0xF0:
            code = (
                ((byte & 0x0F) << 12) | ((np.int64(data[place + 1]) & 0x3F) << 6) | (np.int64(data[place + 2]) & 0x3F)
            )
            place += 3
        else:
            code = ((byte & 0x07) << 18) | ((np.int64(data[place + 1]) & 0x3F) << 12)
            code |= ((np.int64(data[place + 2]) & 0x3F) << 6) | (np.int64(data[place + 3]) & 0x3F)
            place += 4
        folded = np.int64(table[code])
        if folded > 0:
            state = (state ^ np.uint64(folded)) * np.uint64(0x9E3779B97F4A7C15)
            state ^= state >> np.uint64(29)
            inside = True
            continue
        if inside:
            out[count] = _mix(state)
            count += 1
            state, inside = np.uint64(0), False
        if folded < 0:
            out[count] = _mix(np.uint64(-folded) * np.uint64(0x9E3779B97F4A7C15))
            count += 1
    if inside:
        out[count] = _mix(state)
        count += 1
    return count


@njit(cache=True, nogil=True)
def shingles(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], table: NDArray[np.int32], n: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of every text, in order of place and not yet distinct: (hashes uint64[:], offsets int64[texts + 1]).

    A text of fewer than n words has one shingle of all its words; one without any word has one of its bytes that are
    not blank.
    """
    texts = len(offsets) - 1
    longest = 1
    for k in range(texts):
        longest = max(longest, offsets[k + 1] - offsets[k])
    words = np.empty(longest + 1, np.uint64)
    out = np.empty(offsets[texts] - offsets[0] + texts, np.uint64)
    ends = np.zeros(texts + 1, np.int64)
    total = 0
    for k in range(texts):
        count = _words(data, offsets[k], offsets[k + 1], table, words)
        if count == 0:
            state = np.uint64(1)
            for place in range(offsets[k], offsets[k + 1]):
                if data[place] > 32:
                    state = (state ^ np.uint64(data[place])) * np.uint64(0x9E3779B97F4A7C15)
                    state ^= state >> np.uint64(29)
            words[0] = state
            count = 1
        width = min(n, count)
        for first in range(count - width + 1):
            state = np.uint64(width)
            for word in range(first, first + width):
                state = (state ^ words[word]) * np.uint64(0x9E3779B97F4A7C15)
                state ^= state >> np.uint64(32)
            out[total] = _mix(state)
            total += 1
        ends[k + 1] = total
    return out[:total], ends


@njit(cache=True, nogil=True)
def distinct(hashes: NDArray[np.uint64], ends: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Each text's shingles sorted and without repeats, in the same form as `shingles` gives them."""
    out = np.empty(len(hashes), np.uint64)
    places = np.zeros(len(ends), np.int64)
    total = 0
    for k in range(len(ends) - 1):
        one = np.sort(hashes[ends[k] : ends[k + 1]])
        for j in range(len(one)):
            if j == 0 or one[j] != one[j - 1]:
                out[total] = one[j]
                total += 1
        places[k + 1] = total
    return out[:total], places


@njit(cache=True, nogil=True)
def bands(
    hashes: NDArray[np.uint64],
    ends: NDArray[np.int64],
    factors: NDArray[np.uint32],
    addends: NDArray[np.uint32],
    count: int,
    rows: int,
) -> NDArray[np.uint64]:
    """Band keys uint64[texts, count] of MinHash signatures of count × rows hashes.

    Hash i of a shingle's low 32 bits x is (factors[i]·x + addends[i]) mod 2^32, factors odd (a permutation); a
    signature
    keeps each hash's minimum over the text's shingles (Broder 1997), a band's key mixes `rows` of them with the
    band's number.
    """
    texts = len(ends) - 1
    size = count * rows
    keys = np.empty((texts, count), np.uint64)
    low = np.empty(size, np.uint32)
    for k in range(texts):
        low[:] = np.uint32(0xFFFFFFFF)
        for j in range(ends[k], ends[k + 1]):
            x = np.uint32(hashes[j] & np.uint64(0xFFFFFFFF))
            for i in range(size):
                value = np.uint32(factors[i] * x + addends[i])
                low[i] = min(low[i], value)
        for band in range(count):
            state = np.uint64(band + 1)
            for i in range(band * rows, (band + 1) * rows):
                state = (state ^ np.uint64(low[i])) * np.uint64(0x9E3779B97F4A7C15)
                state ^= state >> np.uint64(32)
            keys[k, band] = _mix(state)
    return keys


@njit(cache=True, nogil=True)
def overlap(values: NDArray[np.uint64], a: int, a_end: int, b: int, b_end: int) -> int:
    """How many values two sorted, distinct ranges share."""
    shared = 0
    while a < a_end and b < b_end:
        left, right = values[a], values[b]
        shared += left == right
        a += left <= right
        b += right <= left
    return shared


@njit(cache=True, nogil=True)
def survivors(
    values: NDArray[np.uint64], ends: NDArray[np.int64], clusters: NDArray[np.uint64], similarity: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Greedy, exact: (survivor int64[n], Jaccard float64[n]) of documents given in order, cluster after cluster.

    A document joins the survivor of its cluster with the highest exact Jaccard of at least `similarity` (ties: the
    earlier),
    or survives itself (Jaccard 1). Candidates come from an index of the survivors' prefixes: two sets of Jaccard ≥ t
    share one of the
    first |x| - ⌈t·|x|⌉ + 1 elements of each in any common order (prefix filtering; Xiao et al. 2008, PPJoin), so
    none is missed.
    """
    n = len(ends) - 1
    chosen, scores = np.arange(n), np.ones(n)
    slots = 1
    while slots < 2 * len(values) + 2:
        slots *= 2
    keys, stamp = np.zeros(slots, np.uint64), np.full(slots, -1)
    heads = np.zeros(slots, np.int64)
    post, following = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    seen = np.full(n, -1)
    used, first = 0, 0
    for k in range(n):
        if k > 0 and clusters[k] != clusters[k - 1]:
            first, used = k, 0
        size = ends[k + 1] - ends[k]
        prefix = size - np.int64(np.ceil(similarity * size - 1e-9)) + 1
        prefix = min(max(prefix, 1), size)
        best, best_score = -1, -1.0
        for j in range(ends[k], ends[k] + prefix):
            slot = np.int64(values[j] & np.uint64(slots - 1))
            while stamp[slot] == first and keys[slot] != values[j]:
                slot = (slot + 1) & (slots - 1)
            entry = heads[slot] if stamp[slot] == first else -1
            while entry >= 0:
                other = post[entry]
                entry = following[entry]
                other_size = ends[other + 1] - ends[other]
                if seen[other] == k or min(size, other_size) < similarity * max(size, other_size) - 1e-9:
                    continue
                seen[other] = k
                shared = overlap(values, ends[k], ends[k + 1], ends[other], ends[other + 1])
                score = shared / (size + other_size - shared)
                if score >= similarity and (score > best_score or (score == best_score and other < best)):
                    best, best_score = other, score
        if best >= 0:
            chosen[k], scores[k] = best, best_score
            continue
        for j in range(ends[k], ends[k] + prefix):
            slot = np.int64(values[j] & np.uint64(slots - 1))
            while stamp[slot] == first and keys[slot] != values[j]:
                slot = (slot + 1) & (slots - 1)
            following[used] = heads[slot] if stamp[slot] == first else -1
            keys[slot], stamp[slot], heads[slot], post[used] = values[j], first, used, k
            used += 1
    return chosen, scores
