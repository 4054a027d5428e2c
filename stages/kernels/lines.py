"""Lines and paragraphs of a batch of texts: which repeat, how they begin and end, and marks counted on the way.

Reads texts as byte ranges of one buffer and the classes of characters of `stages.words`; writes counts for each text.
Lines are told apart by 64-bit hashes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inlined, inner, kernel, leaf, zero_array
from stages.kernels.utf8 import SPACE, decode, eight, eight_until, last_character, lstrip, rstrip
from stages.kernels.vectors import BLOCK, folded_product, ones_in, within, zeros_below

LINE, TERMINAL = 2, 1 << 14
"""Bits of a character's class: line separator of Unicode, terminal mark."""
RETURN, DOT, HASH, HYPHEN, NEWLINE = map(ord, "\r.#-\n")
MARK, PUNCTUATION, AFTER_BLANK = 4, 8, 16
"""Flags of a word, as `kernels.words` gives them."""
BULLET, ELLIPSIS, BLANK = 0x2022, 0x2026, 32
ONE, TWO, LAST = np.uint64(1), np.uint64(2), np.uint64(1 << BLOCK - 1)
"""Of the bits for a block's bytes: the first's, the second's, the last's."""
PRIME, SEED = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
"""Numbers without a pattern, for hashes."""


@leaf
def _mix(x: Any) -> Any:
    """A 64-bit finaliser (splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@leaf
def _line(data: Any, start: int, end: int) -> Any:
    """Where the newline of a line is, or the end; a 64-bit hash of the line; its characters."""
    i, follow, state = start, np.int64(0), (SEED, SEED)
    while i + BLOCK <= end and not within(data, i, NEWLINE, NEWLINE):
        follow += ones_in(within(data, i, 0x80, 0xBF))
        state = _absorb(state, data, i, i + 16)
        i += BLOCK
    if i + BLOCK <= len(data):
        size: Any = min(np.int64(zeros_below(within(data, i, NEWLINE, NEWLINE))), end - i)
        follow += ones_in(within(data, i, 0x80, 0xBF) & ((ONE << np.uint64(size)) - ONE))
        i += size
    else:
        while i < end and data[i] != NEWLINE:
            follow += data[i] & 0xC0 == 0x80
            i += 1
    return i, _hash(state, data, start, i), i - start - follow


@inlined
def _absorb(state: Any, data: Any, i: int, j: int) -> Any:
    """The two numbers of a line's hash after the 16 bytes from `i` on and those from `j` on (as wyhash, Wang Yi)."""
    first = folded_product(eight(data, i) ^ PRIME, eight(data, i + 8) ^ state[0])
    return first, folded_product(eight(data, j) ^ PRIME, eight(data, j + 8) ^ state[1])


@inlined
def _hash(state: Any, data: Any, start: int, end: int) -> Any:
    """The hash of a line whose blocks of 32 bytes made `state`; what is left of it is read with bytes before it, so
    that no byte after the line is."""
    size = end - start
    if size >= BLOCK:
        state = _absorb(state, data, end - 32, end - 16)
    elif size >= 16:
        state = _absorb(state, data, start, end - 16)
    elif size >= 8:
        state = folded_product(eight(data, start) ^ PRIME, eight(data, end - 8) ^ SEED), SEED
    elif size > 0:
        state = folded_product(eight_until(data, start, end) ^ PRIME, SEED), SEED
    return _mix(folded_product(state[0] ^ PRIME, state[1] ^ np.uint64(size)))


@leaf
def _watched(data: Any, i: int, end: int) -> Any:
    """The next byte that may matter to `count_marks`, or the end.

    Controls from the newline on, "#", "." unless one of the two bytes after it in the same block is none, and C2 and
    E2, by which line separators beyond ASCII and "…" begin; where the buffer ends, any character.
    """
    while i < end and i + BLOCK <= len(data):
        dots = within(data, i, DOT, DOT)
        dots &= (dots >> ONE | LAST) & (dots >> TWO | LAST | LAST >> ONE)
        found = within(data, i, NEWLINE, 31) | within(data, i, HASH, HASH) | dots
        found |= within(data, i, 0xC2, 0xC2) | within(data, i, 0xE2, 0xE2)
        if found:
            return min(i + np.int64(zeros_below(found)), end)
        i += BLOCK
    while i < end and data[i] & 0xC0 == 0x80:
        i += 1
    return min(i, end)


@leaf
def _is_new(table: Any, mask: int, key: Any, stamp: int) -> bool:
    """Whether a key is in the table (rows of key and stamp) for the first time under this stamp; it is now."""
    slot = np.int64(key >> np.uint64(20)) & mask
    while table[slot, 1] == np.uint64(stamp):
        if table[slot, 0] == key:
            return False
        slot = (slot + 1) & mask
    table[slot, 0], table[slot, 1] = key, np.uint64(stamp)
    return True


@inner
def _masks(data: Any, starts: Any, ends: Any) -> Any:
    """Slots, less one, of a table for the lines and the paragraphs of each text, and one for the largest."""
    masks, most = empty_array(len(starts), np.int64), np.int64(3)
    for k in range(len(starts)):
        lines, slots = np.int64(2), np.int64(4)
        i, end = starts[k], ends[k]
        while i + BLOCK <= end:
            lines += ones_in(within(data, i, NEWLINE, NEWLINE))
            i += BLOCK
        for byte in data[i:end]:
            lines += byte == NEWLINE
        while slots < 4 * lines:
            slots *= 2
        masks[k] = slots - 1
        most = max(most, masks[k])
    return masks, zero_array((most + 1, 2), np.uint64)


