"""Words of a batch of texts, as spaCy's blank English tokenizer cuts them.

Reads texts as byte ranges of one buffer; writes a hash, a length and flags for each word. Chunks between blanks that no
rule can cut, and those with one suffix, are settled in the pass that finds their end; the others, each once, are left
to `kernels.chunks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stages.kernels.leaf import inlined, inner, leaf

SPACE, LINE, SUFFIX, STOPPED, LETTER, SYMBOL = 1, 2, 1 << 3, 1 << 9, 1 << 12, 1 << 13
SENTENCE, PUNCTUATION, SINGLE, EDGE, INNER, DIGIT = (1 << bit for bit in range(15, 21))
BEYOND = 1 << 31
"""Bits of a character's class; `stages.words` says what each means. BEYOND: a byte of a character beyond ASCII."""
IS_REAL, HAS_LETTER, ENDS_SENTENCE, IS_PUNCTUATION, AFTER_BLANK, LEFT, BEGINS_LINE = (1 << bit for bit in range(7))
SHIFT = 7
"""A word's flags (not symbols alone; holds a letter; is one mark that ends sentences; is punctuation throughout; blanks
other than one space precede it; it is a chunk left to be cut; it is the first of its text or of a line of Unicode), and
how far its length is shifted above them."""
LONE, WHOLE, ENDED, OTHER = range(4)
"""What a chunk is: one character; what only an exception cuts; that and one suffix; anything else."""
EXCEPTION, PATTERN = 1, 2
"""What a candidate may be by first byte, last byte and size: an exception, one to be sought among finished words."""
PRIME = np.uint64(0x9E3779B97F4A7C15)
"""The multiplier of a word's hash."""
TOPS, LOWER, SEVEN, ALL, SIGNS = (np.uint64(byte * 0x0101010101010101) for byte in (0x80, 0x20, 0x7F, 0xFF, 33))
FROM_A, OVER_Z, PLACES = (np.uint64(x) for x in (0x1F1F1F1F1F1F1F1F, 0x0505050505050505, 0x01020304050607))
ONE, LOW, HALF = np.uint64(1), np.uint64(0xFFFFFFFF), np.uint64(32)
"""Eight bytes at once: masks; what lifts a byte from "a" on, and one over "z", to the top bit; which byte a bit is in;
halves."""
BLANK, DOT, LONGEST, MEMO = 32, 46, 32, 16384
"""A space, a full stop, the bytes of the longest exception (at most), and slots for chunks seen before."""


