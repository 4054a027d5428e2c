"""What two texts must share to be the same: bytes rewritten without what does not count.

Reads UTF-8, writes UTF-8, never more than it needs: `squeezed` evens out blanks, `bare` leaves letters, marks and
digits alone. Since no code point sees another, `bare` is given composed text (NFC), so that all canonical forms of a
text come out as one; it does not sort the marks of what it takes apart. `squeezed` reads 32 bytes at a time, but byte
by byte around blanks beyond ASCII and where a text ends, as `bare` does: each byte is written, and the place moves on
where it counts, which costs no branch but twice the time.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stages.kernels.leaf import empty_array, kernel, leaf, zero_array
from stages.kernels.vectors import BEYOND, BLOCK, even_blanks, zeros_below

CODES = 0x40000
"""The table's last entry is for this code point and all beyond: no letters or digits, and no marks but selectors."""
COPY = -1
GROWTH = 11
"""Bytes of the longest replacement for each byte that it replaces (U+FDFA, 3 bytes, becomes 33 at most)."""
PLAIN, BLANK, LEAD = 0, 1, 2
"""Of a byte: copied; a blank; the first of a character that may be a blank."""


@cache
def byte_kinds() -> NDArray[np.uint8]:
    """uint8[256]: what a byte is when blanks are evened out. Blanks are Python's `str.isspace`."""
    kinds = np.array([BLANK if chr(byte).isspace() and byte < 0x80 else PLAIN for byte in range(256)], np.uint8)
    kinds[[chr(code).encode()[0] for code in range(0x80, 0x10000) if chr(code).isspace()]] = LEAD
    kinds.flags.writeable = False
    return kinds


@cache
def letters() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """A table by which letters, marks and digits become compatible, decomposed and case-folded; the rest goes.

    Each becomes the NFKD form of the case-folded NFKD form, without variation selectors. (entry of each code point:
    COPY, or which replacement; where replacement k is in the pool, from spans[k] to spans[k + 1]; the pool). Made in
    0.3 s, once a process.
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
    table = places, np.array(spans, np.int32), np.frombuffer(bytes(pool), np.uint8)
    for array in table:
        array.flags.writeable = False
    return table


@leaf
def _blank_at(data: NDArray[np.uint8], place: np.uint64, end: np.uint64) -> np.uint64:
    """Bytes of the blank beyond ASCII that starts at `place`; 0 where there is none."""
    a, b = data[place], data[place + np.uint64(1)] if place + np.uint64(1) < end else 0
    if a == 0xC2:
        return np.uint64(2) if b in (0x85, 0xA0) else np.uint64(0)
    c = data[place + np.uint64(2)] if place + np.uint64(2) < end else 0
    found = (a == 0xE1 and b == 0x9A and c == 0x80) or (a == 0xE3 and b == 0x80 and c == 0x80)
    found |= a == 0xE2 and b == 0x80 and (c <= 0x8A or c in (0xA8, 0xA9, 0xAF))
    found |= a == 0xE2 and b == 0x81 and c == 0x9F
    return np.uint64(3) if found else np.uint64(0)


@kernel
def squeezed(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], kinds: NDArray[np.uint8], out: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts whose runs of blanks are one space, none at either end: (bytes uint8[:], offsets int64[texts + 1]).

    Text k of both is `[o[k]:o[k + 1]]`. kinds: `byte_kinds()`. out: memory to write into, and to hand back, where it is
    large enough: fresh memory would cost more than the work.
    """
    texts = len(offsets) - 1
    ends, size = zero_array(texts + 1, np.int64), offsets[texts] - offsets[0] + 1
    if size > len(out):
        out = empty_array(size, np.uint8)
    w, one, block = np.uint64(0), np.uint64(1), np.uint64(BLOCK)
    for k in range(texts):
        place, end, begin = np.uint64(offsets[k]), np.uint64(offsets[k + 1]), w
        before = one
        while place < end:
            stop = end
            if place + np.uint64(BLOCK + BEYOND) <= end:
                found = even_blanks(data, place, out, w)
                blanks, others = found & np.uint64(0xFFFFFFFF), found >> block
                doubled = blanks & (blanks >> one | before)
                if found == blanks:
                    if doubled == 0:
                        place, w, before = place + block, w + block, blanks >> (block - one)
                        continue
                    single = zeros_below(doubled)
                    place += single + zeros_below(~(blanks >> single))
                    w += single + (one - (before & np.uint64(single == 0)))
                    before = one
                    continue
                stop = place + zeros_below(others) + one
            while place < stop:
                byte = data[place]
                kind = np.uint64(kinds[byte])
                wide = np.uint64(0)
                if kind > one:
                    wide = _blank_at(data, place, end)
                    kind = np.uint64(wide > np.uint64(0))
                out[w] = np.uint8(32) if kind == one else byte
                w += one - (kind & before)
                before = kind
                place += max(wide, one)
        w -= before & np.uint64(w > begin)
        ends[k + 1] = np.int64(w)
    return out, ends


@kernel
def bare(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    places: NDArray[np.int32],
    spans: NDArray[np.int32],
    pool: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts rewritten by the table of `letters()`: (bytes, offsets), with `out` as in `squeezed`."""
    texts = len(offsets) - 1
    ends = zero_array(texts + 1, np.int64)
    w, one, two, three, six = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.int64(0x3F)
    for k in range(texts):
        place, end = np.uint64(offsets[k]), np.uint64(offsets[k + 1])
        room = int(w) + GROWTH * int(end - place) + 1
        if room > len(out):
            larger = empty_array(max(room, 2 * len(out)), np.uint8)
            for i in range(w):
                larger[i] = out[i]
            out = larger
        while place < end:
            byte = np.int64(data[place])
            if byte < 0x80:
                out[w] = np.uint8(byte | np.int64(65 <= byte <= 90) << 5)
                w += np.uint64(48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122)
                place += one
                continue
            if byte < 0xE0:
                code, after = (byte & 0x1F) << 6 | data[place + one] & six, place + two
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | (data[place + one] & six) << 6 | data[place + two] & six
                after = place + three
            else:
                code = (byte & 0x07) << 18 | (data[place + one] & six) << 12 | (data[place + two] & six) << 6
                code |= data[place + three] & six
                after = place + np.uint64(4)
            entry = np.int64(places[np.uint64(min(code, CODES))])
            if entry == COPY:
                for i in range(place, after):
                    out[w] = data[i]
                    w += one
            else:
                for j in range(spans[entry], spans[entry + 1]):
                    out[w] = pool[j]
                    w += one
            place = after
        ends[k + 1] = np.int64(w)
    return out, ends
