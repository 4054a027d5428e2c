"""C4's rules over the lines of a batch of texts: which stay, why others go, citations cut out.

Reads texts as byte ranges of one buffer and the classes of characters of `stages.words`; writes the lines that stay
into a buffer of their own, with counts of the others by reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

SPACE, LINE = 1, 2
"""Bits of a character's class: blank, line separator of Unicode."""
LOREM, CURLY, LONG_WORD, NO_MARK, FEW_WORDS, JAVASCRIPT, POLICY = range(7)
"""Columns of the counts."""
PHRASES = (
    b"lorem ipsum",
    b"javascript",
    b"terms of use",
    b"privacy policy",
    b"cookie policy",
    b"uses cookies",
    b"use of cookies",
    b"use cookies",
)
ANCHORS = (4, 0, 3, 3, 3, 8, 10, 7)
"""Where in each phrase its rarest letter is (m, j, v or k); that letter is looked for first."""
LETTERS = np.frombuffer(b"".join(PHRASES), np.uint8)
PLACES = np.cumsum(np.array([0, *(len(phrase) for phrase in PHRASES)]), dtype=np.int64)
NEWLINE, RETURN, DOT, OPEN, CLOSE, BRACE, ZERO, NINE = map(ord, "\n\r.[]{09")
LOWER_J, LOWER_K, LOWER_M, LOWER_V = map(ord, "jkmv")
EDIT, NEEDED = (np.frombuffer(text, np.uint8) for text in (b"edit]", b"citation needed]"))