@njit(cache=True, nogil=True)
def find_words(
    data: Any, starts: Any, ends: Any, table: Any, known: Any, signs: Any, singles: bool, hashes: Any, marks: Any
) -> Any:
    """The words of n texts but for chunks left: (firsts int64[n + 1], left int64[m, 3]); writes hashes and marks.

    Text k is `data[starts[k]:ends[k]]`, valid UTF-8; its words are firsts[k] to firsts[k + 1] of hashes uint64[bytes]
    and marks uint32[bytes]; past the last, they are room for `put_words`. marks: a word's characters shifted by SHIFT,
    and its flags. A word that is LEFT has for its hash the number of a chunk, a row of `left`: where it begins, where
    it ends, how many words it stands for. table: uint32[0x110000] of class bits. known: uint64[slots, 4], rows of
    (hash, splits, pattern, tail), and signs: uint8[8192], both from `stages.words`. singles: chunks with characters of
    scripts without spaces are left.
    """
    firsts = np.zeros(len(starts) + 1, np.int64)
    memo, left, near = np.zeros((MEMO, 2), np.uint64), np.empty((1024, 3), np.int64), _near(table)
    within, count = np.uint32(INNER | SINGLE if singles else INNER), np.int64(0)
    chunks: Any = np.int64(0)
    for k in range(len(starts)):
        i, end = starts[k], ends[k]
        while True:
            (begin, flags), word = _skip(data, i, end, i == starts[k], near, table), count
            if begin == end:
                break
            block = _block(data, begin, end)
            size = _letters_of(block)
            if _is_short(data, begin, end, block, size, near, known, signs):
                hashes[count], marks[count] = _hash_of_block(block, size), _plain(size) | flags
                i, count = begin + size, count + 1
                continue
            i, kind, mark, last = _read(data, begin, end, size, near, table, within)
            ended = np.int64(kind == ENDED)
            state = _hash(data, begin, i - ended)
            if kind == LONE or (kind == WHOLE and not _is_known(data, begin, i, state, known, signs, EXCEPTION)):
                hashes[count], marks[count] = state, mark
                count += 1
            elif ended and not _may_join(data, begin, i, state, known, signs):
                hashes[count], marks[count] = state, mark
                hashes[count + 1], marks[count + 1] = _hash_of_byte(data[i - 1]), last
                count += 2
            else:
                state = _hash_again(data, begin, i) if ended else state
                slot = np.int64(state >> np.uint64(40)) & (MEMO - 1)
                if memo[slot, 0] != state:
                    if chunks == len(left):
                        left = _doubled(left)
                    if memo[slot, 0]:
                        left[np.int64(memo[slot, 1] & LOW), 2] = memo[slot, 1] >> HALF
                    left[chunks, 0], left[chunks, 1] = begin, i
                    memo[slot, 0], memo[slot, 1] = state, chunks
                    chunks += 1
                memo[slot, 1] += ONE << HALF
                hashes[count], marks[count] = memo[slot, 1] & LOW, LEFT
                count += 1
            if flags:
                marks[word] |= flags
        firsts[k + 1] = count
    for row in memo:
        if row[0]:
            left[np.int64(row[1] & LOW), 2] = row[1] >> HALF
    return firsts, left[:chunks].copy()


@njit(cache=True, nogil=True)
def put_words(hashes: Any, marks: Any, firsts: Any, left: Any, cut_hashes: Any, cut_marks: Any, cut_firsts: Any) -> Any:
    """Puts the words of chunks in the place of chunks left, from the end on, in the arrays of `find_words`; how many
    words there are then. Chunk j has words cut_firsts[j] to cut_firsts[j + 1]."""
    word = place = firsts[len(firsts) - 1]
    for j in range(len(left)):
        place += left[j, 2] * (cut_firsts[j + 1] - cut_firsts[j] - 1)
    total = place
    for k in range(len(firsts) - 2, -1, -1):
        firsts[k + 1] = place
        while word > firsts[k]:
            word -= 1
            mark = marks[word]
            if not mark & LEFT:
                place -= 1
                hashes[place], marks[place] = hashes[word], mark
                continue
            chunk = np.int64(hashes[word])
            for j in range(cut_firsts[chunk + 1] - 1, cut_firsts[chunk] - 1, -1):
                place -= 1
                hashes[place], marks[place] = cut_hashes[j], cut_marks[j]
            marks[place] |= mark & np.uint32(AFTER_BLANK | BEGINS_LINE)
    return total


@njit(cache=True, nogil=True)
def read_words(data: Any, starts: Any, ends: Any, table: Any, hashes: Any, marks: Any) -> None:
    """Writes hashes uint64[w] and marks uint32[w] of the words `data[starts[j]:ends[j]]`."""
    near = _near(table)
    for word in range(len(hashes)):
        some, every, length = np.uint32(0), np.uint32(ALL), np.int64(0)
        i = starts[word]
        while i < ends[word]:
            now, width = near[data[i]], 1
            if now & BEYOND:
                code, width = _decode(data, i)
                now = table[code]
            some, every, length, i = some | now, every & now, length + 1, i + width
        hashes[word], marks[word] = _hash(data, starts[word], ends[word]), _mark_of(some, every, length)


@inner
def _near(table: Any) -> Any:
    """The classes of bytes: uint32[256]."""
    near = np.empty(256, np.uint32)
    for byte in range(256):
        near[byte] = table[byte] if byte < 128 else np.uint32(BEYOND)
    return near


