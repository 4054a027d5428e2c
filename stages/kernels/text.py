"""Text over Arrow buffers: lines that cleaning might change, line ends and blank lines.

Reads UTF-8 bytes and offsets; writes spans, tidied bytes or counts. `find_suspects` proves that a line would come out
of ftfy and of the character rules as it went in, and names the lines it cannot prove; it names too many rather than too
few.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inlined, kernel, leaf, zero_array
from stages.kernels.utf8 import decode
from stages.kernels.vectors import BLOCK, copy, within, zeros_below

CHANGED, SECOND, FIRST, JOINER, JOINED, WORD_BREAK, SPACED, STOP = (1 << bit for bit in range(8))
"""Bits of a character's entry: some rule changes it always; it may compose with a FIRST before it; such a first; a
joiner that may stay only after a JOINED; a word break that may stay only after a SPACED; ASCII that needs a closer
look."""
COMBINING_SHIFT, CLASS_SHIFT = 8, 16
"""Where in an entry its canonical combining class is, and its class for the mojibake automaton (8 bits each)."""
DOUBTFUL = np.uint32(CHANGED | SECOND | JOINER | WORD_BREAK | 0xFF << COMBINING_SHIFT)
"""A character that may change has one of these bits in its entry."""
START, MIDDLE, BAD = 0, 1, 2
"""States of the mojibake automaton: before a segment's first character, before any other, after a match."""
TAB, NEWLINE, RETURN, AMPERSAND, LESS = 9, 10, 13, 38, 60
ENTITY_LENGTH = 24


@kernel
def find_suspects(data: Any, offsets: Any, table: Any, moves: Any, longest: int, unescape: int, segment: int) -> Any:
    """Lines that cleaning might change: int64[m, 4] of (text, start, end, whether "<" came in an earlier line).

    Text k is `data[offsets[k]:offsets[k + 1]]` (uint8[:], int64[n + 1]); a line runs to its newline, included. table:
    uint32[0x110000], an entry for each code point; moves: uint16[states, classes], the mojibake automaton; longest: the
    characters of its longest match. unescape: 0 leave HTML entities, 1 decode them until a "<" is seen, 2 always.
    segment: characters that ftfy repairs at once in a long line. A return just before a newline is no reason.
    """
    found, count = empty_array((256, 4), np.int64), 0
    for k in range(len(offsets) - 1):
        place, end, angle = offsets[k], offsets[k + 1], False
        while place < end:
            place = _skip_plain(data, place, end)
            if place == end:
                break
            line, earlier, suspect, ended = place, angle, False, False
            while not ended:
                place, changes, entity, less = _read_segment(data, line, place, end, table, moves, longest, segment)
                suspect |= changes or (entity and (unescape == 2 or (unescape == 1 and not angle and not less)))
                angle |= less
                ended = place == end or data[place - 1] == NEWLINE
            if suspect:
                if count == len(found):
                    larger = empty_array((2 * count, 4), np.int64)
                    for row in range(count):  # a slice would bring numba's texts of errors, 1.5 s of compiling
                        for column in range(4):
                            larger[row, column] = found[row, column]
                    found = larger
                found[count, 0], found[count, 1], found[count, 2], found[count, 3] = k, line, place, earlier
                count += 1
    return found[:count]


@leaf
def _skip_plain(data: Any, start: int, end: int) -> Any:
    """The first line from `start` that may hold more than tabs and printable ASCII, "&" and "<" apart; or `end`.

    One that reaches the buffer's last 32 bytes may hold no more.
    """
    place: Any = start
    while place < end and place + BLOCK <= len(data):
        odd = _odd(data, place)
        if odd:
            place += np.int64(zeros_below(odd))
            break
        place += BLOCK
    if place >= end:
        return end
    while place > start and data[place - 1] != NEWLINE:
        place -= 1
    return place


