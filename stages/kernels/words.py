"""Words of a batch of texts, as spaCy's blank English tokenizer cuts them.

Reads texts as byte ranges of one buffer; writes a hash, a length and flags for each word. Chunks between blanks that no
rule can cut, and those with one suffix, are settled in the pass that finds their end; the others, each once, are left
to `kernels.chunks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

SPACE, SUFFIX, STOPPED, LETTER, SYMBOL = 1, 1 << 3, 1 << 9, 1 << 12, 1 << 13
SENTENCE, PUNCTUATION, SINGLE, EDGE, INNER, DIGIT = (1 << bit for bit in range(15, 21))
"""Bits of a character's class; `stages.words` says what each means."""
IS_REAL, HAS_LETTER, ENDS_SENTENCE, IS_PUNCTUATION, AFTER_BLANK, LEFT, SHIFT = 1, 2, 4, 8, 16, 32, 6
"""A word's flags (not symbols alone; holds a letter; is one mark that ends sentences; is punctuation throughout; blanks
other than one space precede it; it is a chunk left to be cut), and how far its length is shifted above them."""
EXCEPTION, PATTERN = 1, 2
"""What a candidate may be by first byte, last byte and size: an exception, one to be sought among finished words."""
PRIME = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
"""The base of a word's hash, the sum of (byte + 1) · PRIME^place, and its inverse."""
DOT, LONGEST, MEMO = 46, 32, 16384
"""A full stop, the bytes of the longest exception (at most), and slots for chunks seen before."""

leaf = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
"""Kernels for other kernels: no reference counts, no wrappers for Python, which cost more than the work."""


@njit(cache=True, nogil=True)
def find_words(data: Any, starts: Any, ends: Any, table: Any, known: Any, signs: Any, singles: bool) -> Any:
    """The words of n texts but for chunks left: (hashes uint64[w], marks uint32[w], firsts int64[n + 1], begins
    int64[m], finishes int64[m]).

    Text k is `data[starts[k]:ends[k]]`, valid UTF-8; its words are firsts[k] to firsts[k + 1]. marks: a word's
    characters shifted by SHIFT, and its flags. A word that is LEFT has for its hash the number of a chunk, bytes
    begins[j] to finishes[j]. table: uint32[0x110000] of class bits. known: uint64[slots, 4], rows of (hash, splits,
    pattern, tail), and signs: uint8[8192], both from `stages.words`. singles: chunks with characters of scripts without
    spaces are left.
    """
    total = 0
    for k in range(len(starts)):
        total += ends[k] - starts[k]
    hashes, marks, firsts = np.empty(total, np.uint64), np.empty(total, np.uint32), np.zeros(len(starts) + 1, np.int64)
    memo, left = np.zeros((MEMO, 2), np.uint64), np.empty((1024, 2), np.int64)
    inner, count, chunks = np.uint32(INNER | SINGLE if singles else INNER), np.int64(0), np.int64(0)
    for k in range(len(starts)):
        i, end = starts[k], ends[k]
        while True:
            begin, word = _skip(data, i, end, table), count
            if begin == end:
                break
            blank = begin > i and (begin - i > 1 or data[i] != 32 or i == starts[k])
            i, state, power, length, first, last, some, every, before, rest, all_rest = _read(data, begin, end, table)
            kind = signs[_sign(data, begin, i)] if i - begin <= LONGEST else np.uint8(0)
            if length == 1 or _is_plain(some & inner, first, last, some, kind, known, state):
                hashes[count], marks[count] = state, _mark_of(some, every, length)
                count += 1
            elif _is_ended(data, begin, i, rest & inner, first, before, last, rest, kind, signs):
                final = np.uint64(data[i - 1]) + np.uint64(1)
                hashes[count], marks[count] = state - power * INVERSE * final, _mark_of(rest, all_rest, length - 1)
                hashes[count + 1], marks[count + 1] = final, _mark_of(last, last, 1)
                count += 2
            else:
                slot = np.int64(state >> np.uint64(40)) & (MEMO - 1)
                if memo[slot, 0] != state:
                    if chunks == len(left):
                        larger = np.empty((2 * chunks, 2), np.int64)
                        for j in range(chunks):
                            larger[j, 0], larger[j, 1] = left[j, 0], left[j, 1]
                        left = larger
                    left[chunks, 0], left[chunks, 1] = begin, i
                    memo[slot, 0], memo[slot, 1] = state, chunks
                    chunks += 1
                hashes[count], marks[count] = memo[slot, 1], LEFT
                count += 1
            if blank:
                marks[word] |= np.uint32(AFTER_BLANK)
        firsts[k + 1] = count
    return hashes[:count], marks[:count], firsts, left[:chunks, 0].copy(), left[:chunks, 1].copy()


@njit(cache=True, nogil=True)
def put_words(hashes: Any, marks: Any, firsts: Any, cut_hashes: Any, cut_marks: Any, cut_firsts: Any) -> Any:
    """The words of n texts with the words of chunks in the place of chunks left: (hashes, marks, firsts). Chunk j has
    words cut_firsts[j] to cut_firsts[j + 1]."""
    total = len(hashes)
    for word in range(len(hashes)):
        if marks[word] & LEFT:
            chunk = np.int64(hashes[word])
            total += cut_firsts[chunk + 1] - cut_firsts[chunk] - 1
    out_hashes, out_marks, out_firsts = np.empty(total, np.uint64), np.empty(total, np.uint32), np.zeros_like(firsts)
    count = np.int64(0)
    for k in range(len(firsts) - 1):
        for word in range(firsts[k], firsts[k + 1]):
            if not marks[word] & LEFT:
                out_hashes[count], out_marks[count] = hashes[word], marks[word]
                count += 1
                continue
            chunk, first = np.int64(hashes[word]), count
            for j in range(cut_firsts[chunk], cut_firsts[chunk + 1]):
                out_hashes[count], out_marks[count] = cut_hashes[j], cut_marks[j]
                count += 1
            out_marks[first] |= marks[word] & np.uint32(AFTER_BLANK)
        out_firsts[k + 1] = count
    return out_hashes, out_marks, out_firsts


