"""Lines and paragraphs of a batch of texts: which repeat, how they begin and end, and marks counted on the way.

Reads texts as byte ranges of one buffer and the classes of characters of `stages.words`; writes counts for each text.
Lines are told apart by 64-bit hashes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inner, kernel, leaf, zero_array
from stages.kernels.utf8 import (
    ONES,
    SPACE,
    TOPS,
    decode,
    eight_until,
    first_top,
    last_character,
    lstrip,
    rstrip,
    zeros,
)

LINE, TERMINAL = 2, 1 << 14
"""Bits of a character's class: line separator of Unicode, terminal mark."""
RETURN, DOT, HASH, HYPHEN, NEWLINE = map(ord, "\r.#-\n")
MARK, PUNCTUATION, AFTER_BLANK = 4, 8, 16
"""Flags of a word, as `kernels.words` gives them."""
BULLET, ELLIPSIS, BLANK = 0x2022, 0x2026, 32
BREAKS, HASHES, DOTS, CONTROLS = (np.uint64(byte * 0x0101010101010101) for byte in (NEWLINE, HASH, DOT, 32))
LAST, PRIME = np.uint64(1 << 63), np.uint64(0x9E3779B97F4A7C15)
"""Eight bytes at once: the same byte eight times; the last one's top bit; a hash's multiplier."""


@leaf
def _mix(x: Any) -> Any:
    """A 64-bit finaliser (splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@leaf
def _line(data: Any, start: int, end: int) -> Any:
    """Where the newline of a line is, or the end; a 64-bit hash of the line; its characters."""
    state, i, characters = np.uint64(1), start, np.int64(0)
    while i < end:
        block, size = eight_until(data, i, end), min(end - i, 8)
        breaks = zeros(block ^ BREAKS)
        if breaks:
            size = first_top(breaks)
            if size == 0:
                break
            block &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
        characters += size
        if block & TOPS:
            follow = block & ~(block << np.uint64(1)) & TOPS
            characters -= np.int64((follow >> np.uint64(7)) * ONES >> np.uint64(56))
        state = (state ^ block) * PRIME
        state ^= state >> np.uint64(32)
        i += size
        if breaks:
            break
    return i, _mix(state + np.uint64(i - start)), characters


@leaf
def _watched(data: Any, i: int, end: int) -> Any:
    """The next byte that may matter to `count_marks`, or the end: a control, one beyond ASCII, "#", or "." unless what
    follows it in the same block is none."""
    while i < end:
        block = eight_until(data, i, end)
        dots = zeros(block ^ DOTS)
        dots &= dots >> np.uint64(8) | LAST
        found = block & TOPS | (block - CONTROLS) & ~block & TOPS | zeros(block ^ HASHES) | dots
        if found:
            return min(i + first_top(found), end)
        i += 8
    return end


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
        for byte in data[starts[k] : ends[k]]:
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