@inlined
def _odd(data: Any, place: int) -> Any:
    """Which of 32 bytes are controls, of characters beyond ASCII, "&" or "<", as bits; tabs and newlines are not."""
    controls = within(data, place, 0, TAB - 1) | within(data, place, NEWLINE + 1, 31)
    marks = within(data, place, AMPERSAND, AMPERSAND) | within(data, place, LESS, LESS)
    return controls | marks | within(data, place, 127, 255)


@leaf
def _read_segment(
    data: Any, line: int, start: int, end: int, table: Any, moves: Any, longest: int, segment: int
) -> Any:
    """What ftfy repairs at once, from `start` in the line from `line`: to its newline, `segment` characters or `end`.

    Gives (where the next starts, suspect, holds an HTML entity's shape, holds a "<"). The automaton runs only near
    characters beyond ASCII: it starts `longest` characters before one, and stops as many after the last, since every
    match holds one; where it does not run, plain ASCII is passed over. Whatever at the start of a later segment may
    join what is before it is suspect.
    """
    suspect = entity = less = False
    state, idle = -1, 0
    before = starter = np.uint32(0)
    combining = np.uint32(0)
    if start > line:
        starter, combining = np.uint32(FIRST), np.uint32(0xFF)
    i: Any = start
    cut = start + segment
    stop = min(cut, end)
    while i < stop:
        if state < 0 and i + BLOCK <= stop:
            plain: Any = np.int64(zeros_below(_odd(data, i) | within(data, i, NEWLINE, NEWLINE)))
            if plain:
                i += np.int64(min(plain, BLOCK))
                continue
        byte = data[i]
        if byte < 0x80:
            entry = table[byte]
            if state >= 0:
                state = moves[state, entry >> CLASS_SHIFT]
                idle += 1
                if idle > longest:
                    suspect |= state == BAD
                    state = -1
            i += 1
            if entry & STOP:
                if byte == NEWLINE:
                    break
                if byte == AMPERSAND:
                    entity |= _is_entity(data, i, stop)
                elif byte == LESS:
                    less = True
                elif byte == RETURN:
                    suspect |= i == stop or data[i] != NEWLINE
                else:
                    suspect = True
            continue
        if i == line:
            before = starter = combining = np.uint32(0)
        elif data[i - 1] < 0x80:
            before = starter = table[data[i - 1]]
            combining = np.uint32(0)
        if state < 0:
            first = max(start, i - longest)
            state = START if first == start else MIDDLE
            for j in range(first, i):
                state = moves[state, table[data[j]] >> CLASS_SHIFT]
        code, width = decode(data, i)
        entry = table[code]
        state, idle = moves[state, entry >> CLASS_SHIFT], 0
        order = entry >> COMBINING_SHIFT & np.uint32(0xFF)
        if entry & DOUBTFUL:
            suspect |= _may_change(entry, before, starter, combining)
        before, combining = entry, order
        if order == 0:
            starter = entry
        i += width
        cut += width - 1
        stop = min(cut, end)
    return i, suspect | (state == BAD), entity, less


@leaf
def _may_change(entry: Any, before: Any, starter: Any, combining: Any) -> bool:
    """Whether a character may change, by its entry, those of the character and the starter before it, and the combining
    class that precedes it (0 after a starter)."""
    order = entry >> COMBINING_SHIFT & np.uint32(0xFF)
    composes = (entry & SECOND) != 0 and (starter & FIRST) != 0
    needless = ((entry & JOINER) != 0 and not before & JOINED) or ((entry & WORD_BREAK) != 0 and not before & SPACED)
    return (entry & CHANGED) != 0 or composes or needless or 0 < order < combining