@njit(cache=True, nogil=True)
def read_words(data: Any, starts: Any, ends: Any, table: Any) -> Any:
    """(hashes uint64[w], marks uint32[w]) of the words `data[starts[j]:ends[j]]`."""
    hashes, marks = np.empty(len(starts), np.uint64), np.empty(len(starts), np.uint32)
    for word in range(len(starts)):
        _, state, _, length, _, _, some, every, _, _, _ = _read(data, starts[word], ends[word], table)
        hashes[word], marks[word] = state, _mark_of(some, every, length)
    return hashes, marks


@inlined
def _skip(data: Any, i: int, end: int, table: Any) -> Any:
    """Where the blanks from `i` end."""
    while i < end:
        code, width = np.int64(data[i]), 1
        if code >= 0x80:
            code, width = _decode(data, i)
        if not table[code] & SPACE:
            break
        i += width
    return i


@inlined
def _read(data: Any, i: int, end: int, table: Any) -> Any:
    """A chunk from `i` on: (where it ends, hash, the power of its size, characters, classes of the first, the last, any
    and all, then of the last but one, and of any and all but the last)."""
    length, first, last, state, power = np.int64(0), np.uint32(0), np.uint32(0), np.uint64(0), np.uint64(1)
    some, every = np.uint32(0), np.uint32(0xFFFFFFFF)
    before, rest, all_rest = last, some, every
    while i < end:
        byte = data[i]
        if byte < 0x80:
            now = table[byte]
            if now & SPACE:
                break
            state += power * (np.uint64(byte) + np.uint64(1))
            power *= PRIME
            i += 1
        else:
            code, width = _decode(data, i)
            now = table[code]
            if now & SPACE:
                break
            for j in range(i, i + width):
                state += power * (np.uint64(data[j]) + np.uint64(1))
                power *= PRIME
            i += width
        before, rest, all_rest, last = last, some, every, now
        some |= now
        every &= now
        if length == 0:
            first = now
        length += 1
    return i, state, power, length, first, last, some, every, before, rest, all_rest


@inlined
def _is_plain(inner: Any, first: Any, last: Any, some: Any, kind: Any, known: Any, state: Any) -> bool:
    """Whether no rule can cut a chunk: nothing to strip at its edges, nothing inside, no unit after a digit, no
    exception."""
    if inner or (first | last) & EDGE or (some & DIGIT and not last & DIGIT):
        return False
    return not kind & EXCEPTION or _find(known, state) < 0


@inlined
def _is_ended(
    data: Any, begin: int, end: int, inner: Any, first: Any, before: Any, last: Any, rest: Any, kind: Any, signs: Any
) -> bool:
    """Whether a chunk is a plain word and one ASCII suffix, and neither it nor the word may be an exception."""
    if inner or (first | before) & EDGE or (rest & DIGIT and not before & DIGIT) or end - begin > LONGEST:
        return False
    if data[end - 1] >= 0x80 or not (last & SUFFIX or (data[end - 1] == DOT and before & STOPPED)):
        return False
    return not (kind | signs[_sign(data, begin, end - 1)]) & (EXCEPTION | PATTERN)


@leaf
def _decode(data: Any, i: int) -> Any:
    """The code point of valid UTF-8 beyond ASCII at `i`, and its bytes."""
    lead = np.int64(data[i])
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (data[i + 1] & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | np.int64(data[i + 1] & 0x3F) << 6 | (data[i + 2] & 0x3F), 3
    high = (lead & 0x07) << 18 | np.int64(data[i + 1] & 0x3F) << 12
    return high | np.int64(data[i + 2] & 0x3F) << 6 | (data[i + 3] & 0x3F), 4


@inlined
def _mark_of(some: Any, every: Any, length: int) -> Any:
    """A word's length and flags from the classes of any and of all of its characters."""
    found = np.uint32(length << SHIFT)
    if not every & SYMBOL:
        found |= np.uint32(IS_REAL)
    if some & LETTER:
        found |= np.uint32(HAS_LETTER)
    if length == 1 and some & SENTENCE:
        found |= np.uint32(ENDS_SENTENCE)
    if every & PUNCTUATION:
        found |= np.uint32(IS_PUNCTUATION)
    return found


@leaf
def _sign(data: Any, start: int, end: int) -> Any:
    """A candidate's place in `signs`."""
    return (np.int64(data[start]) * 67 + np.int64(data[end - 1]) * 5 + (end - start) * 1201) & 8191


@leaf
def _find(known: Any, key: Any) -> Any:
    """The row of `known` with this hash, or -1."""
    mask = len(known) - 1
    slot = np.int64(key >> np.uint64(40)) & mask
    while known[slot, 0] != 0:
        if known[slot, 0] == key:
            return slot
        slot = (slot + 1) & mask
    return -1
