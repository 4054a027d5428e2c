"""What two texts must share to be the same: bytes rewritten code point by code point.

Reads UTF-8 and a table that says of each code point whether it is copied, blank, or replaced; writes UTF-8. Since no
code point sees another, combining marks stay in the order they came in, where NFKC would sort them.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

CODES = 0x40000
"""The tables' last entry is for this code point and all beyond, none of which is a letter, a digit or a blank."""
COPY, BLANK = -1, -2
GROWTH = 11
"""Bytes of the longest replacement for each byte that it replaces (U+FDFA, 3 bytes, becomes 33 at most)."""


@cache
def blanks() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """A table by which runs of blanks (Python's `str.isspace`) become one space, and those at the ends nothing."""
    places = np.array([BLANK if chr(code).isspace() else COPY for code in range(CODES)] + [COPY], np.int32)
    return _frozen(places, np.zeros(2, np.int32), np.zeros(1, np.uint8))


@cache
def letters() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """A table by which letters, marks and digits become compatible, decomposed and case-folded; the rest goes.

    Each becomes the NFKD form of the case-folded NFKD form, without variation selectors. Made in 0.3 s, once a process.
    """
    places, spans, pool = np.zeros(CODES + 1, np.int32), [0, 0], bytearray()
    for code in range(CODES):
        char = chr(code)
        if unicodedata.category(char)[0] == "C":
            continue
        becomes = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
        kept = "".join(c for c in becomes if unicodedata.category(c)[0] in "LMN" and not "\ufe00" <= c <= "\ufe0f")
        if kept == char:
            places[code] = COPY
        elif kept:
            places[code] = len(spans) - 1
            pool += kept.encode()
            spans.append(len(pool))
    return _frozen(places, np.array(spans, np.int32), np.frombuffer(bytes(pool), np.uint8))


def _frozen(
    places: NDArray[np.int32], spans: NDArray[np.int32], pool: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """(entry of each code point, where replacement k is in the pool: from spans[k] to spans[k + 1], the pool)."""
    for array in (places, spans, pool):
        array.flags.writeable = False
    return places, spans, pool


@njit(cache=True, nogil=True)
def _rewrite(
    data: NDArray[np.uint8],
    place: int,
    end: int,
    places: NDArray[np.int32],
    spans: NDArray[np.int32],
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
    total: int,
) -> int:
    """Writes one text from `total` on, where there is room; where it ends."""
    start, waiting = total, False
    while place < end:
        byte = np.int64(data[place])
        code = byte
        after = place + 1
        if byte >= 0xF0:
            code = (byte & 0x07) << 18 | (np.int64(data[place + 1]) & 0x3F) << 12
            code |= (np.int64(data[place + 2]) & 0x3F) << 6 | (np.int64(data[place + 3]) & 0x3F)
            after = place + 4
        elif byte >= 0xE0:
            code = (byte & 0x0F) << 12 | (np.int64(data[place + 1]) & 0x3F) << 6 | (np.int64(data[place + 2]) & 0x3F)
            after = place + 3
        elif byte >= 0x80:
            code = (byte & 0x1F) << 6 | (np.int64(data[place + 1]) & 0x3F)
            after = place + 2
        entry = places[code] if code < CODES else places[CODES]
        if entry == BLANK:
            waiting = True
            place = after
            continue
        if waiting and total > start:
            out[total] = 32
            total += 1
        waiting = False
        if entry == COPY:
            while place < after:
                out[total] = data[place]
                total, place = total + 1, place + 1
            continue
        for i in range(spans[entry], spans[entry + 1]):
            out[total] = pool[i]
            total += 1
        place = after
    return total


@njit(cache=True, nogil=True)
def normalised(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    places: NDArray[np.int32],
    spans: NDArray[np.int32],
    pool: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts rewritten by a table: (bytes uint8[:], offsets int64[texts + 1]); text k of both is `[o[k]:o[k + 1]]`."""
    texts = len(offsets) - 1
    out = np.empty(offsets[texts] - offsets[0] + 1, np.uint8)
    ends = np.zeros(texts + 1, np.int64)
    for k in range(texts):
        room = ends[k] + GROWTH * (offsets[k + 1] - offsets[k])
        if room > len(out):
            larger = np.empty(max(room, 2 * len(out)), np.uint8)
            larger[: ends[k]] = out[: ends[k]]
            out = larger
        ends[k + 1] = _rewrite(data, offsets[k], offsets[k + 1], places, spans, pool, out, ends[k])
    return out[: ends[texts]], ends