@leaf
def _is_entity(data: Any, i: int, end: int) -> bool:
    """Whether what follows an ampersand, from `i`, is "#" or not, 1 to 24 ASCII letters or digits, and a semicolon."""
    if i < end and data[i] == 35:
        i += 1
    length = 0
    while i < end and length <= ENTITY_LENGTH:
        byte = data[i]
        if byte == 59:
            return length > 0
        if not (48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            return False
        length += 1
        i += 1
    return False


@kernel
def tidy_lines(data: Any, offsets: Any, strip: bool, most_blank: int, out: Any) -> Any:
    """Line ends and blank lines of n texts: (sizes int64[n], counts int64[n, 3]); writes the texts in a row into `out`.

    A return before a newline goes. strip: so do blanks (tab and Unicode's Zs) before it and at the text's end.
    most_blank: of a run of blank lines so many stay, empty, and none where the text starts or ends; below 0, all stay
    as they are. Call it with an empty `out` for the sizes, then with uint8[sum of sizes]. counts: returns removed,
    lines stripped, blank lines removed.
    """
    n = len(offsets) - 1
    sizes, counts = zero_array(n, np.int64), zero_array((n, 3), np.int64)
    writes, w = len(out) > 0, 0
    for k in range(n):
        place, end, begun, run = offsets[k], offsets[k + 1], w, 0
        while place < end:
            last = stop = _line_end(data, place, end)
            if stop < end and last > place and data[last - 1] == RETURN:
                last -= 1
                counts[k, 0] += 1
            bare = _strip_blanks(data, place, last)
            dropped = most_blank >= 0 and bare == place
            if strip or dropped:
                counts[k, 1] += bare < last
                last = bare
            if dropped:
                run += 1
            else:
                kept = min(run, max(most_blank, 0)) if w > begun else 0
                counts[k, 2] += run - kept
                if writes:
                    for i in range(kept):
                        out[w + i] = NEWLINE
                    copy(data, place, out, w + kept, last - place)
                w += kept + last - place
                if stop < end:
                    if writes:
                        out[w] = NEWLINE
                    w += 1
                run = 0
            place = stop + 1
        counts[k, 2] += run
        sizes[k] = w - begun
    return sizes, counts


@leaf
def _line_end(data: Any, start: int, end: int) -> Any:
    """Where the next newline from `start` is, or `end`; read 32 bytes at once."""
    i = start
    while i < end and i + BLOCK <= len(data):
        found = within(data, i, NEWLINE, NEWLINE)
        if found:
            return min(i + np.int64(zeros_below(found)), end)
        i += BLOCK
    while i < end and data[i] != NEWLINE:
        i += 1
    return min(i, end)


@leaf
def _strip_blanks(data: Any, start: int, stop: int) -> int:
    """Where the blanks begin that end the line `data[start:stop]`."""
    while stop > start:
        last = data[stop - 1]
        if last in (32, 9):
            stop -= 1
        elif last < 0x80 or stop - start < 2:
            break
        elif last == 0xA0 and data[stop - 2] == 0xC2:
            stop -= 2
        elif stop - start >= 3 and _is_wide_blank(data[stop - 3], data[stop - 2], last):
            stop -= 3
        else:
            break
    return stop


@leaf
def _is_wide_blank(a: int, b: int, c: int) -> bool:
    """Whether three bytes are a space of Unicode's Zs: U+1680, U+2000 to U+200A, U+202F, U+205F or U+3000."""
    if a == 0xE2:
        return (b == 0x80 and (0x80 <= c <= 0x8A or c == 0xAF)) or (b == 0x81 and c == 0x9F)
    return (a == 0xE1 and b == 0x9A and c == 0x80) or (a == 0xE3 and b == 0x80 and c == 0x80)


@kernel
def clip(data: Any, offsets: Any, most: int) -> Any:
    """Where each of n texts ends after `most` characters at most: int64[n]."""
    ends = offsets[1:].copy()
    for k in range(len(ends)):
        i, left = offsets[k], most
        while i < ends[k]:
            if data[i] & 0xC0 != 0x80:
                if left == 0:
                    ends[k] = i
                    break
                left -= 1
            i += 1
    return ends