@inner
def _doubled(rows: Any) -> Any:
    """The rows in an array with room for twice as many."""
    larger = np.empty((2 * len(rows), rows.shape[1]), np.int64)
    for j in range(len(rows)):
        for column in range(rows.shape[1]):
            larger[j, column] = rows[j, column]
    return larger


@inlined
def _skip(data: Any, start: int, end: int, begins: bool, near: Any, table: Any) -> Any:
    """Where the blanks from `start` end, and what they say of the word there. begins: a text starts with them."""
    if not begins and start + 1 < end and data[start] == BLANK and not near[data[start + 1]] & (SPACE | BEYOND):
        return start + 1, np.uint32(0)
    i, some = start, np.uint32(LINE if begins else 0)
    while i < end:
        now, width = near[data[i]], 1
        if now & BEYOND:
            code, width = _decode(data, i)
            now = table[code]
        if not now & SPACE:
            break
        some |= now
        i += width
    wide = i - start > 1 or (i > start and (begins or data[start] != BLANK))
    return i, np.uint32(BEGINS_LINE if some & LINE else 0) | np.uint32(AFTER_BLANK if wide else 0)


@inlined
def _read(data: Any, begin: int, end: int, size: int, near: Any, table: Any, within: Any) -> Any:
    """A chunk: (where it ends, its kind, the mark of it or of all but its suffix, that of its suffix).

    size: ASCII letters it begins with, 8 for that many and more. A run of them, with a blank or one suffix after it,
    needs no look at each letter.
    """
    i = _letters(data, begin + 8, end) if size == 8 else begin + size
    if i > begin:
        mark = _plain(i - begin)
        if i == end or near[data[i]] & SPACE:
            return i, WHOLE, mark, mark
        last = near[data[i]]
        suffix = last & SUFFIX or (data[i] == DOT and near[data[i - 1]] & STOPPED)
        if suffix and (i + 1 == end or near[data[i + 1]] & SPACE):
            return i + 1, ENDED, mark, _mark_of(last, last, 1)
    length, first, last, i = np.int64(0), np.uint32(0), np.uint32(0), begin
    some, every = np.uint32(0), np.uint32(0xFFFFFFFF)
    before, rest, all_rest = last, some, every
    while i < end:
        now, width = near[data[i]], 1
        if now & BEYOND:
            code, width = _decode(data, i)
            now = table[code]
        if now & SPACE:
            break
        before, rest, all_rest, last = last, some, every, now
        some, every, first = some | now, every & now, first if length else now
        length, i = length + 1, i + width
        if rest & within or (length == 2 and first & EDGE):
            return _chunk_end(data, i, end, near, table), OTHER, some, some
    mark = _mark_of(some, every, length)
    if length == 1 or not (some & within or (first | last) & EDGE or (some & DIGIT and not last & DIGIT)):
        return i, LONE if length == 1 else WHOLE, mark, mark
    plain = not (rest & within or (first | before) & EDGE or (rest & DIGIT and not before & DIGIT))
    if plain and data[i - 1] < 0x80 and (last & SUFFIX or (data[i - 1] == DOT and before & STOPPED)):
        return i, ENDED, _mark_of(rest, all_rest, length - 1), _mark_of(last, last, 1)
    return i, OTHER, mark, mark


@inlined
def _is_short(data: Any, begin: int, end: int, block: Any, size: int, near: Any, known: Any, signs: Any) -> bool:
    """Whether a chunk is a word of less than 8 bytes, all ASCII letters, and no exception."""
    if size % 8 == 0:
        return False
    i = begin + size
    if not (i == end or near[block >> np.uint64(8 * size) & np.uint64(0xFF)] & SPACE):
        return False
    return not _has_sign(data, begin, i, signs, EXCEPTION) or _find(known, _hash_of_block(block, size)) < 0


@inlined
def _plain(length: int) -> Any:
    """The mark of a word of ASCII letters alone."""
    return np.uint32(length) << np.uint32(SHIFT) | np.uint32(IS_REAL | HAS_LETTER)


