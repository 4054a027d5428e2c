"""Unicode normalisation in time proportional to the text, of one text or of those of a batch that need it.

Reads text; writes what `unicodedata.normalize` gives, to the character. That function sorts combining marks by
insertion, which is quadratic in a run of them: 200 KB of marks take 12 s. Here a run that is longer than those of text
in any language is first put in order by a counting sort.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from functools import cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FEW = 128
"""Combining marks in a row that insertion sorts at little cost. The Stream-Safe Text Format has 30 at most (UAX #15,
13)."""
CODE_POINTS = 0x110000
MARKS_END = 0x20000
"""From here on no code point combines."""
HANGUL = range(0xAC00, 0xD7A4)
"""Syllables, which decompose by arithmetic: Python's `decomposition` says nothing of them."""


def normalize(form: Form, text: str) -> str:
    """`unicodedata.normalize(form, text)`, in time proportional to the text.

    Canonical ordering is a stable sort of each run of combining marks (Unicode, D109), so a part of a run that is
    sorted before changes nothing of the result.
    """
    if len(text) > FEW and not text.isascii():
        text = _with_long_runs_sorted(text, "NFKD" if "K" in form else "NFD")
    return unicodedata.normalize(form, text)


def _with_long_runs_sorted(text: str, decomposed: Form) -> str:
    """The text with each run of more than `FEW` marks decomposed and in canonical order."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    others = np.flatnonzero(~_marks(decomposed)[codes])
    bounds = np.concatenate([[-1], others, [len(text)]])
    pieces, place = list[str](), 0
    for k in np.flatnonzero(np.diff(bounds) > FEW + 1).tolist():
        start, end = int(bounds[k]) + 1, int(bounds[k + 1])
        pieces += [text[place:start], _in_order(text[start:end], decomposed)]
        place = end
    return "".join([*pieces, text[place:]]) if pieces else text


@cache
def _marks(decomposed: Form) -> NDArray[np.bool_]:
    """Which code points become nothing but combining marks in a form: bool[0x110000]."""
    marks = np.zeros(CODE_POINTS, np.bool_)
    for code in range(MARKS_END):
        char = chr(code)
        if unicodedata.combining(char) or unicodedata.decomposition(char):
            marks[code] = all(map(unicodedata.combining, unicodedata.normalize(decomposed, char)))
    return marks


def _in_order(run: str, decomposed: Form) -> str:
    """A run of combining marks decomposed, and sorted by combining class."""
    forms = {mark: unicodedata.normalize(decomposed, mark) for mark in set(run)}
    by_class = defaultdict[int, list[str]](list)
    for mark in chain.from_iterable(map(forms.__getitem__, run)):
        by_class[unicodedata.combining(mark)].append(mark)
    return "".join(chain.from_iterable(by_class[order] for order in sorted(by_class)))


def composed(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts in NFC: (bytes, offsets), those given where a kernel proves that nothing changes.

    Text k of both is `data[offsets[k]:offsets[k + 1]]`.
    """
    from stages.kernels.arrow import read_only
    from stages.kernels.canonical import may_recompose

    sizes, pieces, place, view = np.diff(offsets), list[memoryview | bytes](), offsets[0], data.data
    for k in np.flatnonzero(may_recompose(data, offsets, _composition())).tolist():
        start, end = offsets[k : k + 2]
        text = str(view[start:end], "utf-8")
        if (new := normalize("NFC", text)) != text:
            pieces += [view[place:start], new.encode()]
            sizes[k], place = len(pieces[-1]), end
    if not pieces:
        return data, offsets
    pieces.append(view[place : offsets[-1]])
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return read_only(np.frombuffer(b"".join(pieces), np.uint8)), read_only(ends)


@cache
def _composition() -> NDArray[np.uint32]:
    table = quick_check("NFC")
    table.flags.writeable = False
    return table


def quick_check(form: Literal["NFC", "NFKC"]) -> NDArray[np.uint32]:
    """Of each code point what the quick check of a form needs (UAX #15, 9), as bits of `kernels.text`.

    What changes alone, what may compose with what comes before, combining classes: uint32[0x110000]. Made in 0.04 s.
    """
    from stages.kernels.text import CHANGED, COMBINING_SHIFT, FIRST, SECOND

    codes = np.r_[0:0xD800, 0xE000:0x20000, 0x2F800:0x2FA20, 0xE0000:0xE1000]
    chars = codes.astype("<u4").tobytes().decode("utf-32-le")
    table = np.zeros(CODE_POINTS, np.uint32)
    table[codes] = np.fromiter(map(unicodedata.combining, chars), np.uint32, len(codes)) << np.uint32(COMBINING_SHIFT)
    firsts = {chr(code) for code in range(0x1100, 0x1113)}
    seconds = {chr(code) for code in chain(range(0x1161, 0x1176), range(0x11A8, 0x11C3))}
    made = {char: parts for char in chars if (parts := unicodedata.decomposition(char))}
    for char, parts in made.items():
        first, _, second = parts.partition(" ")
        if second and " " not in second and first[0] != "<" and unicodedata.is_normalized("NFC", char):
            firsts.add(chr(int(first, 16)))
            seconds.add(chr(int(second, 16)))
    table[[ord(char) for char in made if not unicodedata.is_normalized(form, char)]] |= CHANGED
    begin = [char for char in made if unicodedata.normalize("NFD", char)[0] in firsts]
    table[[*map(ord, chain(firsts, begin)), *HANGUL]] |= FIRST
    table[[ord(char) for char in seconds]] |= SECOND
    return table
