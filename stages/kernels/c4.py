"""C4's rules over the lines of a batch of texts: which stay, why others go, citations cut out.

Reads texts as byte ranges of one buffer and the classes of characters of `stages.words`; writes the lines that stay
into a buffer of their own, with counts of the others by reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inner, kernel, leaf, zero_array
from stages.kernels.utf8 import SPACE, TOPS, decode, eight, first_top, lstrip, rstrip, zeros

LINE = 2
"""The bit of a character's class that says it is a line separator of Unicode."""
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
AFTER_BLANK, BEGINS_LINE = 16, 32
"""Flags of a word, as `kernels.words` gives them."""
NEWLINE, RETURN, BLANK, DOT, OPEN, CLOSE, BRACE, ZERO, NINE = map(ord, "\n\r .[]{09")
LOWER_J, LOWER_K, LOWER_M, LOWER_V = map(ord, "jkmv")
LOWER_A, LOWER_C, LOWER_E, LOWER_I, LOWER_O, LOWER_P, LOWER_S, LOWER_U = map(ord, "aceiopsu")
CONTROLS, OPENS = (np.uint64(byte * 0x0101010101010101) for byte in (32, OPEN))
"""The same byte eight times."""
EDIT, NEEDED = (np.frombuffer(text, np.uint8) for text in (b"edit]", b"citation needed]"))


@kernel
def clean_lines(
    data: Any, starts: Any, ends: Any, classes: Any, terminal: bool, fewest: int, longest: int, out: Any
) -> Any:
    """The lines of n texts that stay: (lines int64[m, 4], firsts int64[n + 1], counts int64[n, 7], text_starts
    int64[n], text_ends int64[n]).

    out: uint8[:], with room for the texts, a newline after each, and eight bytes. A line is (where in `out` it begins,
    where it ends, its number among its text's lines that are not blank or -1, whether a citation was cut out of it);
    text k has lines firsts[k] to firsts[k + 1], and
    `out[text_starts[k]:text_ends[k]]` is those lines joined by newlines, without blanks at its ends. counts: lines that
    make the page go (lorem ipsum, curly bracket), and lines removed by reason, in the order of the columns' names.
    terminal: lines must end with a mark; fewest: words of a line; longest: characters of a word.
    """
    n, found = len(starts), empty_array((1024, 4), np.int64)
    firsts, counts = zero_array(n + 1, np.int64), zero_array((n, 7), np.int64)
    text_starts, text_ends = zero_array(n, np.int64), zero_array(n, np.int64)
    place = lines = np.int64(0)
    for k in range(n):
        text_starts[k] = place
        i, end, number = starts[k], ends[k], np.int64(-1)
        while i < end:
            last, after = _line_end(data, i, end, classes)
            first = lstrip(data, i, last, classes)
            last = rstrip(data, first, last, classes)
            i = after
            number += first < last
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
            if lines == len(found):
                found = _doubled(found)
            found[lines, 0], found[lines, 1] = place, finish
            found[lines, 2], found[lines, 3] = number if first < last else -1, finish - place < last - first
            lines += 1
            place = finish
        firsts[k + 1] = lines
        text_starts[k] = lstrip(out, text_starts[k], place, classes)
        text_ends[k] = rstrip(out, text_starts[k], place, classes)
    return found[:lines].copy(), firsts, counts, text_starts, text_ends


@kernel
def line_words(marks: Any, word_firsts: Any, word_lasts: Any, lines: Any, firsts: Any) -> Any:
    """Which words those lines have that stay, out of those of the n texts: int64[2, m], from where to where.

    Text k has words word_firsts[k] to word_lasts[k] and lines (of `clean_lines`) firsts[k] to firsts[k + 1]. Lines with
    citations cut out have other words: here, none.
    """
    places = zero_array((2, len(lines)), np.int64)
    for k in range(len(word_firsts)):
        word, number = word_firsts[k], np.int64(-1)
        for line in range(firsts[k], firsts[k + 1]):
            if lines[line, 3] or lines[line, 2] < 0:
                continue
            while number < lines[line, 2]:
                number += (marks[word] & BEGINS_LINE) != 0
                word += 1
            places[0, line] = word - 1
            while word < word_lasts[k] and not marks[word] & BEGINS_LINE:
                word += 1
            places[1, line] = word
    return places


