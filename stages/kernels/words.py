"""Words of a batch of texts, as spaCy's blank English tokenizer cuts them.

Reads texts as byte ranges of one buffer; writes a hash, a length and flags for each word. Chunks between blanks that no
rule can cut, and those with one suffix, are settled where their end is found; the others are cut by `kernels.chunks`
and their words remembered for as long as the batch lasts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.chunks import cut
from stages.kernels.exceptions import (
    AWAY,
    EXCEPTION,
    HALF,
    PATTERN,
    find,
    has_sign,
    hash_again,
    hash_block,
    hash_byte,
    hash_word,
    is_known,
)
from stages.kernels.leaf import empty_array, inlined, inner, kernel, leaf, zero_array
from stages.kernels.utf8 import ALL, SPACE, TOPS, decode, eight_until, first_top

LINE, SUFFIX, STOPPED, LETTER, SYMBOL = 2, 1 << 3, 1 << 9, 1 << 12, 1 << 13
SENTENCE, PUNCTUATION = 1 << 15, 1 << 16
BEYOND = 1 << 31
"""Bits of a character's class; `stages.words` says what each means. BEYOND: a byte of a character beyond ASCII."""
IS_REAL, HAS_LETTER, ENDS_SENTENCE, IS_PUNCTUATION, AFTER_BLANK, BEGINS_LINE = (1 << bit for bit in range(6))
SHIFT = 7
"""A word's flags (not symbols alone; holds a letter; is one mark that ends sentences; is punctuation throughout; blanks
other than one space precede it; it is the first of its text or of a line of Unicode), and how far its length is shifted
above them."""
WHOLE, ENDED, OTHER = range(3)
"""What a chunk is: what only an exception cuts; that and one suffix; anything else."""
LOWER, SEVEN, SIGNS, FROM_A, OVER_Z = (np.uint64(byte * 0x0101010101010101) for byte in (0x20, 0x7F, 33, 0x1F, 0x05))
"""Eight bytes at once: masks; the first sign; what lifts a byte from "a" on, and one over "z", to the top bit."""
BLANK, DOT, ONE, LOW = 32, 46, np.uint64(1), np.uint64(0xFFFFFFFF)
SLOTS, FEW = 1 << 13, 4
"""Chunks that are remembered at once; words of such a chunk, at most."""