leaf = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""A kernel for other kernels: no reference counts, no wrappers for Python, which cost more than the work."""


@njit(cache=True, nogil=True)
def clean_lines(data: Any, starts: Any, ends: Any, classes: Any, terminal: bool, fewest: int, longest: int) -> Any:
    """The lines of n texts that stay: (out uint8[:], begins int64[m], finishes int64[m], firsts int64[n + 1], counts
    int64[n, 7], text_starts int64[n], text_ends int64[n]).

    Line j is `out[begins[j]:finishes[j]]`; text k has lines firsts[k] to firsts[k + 1], and
    `out[text_starts[k]:text_ends[k]]` is those lines joined by newlines, without blanks at its ends. counts: lines that
    make the page go (lorem ipsum, curly bracket), and lines removed by reason, in the order of the columns' names.
    terminal: lines must end with a mark; fewest: words of a line; longest: characters of a word.
    """
    n, total, most = len(starts), np.int64(0), np.int64(0)
    for k in range(n):
        total += ends[k] - starts[k] + 1
        most += 1
        for i in range(starts[k], ends[k]):
            most += data[i] < 32 or data[i] == 0xC2 or data[i] == 0xE2
    out, begins, finishes = np.empty(total, np.uint8), np.empty(most, np.int64), np.empty(most, np.int64)
    firsts, counts = np.zeros(n + 1, np.int64), np.zeros((n, 7), np.int64)
    text_starts, text_ends = np.zeros(n, np.int64), np.zeros(n, np.int64)
    place = lines = np.int64(0)
    for k in range(n):
        text_starts[k] = place
        i, end = starts[k], ends[k]
        while i < end:
            last, after = _line_end(data, i, end, classes)
            first = _lstrip(data, i, last, classes)
            last = _rstrip(data, first, last, classes)
            i = after
            if lines > firsts[k]:
                out[place] = NEWLINE
                place += 1
            bracketed = last > first and data[last - 1] == CLOSE
            if terminal and not bracketed and last - first <= longest and not _is_ended(data, first, last):
                counts[k, NO_MARK] += 1
                place -= lines > firsts[k]
                continue
            finish = _copy(data, first, last, out, place, classes)
            reason = _judge(data, first, last, out, place, finish, classes, terminal, fewest, longest)
            if reason >= 0:
                counts[k, reason] += 1
                place -= lines > firsts[k]
                continue
            begins[lines], finishes[lines] = place, finish
            lines += 1
            place = finish
        firsts[k + 1] = lines
        text_starts[k] = _lstrip(out, text_starts[k], place, classes)
        text_ends[k] = _rstrip(out, text_starts[k], place, classes)
    return out[:place], begins[:lines], finishes[:lines], firsts, counts, text_starts, text_ends


@leaf
def _decode(data: Any, i: int) -> Any:
    """The code point of valid UTF-8 at `i`, and its bytes."""
    lead = np.int64(data[i])
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (data[i + 1] & 0x3F), 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | np.int64(data[i + 1] & 0x3F) << 6 | (data[i + 2] & 0x3F), 3
    high = (lead & 0x07) << 18 | np.int64(data[i + 1] & 0x3F) << 12
    return high | np.int64(data[i + 2] & 0x3F) << 6 | (data[i + 3] & 0x3F), 4


@leaf
def _lstrip(data: Any, start: int, end: int, classes: Any) -> Any:
    """Where the first character that is no blank starts."""
    while start < end:
        code, width = _decode(data, start)
        if not classes[code] & SPACE:
            break
        start += width
    return start


@leaf
def _rstrip(data: Any, start: int, end: int, classes: Any) -> Any:
    """Where the last character that is no blank ends."""
    while end > start:
        place = end - 1
        while data[place] & 0xC0 == 0x80:
            place -= 1
        if not classes[_decode(data, place)[0]] & SPACE:
            break
        end = place
    return end


@leaf
def _line_end(data: Any, i: int, end: int, classes: Any) -> Any:
    """Where the line that starts at `i` ends, and where the next starts."""
    while i < end:
        byte = data[i]
        if byte >= 32 and byte < 0x80:
            i += 1
            continue
        code, width = _decode(data, i)
        if classes[code] & LINE:
            after = i + width
            if code == RETURN and after < end and data[after] == NEWLINE:
                after += 1
            return i, after
        i += width
    return i, end


@leaf
def _copy(data: Any, start: int, end: int, out: Any, place: int, classes: Any) -> Any:
    """Writes a line without its citations ("[12]", "[edit]", "[citation needed]"); where it ends."""
    i = start
    while i < end:
        if data[i] == OPEN:
            after = _citation(data, i + 1, end, classes)
            if after > i:
                i = after
                continue
        out[place] = data[i]
        place += 1
        i += 1
    return place


@leaf
def _citation(data: Any, i: int, end: int, classes: Any) -> Any:
    """Where the citation ends that a bracket before `i` opens, or 0."""
    if _holds(data, i, end, EDIT):
        return i + len(EDIT)
    if _holds(data, i, end, NEEDED):
        return i + len(NEEDED)
    while i < end and ZERO <= data[i] <= NINE:
        i += 1
    return i + 1 if i < end and data[i] == CLOSE else 0


@leaf
def _holds(data: Any, i: int, end: int, text: Any) -> bool:
    """Whether the bytes at `i` are those of the text."""
    same = i + len(text) <= end
    j = 0
    while same and j < len(text):
        same = data[i + j] == text[j]
        j += 1
    return same


@leaf
def _judge(
    data: Any,
    first: int,
    last: int,
    out: Any,
    start: int,
    end: int,
    classes: Any,
    terminal: bool,
    fewest: int,
    longest: int,
) -> Any:
    """Why a line (bytes first to last; without citations, bytes start to end of `out`) goes, or -1."""
    words, long_word = _count_words(data, first, last, classes, fewest, longest)
    if long_word:
        return LONG_WORD
    if terminal and not _is_ended(out, start, end):
        return NO_MARK
    if words < fewest:
        return FEW_WORDS
    found, brace = 0, False
    for i in range(start, end):
        byte = out[i]
        if byte == BRACE:
            brace = True
            continue
        byte |= np.uint8(32)
        if byte in (LOWER_J, LOWER_K, LOWER_M, LOWER_V):
            found |= _phrases(out, start, end, i, byte)
    return LOREM if found & 1 else JAVASCRIPT if found & 2 else CURLY if brace else POLICY if found else -1


@leaf
def _is_ended(data: Any, start: int, end: int) -> bool:
    """Whether a line ends with a terminal mark or a quotation mark, and not with an ellipsis."""
    mark = data[end - 1] if end > start else np.uint8(0)
    dots = mark == DOT and end - start >= 3 and data[end - 2] == DOT and data[end - 3] == DOT
    return mark in (DOT, 33, 34, 39, 63) and not dots


@leaf
def _phrases(data: Any, start: int, end: int, i: int, letter: Any) -> Any:
    """Bits of the phrases whose rarest letter, in lower case, is at `i`, within bytes start to end."""
    found = 0
    for p in range(len(ANCHORS)):
        begin = i - ANCHORS[p]
        size = PLACES[p + 1] - PLACES[p]
        if LETTERS[PLACES[p] + ANCHORS[p]] != letter or begin < start or begin + size > end:
            continue
        same = True
        for j in range(size):
            byte = data[begin + j]
            lower = byte | np.uint8(32) if 65 <= byte <= 90 else byte
            if lower != LETTERS[PLACES[p] + j]:
                same = False
                break
        found |= same << p
    return found


@leaf
def _count_words(data: Any, start: int, end: int, classes: Any, fewest: int, longest: int) -> Any:
    """Words of a line (up to `fewest` if no word can be too long), and whether one has more than `longest`
    characters."""
    words, i = 0, start
    while i < end and (words < fewest or end - start > longest):
        i = _lstrip(data, i, end, classes)
        length = 0
        while i < end:
            code, width = _decode(data, i)
            if classes[code] & SPACE:
                break
            length += 1
            i += width
        words += length > 0
        if length > longest:
            return words, True
    return words, False