@kernel
def take_words(
    hashes: Any,
    marks: Any,
    begins: Any,
    ends: Any,
    lines: Any,
    cut_hashes: Any,
    cut_marks: Any,
    cut_begins: Any,
    cut_ends: Any,
    out_hashes: Any,
    out_marks: Any,
) -> None:
    """Writes the words of the lines that stay in a row: of each line begins[line] to ends[line] (of `line_words`), or,
    of the c-th with citations cut out, cut_begins[c] to cut_ends[c]."""
    count, cited = np.int64(0), 0
    for line in range(len(lines)):
        for word in range(begins[line], ends[line]):
            out_hashes[count], out_marks[count] = hashes[word], marks[word]
            if word == begins[line]:
                out_marks[count] &= ~np.uint32(AFTER_BLANK)
            count += 1
        if lines[line, 3]:
            for word in range(cut_begins[cited], cut_ends[cited]):
                out_hashes[count], out_marks[count] = cut_hashes[word], cut_marks[word]
                count += 1
            cited += 1


@inner
def _doubled(rows: Any) -> Any:
    """The rows in an array with room for twice as many."""
    larger = empty_array((2 * len(rows), rows.shape[1]), np.int64)
    for j in range(len(rows)):
        for column in range(rows.shape[1]):
            larger[j, column] = rows[j, column]
    return larger


@leaf
def _line_end(data: Any, i: Any, end: int, classes: Any) -> Any:
    """Where the line that starts at `i` ends, and where the next starts."""
    while i < end:
        if i + 8 <= end:
            block = eight(data, i)
            special = (block | ((block - CONTROLS) & ~block)) & TOPS
            if not special:
                i += 8
                continue
            i += first_top(special)
        code, width = decode(data, i)
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
        if i + 8 <= end:
            block = eight(data, i)
            if not zeros(block ^ OPENS):
                for k in range(8):
                    out[place + k] = np.uint8(block >> np.uint64(8 * k))
                place, i = place + 8, i + 8
                continue
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
    if _has_long_word(data, first, last, classes, longest):
        return LONG_WORD
    if terminal and not _is_ended(out, start, end):
        return NO_MARK
    if not _has_words(data, first, last, classes, fewest):
        return FEW_WORDS
    if not _may_hold_phrase(out[start:end]):
        return -1
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
def _may_hold_phrase(line: Any) -> bool:
    """Whether a line may hold a phrase or a curly bracket: it has three letters of one in a row, or the bracket.

    Slices of one length and no branch, so that LLVM compares many bytes at once.
    """
    size, found = len(line) - 3, False
    for byte in line[max(size, 0) :]:
        found |= byte == BRACE
    if size <= 0:
        return found
    ones, twos, threes, fours = line[:size], line[1:], line[2:], line[3:]
    for j in range(size):
        a, b, c, d = ones[j] | 32, twos[j] | 32, threes[j] | 32, fours[j] | 32
        found |= ones[j] == BRACE
        found |= (a == LOWER_J) & (b == LOWER_A) & (c == LOWER_V)
        found |= (a == LOWER_P) & (b == LOWER_S) & (c == LOWER_U)
        found |= (a == LOWER_M) & (b == LOWER_S) & (d == LOWER_O)
        found |= (a == LOWER_V) & (b == LOWER_A) & (c == LOWER_C)
        found |= (a == LOWER_K) & (b == LOWER_I) & (c == LOWER_E)
    return found


@leaf
def _has_words(data: Any, i: int, end: int, classes: Any, fewest: int) -> bool:
    """Whether a line has so many words."""
    words, inside = 0, False
    while i < end and words < fewest:
        code, width = decode(data, i)
        before, inside = inside, not classes[code] & SPACE
        words += inside and not before
        i += width
    return words >= fewest


@leaf
def _has_long_word(data: Any, i: int, end: int, classes: Any, longest: int) -> bool:
    """Whether a line has a word of more than `longest` characters; blanks are sought from where it would end."""
    while end - i > longest:
        place = i + longest
        while place >= i and data[place] != BLANK:
            place -= 1
        if place >= i:
            i = place + 1
            continue
        i, length = _word(data, lstrip(data, i, end, classes), end, classes)
        if length > longest:
            return True
    return False


@leaf
def _word(data: Any, i: int, end: int, classes: Any) -> Any:
    """Where the word at `i` ends, and its characters."""
    length = np.int64(0)
    while i < end:
        code, width = decode(data, i)
        if classes[code] & SPACE:
            break
        length += 1
        i += width
    return i, length