@kernel
def repeated_lines(data: Any, starts: Any, ends: Any, classes: Any) -> Any:
    """int64[n, 7] for n texts: paragraphs, those that occurred before, their characters; lines, those that occurred
    before, their characters; the text's characters.

    Text k is `data[starts[k]:ends[k]]`. Paragraphs are what runs of two newlines and more part, of the text without
    blanks at its ends; lines are what runs of newlines part. classes: uint32[0x110000].
    """
    counts = zero_array((len(starts), 7), np.int64)
    masks, table = _masks(data, starts, ends)
    for k in range(len(starts)):
        mask, whole = masks[k], ends[k]
        start = lstrip(data, starts[k], whole, classes)
        end = rstrip(data, start, whole, classes)
        i, paragraph, size, begun = starts[k], np.uint64(1), np.int64(0), False
        while True:
            after, line, length = _line(data, i, whole)
            counts[k, 3] += 1
            counts[k, 6] += length
            if not _is_new(table, mask, line, k + 1):
                counts[k, 4] += 1
                counts[k, 5] += length
            a, b = max(i, start), min(after, end)
            if a > i or b < after:
                _, line, length = _line(data, a, max(a, b))
            if a < b:
                paragraph, size = _mix(paragraph ^ line) + line, size + length + begun
                begun = True
            i = after
            while i < whole and data[i] == NEWLINE:
                i += 1
            counts[k, 6] += i - after
            if begun and (i - after != 1 or i >= end):
                counts[k, 0] += 1
                if not _is_new(table, mask, paragraph, k + 1):
                    counts[k, 1] += 1
                    counts[k, 2] += size
                paragraph, size, begun = np.uint64(1), np.int64(0), False
            if after == whole:
                break
        counts[k, 0] = max(counts[k, 0], 1)
    return counts


@kernel
def count_marks(data: Any, starts: Any, ends: Any, classes: Any) -> Any:
    """int64[n, 5] for n texts: hash signs, ellipses ("..." or "…"), lines (of Unicode), those that begin with a bullet
    ("•" or "-"), those that end with an ellipsis; blanks at a line's ends aside."""
    counts = zero_array((len(starts), 5), np.int64)
    for k in range(len(starts)):
        i, end = starts[k], ends[k]
        while i < end:
            begin, dots = i, 0
            code, width = np.int64(0), 0
            while True:
                i = _watched(data, i, end)
                if i == end:
                    break
                code, width = decode(data, i)
                if classes[code] & LINE:
                    break
                if code == HASH:
                    counts[k, 0] += 1
                elif code == ELLIPSIS:
                    counts[k, 1] += 1
                elif code == DOT and i + 2 < end and i >= dots and data[i + 1] == DOT and data[i + 2] == DOT:
                    counts[k, 1] += 1
                    dots = i + 3
                i += width
            counts[k, 2] += 1
            first = lstrip(data, begin, i, classes)
            last = rstrip(data, first, i, classes)
            if first < last:
                initial = decode(data, first)[0]
                counts[k, 3] += initial in (BULLET, HYPHEN)
                final = last_character(data, first, last)[0]
                dotted = final == DOT and last - first >= 3 and data[last - 2] == DOT and data[last - 3] == DOT
                counts[k, 4] += final == ELLIPSIS or dotted
            if i < end:
                i += width
                if code == RETURN and i < end and data[i] == NEWLINE:
                    i += 1
    return counts


@kernel
def count_lines(data: Any, starts: Any, ends: Any, classes: Any, short: int) -> Any:
    """int64[n, 6] for n texts: lines that are not blank, those that end with a terminal mark, those of at most `short`
    characters, characters of those that occurred before; characters but newlines, newlines."""
    counts = zero_array((len(starts), 6), np.int64)
    masks, table = _masks(data, starts, ends)
    for k in range(len(starts)):
        i, end = starts[k], ends[k]
        while True:
            after, line, size = _line(data, i, end)
            counts[k, 4] += size
            if lstrip(data, i, after, classes) < after:
                counts[k, 0] += 1
                counts[k, 1] += (classes[last_character(data, i, after)[0]] & TERMINAL) != 0
                counts[k, 2] += size <= short
                if not _is_new(table, masks[k], line, k + 1):
                    counts[k, 3] += size
            if after == end:
                break
            counts[k, 5] += 1
            i = after + 1
    return counts


@kernel
def count_sentences(data: Any, ends: Any, classes: Any, marks: Any, firsts: Any, lasts: Any) -> Any:
    """int64[n]: the sentences of n texts that hold something, as spaCy's sentencizer counts them.

    A sentence ends before the first token after a mark that is no punctuation; blanks other than one space are such a
    token. Text k ends at `data[ends[k]]` and has words firsts[k] to lasts[k].
    """
    counts = np.ones(len(ends), np.int64)
    for k in range(len(ends)):
        ended = False
        for word in range(firsts[k], lasts[k]):
            flags = marks[word]
            if ended and flags & AFTER_BLANK:
                counts[k] += 1
                ended = False
            if flags & MARK:
                ended = True
            elif ended and not flags & PUNCTUATION:
                counts[k] += 1
                ended = False
        if ended:
            code, place = last_character(data, 0, ends[k])
            doubled = (classes[code] & SPACE) != 0 and (code != BLANK or rstrip(data, 0, place, classes) < place)
            counts[k] += doubled
    return counts