@inlined
def _letters_of(block: Any) -> Any:
    """How many ASCII letters a block begins with."""
    seven = (block | LOWER) & SEVEN
    others = ~((seven + FROM_A) & ~(seven + OVER_Z) & ~block) & TOPS
    if not others:
        return np.int64(8)
    first = (others & (~others + np.uint64(1))) >> np.uint64(7)
    return np.int64(first * PLACES >> np.uint64(56))


@inlined
def _letters(data: Any, i: int, end: int) -> Any:
    """Where the ASCII letters from `i` end."""
    while i < end:
        size = _letters_of(_block(data, i, end))
        i += size
        if size < 8:
            break
    return i


@inlined
def _hash_of_block(block: Any, size: int) -> Any:
    """The hash of a word of 1 to 7 bytes, the first of a block."""
    state = (np.uint64(size) * PRIME ^ block & ALL >> np.uint64(64 - 8 * size)) * PRIME
    return state ^ state >> HALF


@inlined
def _chunk_end(data: Any, i: Any, end: int, near: Any, table: Any) -> Any:
    """Where the chunk ends that goes on at `i`."""
    while i < end:
        block = _block(data, i, end)
        others = (block | (block - SIGNS) & ~block) & TOPS
        if not others:
            i += 8
            continue
        i += np.int64(((others & (~others + ONE)) >> np.uint64(7)) * PLACES >> np.uint64(56))
        if i >= end:
            break
        now, width = near[data[i]], 1
        if now & BEYOND:
            code, width = _decode(data, i)
            now = table[code]
        if now & SPACE:
            return i
        i += width
    return end


@inlined
def _hash(data: Any, start: int, end: int) -> Any:
    """A word's hash: its size, then eight bytes at a time."""
    state = np.uint64(end - start) * PRIME
    while start < end:
        state = (state ^ _block(data, start, end)) * PRIME
        state ^= state >> np.uint64(32)
        start += 8
    return state


@leaf
def _hash_again(data: Any, start: int, end: int) -> Any:
    """The same, where it is seldom asked for: each copy of it that is inlined takes a second to compile."""
    return _hash(data, start, end)


@inlined
def _hash_of_byte(byte: Any) -> Any:
    """The hash of a word of one byte."""
    state = (PRIME ^ np.uint64(byte)) * PRIME
    return state ^ state >> HALF


@inlined
def _block(data: Any, i: int, end: int) -> Any:
    """Eight bytes from `i` on, the first the lowest; 0 for those from `end` on."""
    if i + 8 > len(data):
        return _last_block(data, i, end)
    at, block = np.uint64(i), np.uint64(0)
    for k in range(8):
        # an unsigned index, which numba does not check for negative ones: LLVM makes one load of the eight
        block |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return block if end - i >= 8 else block & ALL >> np.uint64(64 - 8 * (end - i))


@leaf
def _last_block(data: Any, i: int, end: int) -> Any:
    """The same where the buffer ends."""
    block = np.uint64(0)
    for k in range(min(end - i, 8)):
        block |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return block


@inlined
def _may_join(data: Any, start: int, end: int, state: Any, known: Any, signs: Any) -> Any:
    """Whether a word (of hash `state`) and its suffix, or the word, are an exception or may be part of one."""
    kinds = EXCEPTION | PATTERN
    if _is_known(data, start, end - 1, state, known, signs, kinds):
        return True
    return _has_sign(data, start, end, signs, kinds) and _find(known, _hash_again(data, start, end)) >= 0


@inlined
def _is_known(data: Any, start: int, end: int, state: Any, known: Any, signs: Any, kinds: int) -> Any:
    """Whether some bytes, of hash `state`, are among the exceptions; one of other kinds may count too."""
    return _has_sign(data, start, end, signs, kinds) and _find(known, state) >= 0


@inlined
def _has_sign(data: Any, start: int, end: int, signs: Any, kinds: int) -> bool:
    """Whether some bytes may be an exception, by the first, the last and their size."""
    if end - start > LONGEST:
        return False
    sign = (np.int64(data[start]) * 67 + np.int64(data[end - 1]) * 5 + (end - start) * 1201) & 8191
    return bool(signs[sign] & kinds)


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