@kernel
def find_words(
    data: Any, starts: Any, ends: Any, table: Any, known: Any, signs: Any, singles: bool, hashes: Any, marks: Any
) -> Any:
    """The words of n texts: firsts int64[n + 1]; writes hashes and marks.

    Text k is `data[starts[k]:ends[k]]`, valid UTF-8; its words are firsts[k] to firsts[k + 1] of hashes uint64[bytes]
    and marks uint32[bytes], with room for `FEW` more: a word's characters shifted by SHIFT, and its flags. table:
    uint32[0x110000] of class bits. known: uint64[slots, 4], rows of (hash, splits, pattern, tail), and signs:
    uint8[8192], both from `stages.words`. singles: characters of scripts without spaces are words of their own.
    """
    firsts, near, count = zero_array(len(starts) + 1, np.int64), _near(table), np.int64(0)
    scratch, cuts = empty_array((256, 4), np.int64), empty_array(256, np.uint8)
    memo = zero_array((SLOTS, 2 + FEW + FEW // 2), np.uint64)
    for k in range(len(starts)):
        i, end = starts[k], ends[k]
        while True:
            (begin, flags), word = _skip(data, i, end, i == starts[k], near, table), count
            if begin == end:
                break
            block = eight_until(data, begin, end)
            size = _letters_of(block)
            if _is_short(data, begin, end, block, size, near, known, signs):
                hashes[count], marks[count] = hash_block(block, size), _plain(size) | flags
                i, count = begin + size, count + 1
                continue
            i = _letters(data, begin + 8, end) if size == 8 else begin + size
            kind = _kind(data, begin, i, end, near)
            if kind != OTHER:
                state = hash_word(data, begin, i)
                if kind == WHOLE and not is_known(data, begin, i, state, known, signs, EXCEPTION):
                    hashes[count], marks[count] = state, _plain(i - begin) | flags
                    count += 1
                    continue
                if kind == ENDED and not _may_join(data, begin, i + 1, state, known, signs):
                    last = near[data[i]]
                    hashes[count], marks[count] = state, _plain(i - begin) | flags
                    hashes[count + 1], marks[count + 1] = hash_byte(data[i]), _mark_of(last, last, 1)
                    count, i = count + 2, i + 1
                    continue
            i = _chunk_end(data, i, end, near, table)
            key = hash_again(data, begin, i) | ONE
            slot = np.int64(key >> AWAY) & (SLOTS - 1)
            if memo[slot, 0] == key:
                for j in range(FEW):
                    hashes[count + j] = memo[slot, 2 + j]
                for j in range(0, FEW, 2):
                    both = memo[slot, 2 + FEW + j // 2]
                    marks[count + j], marks[count + j + 1] = both & LOW, both >> HALF
                count += np.int64(memo[slot, 1])
            else:
                if i - begin >= len(cuts):
                    scratch, cuts = empty_array((2 * (i - begin), 4), np.int64), empty_array(2 * (i - begin), np.uint8)
                words = cut(data, begin, i, table, known, signs, singles, scratch, cuts)
                _put(data, scratch, hashes[count : count + words], marks[count : count + words])
                if words <= FEW:
                    _keep(memo[slot], key, hashes[count : count + words], marks[count : count + words])
                count += words
            marks[word] |= flags
        firsts[k + 1] = count
    return firsts


@leaf
def _put(data: Any, scratch: Any, hashes: Any, marks: Any) -> None:
    """Writes the hashes and marks of the words of a chunk that is cut."""
    for word in range(len(hashes)):
        first, last = scratch[word, 3], scratch[word + 1, 3]
        some, every = np.uint32(0), np.uint32(ALL)
        for k in range(first, last):
            entry = np.uint32(scratch[k, 1])
            some, every = some | entry, every & entry
        hashes[word] = hash_again(data, scratch[first, 2], scratch[last, 2])
        marks[word] = _mark_of(some, every, last - first)


@leaf
def _keep(row: Any, key: Any, hashes: Any, marks: Any) -> None:
    """Remembers the words of a chunk: its hash, how many they are, their hashes, their marks by two."""
    row[0], row[1], row[2 + FEW :] = key, len(hashes), 0
    for j in range(len(hashes)):
        row[2 + j] = hashes[j]
        row[2 + FEW + j // 2] |= np.uint64(marks[j]) << np.uint64(32 * (j & 1))


@kernel
def read_words(data: Any, starts: Any, ends: Any, table: Any, hashes: Any, marks: Any) -> None:
    """Writes hashes uint64[w] and marks uint32[w] of the words `data[starts[j]:ends[j]]`."""
    near = _near(table)
    for word in range(len(hashes)):
        some, every, length = np.uint32(0), np.uint32(ALL), np.int64(0)
        i = starts[word]
        while i < ends[word]:
            now, width = near[data[i]], 1
            if now & BEYOND:
                code, width = decode(data, i)
                now = table[code]
            some, every, length, i = some | now, every & now, length + 1, i + width
        hashes[word], marks[word] = hash_word(data, starts[word], ends[word]), _mark_of(some, every, length)


@inner
def _near(table: Any) -> Any:
    """The classes of bytes: uint32[256]."""
    near = empty_array(256, np.uint32)
    for byte in range(256):
        near[byte] = table[byte] if byte < 128 else np.uint32(BEYOND)
    return near


@inlined
def _skip(data: Any, start: int, end: int, begins: bool, near: Any, table: Any) -> Any:
    """Where the blanks from `start` end, and what they say of the word there. begins: a text starts with them."""
    if not begins and start + 1 < end and data[start] == BLANK and not near[data[start + 1]] & (SPACE | BEYOND):
        return start + 1, np.uint32(0)
    i, some = start, np.uint32(LINE if begins else 0)
    while i < end:
        now, width = near[data[i]], 1
        if now & BEYOND:
            code, width = decode(data, i)
            now = table[code]
        if not now & SPACE:
            break
        some |= now
        i += width
    wide = i - start > 1 or (i > start and (begins or data[start] != BLANK))
    return i, np.uint32(BEGINS_LINE if some & LINE else 0) | np.uint32(AFTER_BLANK if wide else 0)


@inlined
def _kind(data: Any, begin: int, i: int, end: int, near: Any) -> int:
    """What a chunk is that begins with ASCII letters up to `i`."""
    if i == begin:
        return OTHER
    if i == end or near[data[i]] & SPACE:
        return WHOLE
    suffix = near[data[i]] & SUFFIX or (data[i] == DOT and near[data[i - 1]] & STOPPED)
    return ENDED if suffix and (i + 1 == end or near[data[i + 1]] & SPACE) else OTHER


@inlined
def _is_short(data: Any, begin: int, end: int, block: Any, size: int, near: Any, known: Any, signs: Any) -> bool:
    """Whether a chunk is a word of less than 8 bytes, all ASCII letters, and no exception."""
    if size % 8 == 0:
        return False
    i = begin + size
    if not (i == end or near[block >> np.uint64(8 * size) & np.uint64(0xFF)] & SPACE):
        return False
    return not has_sign(data, begin, i, signs, EXCEPTION) or find(known, hash_block(block, size)) < 0


@inlined
def _plain(length: int) -> Any:
    """The mark of a word of ASCII letters alone."""
    return np.uint32(length) << np.uint32(SHIFT) | np.uint32(IS_REAL | HAS_LETTER)


@inlined
def _letters_of(block: Any) -> Any:
    """How many ASCII letters a block begins with."""
    seven = (block | LOWER) & SEVEN
    others = ~((seven + FROM_A) & ~(seven + OVER_Z) & ~block) & TOPS
    return first_top(others) if others else np.int64(8)


@inlined
def _letters(data: Any, i: int, end: int) -> Any:
    """Where the ASCII letters from `i` end."""
    while i < end:
        size = _letters_of(eight_until(data, i, end))
        i += size
        if size < 8:
            break
    return i


@inlined
def _chunk_end(data: Any, i: Any, end: int, near: Any, table: Any) -> Any:
    """Where the chunk ends that goes on at `i`."""
    while i < end:
        block = eight_until(data, i, end)
        others = (block | (block - SIGNS) & ~block) & TOPS
        if not others:
            i += 8
            continue
        i += first_top(others)
        if i >= end:
            break
        now, width = near[data[i]], 1
        if now & BEYOND:
            code, width = decode(data, i)
            now = table[code]
        if now & SPACE:
            return i
        i += width
    return end


@inlined
def _may_join(data: Any, start: int, end: int, state: Any, known: Any, signs: Any) -> Any:
    """Whether a word (of hash `state`) and its suffix, or the word, are an exception or may be part of one."""
    kinds = EXCEPTION | PATTERN
    if is_known(data, start, end - 1, state, known, signs, kinds):
        return True
    return has_sign(data, start, end, signs, kinds) and find(known, hash_again(data, start, end)) >= 0


@inlined
def _mark_of(some: Any, every: Any, length: int) -> Any:
    """A word's length and flags from the classes of any and of all of its characters."""
    found = np.uint32(length) << np.uint32(SHIFT)
    if not every & SYMBOL:
        found |= np.uint32(IS_REAL)
    if some & LETTER:
        found |= np.uint32(HAS_LETTER)
    if length == 1 and some & SENTENCE:
        found |= np.uint32(ENDS_SENTENCE)
    if every & PUNCTUATION:
        found |= np.uint32(IS_PUNCTUATION)
    return found
