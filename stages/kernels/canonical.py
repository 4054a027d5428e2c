"""Which texts are in Unicode's composed form NFC as they stand.

Reads UTF-8 and a table of code points; writes a flag for each text. It is the quick check of UAX #15, section 9: it
doubts too many texts rather than too few. Of blocks of 32 bytes only characters are read whose first byte may begin a
doubtful one, which leaves out ASCII, Latin letters with accents, Cyrillic, Chinese and Hangul syllables.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import inlined, kernel, leaf, zero_array
from stages.kernels.text import CHANGED, COMBINING_SHIFT, FIRST, SECOND
from stages.kernels.utf8 import decode, last_character
from stages.kernels.vectors import BLOCK, within, zeros_below

DOUBTFUL = np.uint32(CHANGED | SECOND | 0xFF << COMBINING_SHIFT)
"""A character that normalisation may change, join to one before, or move has one of these bits in its entry."""


@kernel
def may_recompose(data: Any, offsets: Any, table: Any) -> Any:
    """Whether NFC may change each of n texts: bool[n]; false is certain.

    Text k is `data[offsets[k]:offsets[k + 1]]` (uint8[:], int64[n + 1]). table: uint32[0x110000], the quick check of
    NFC (`stages.normalisation`).
    """
    doubtful = zero_array(len(offsets) - 1, np.bool_)
    for k in range(len(doubtful)):
        doubtful[k] = _is_doubtful(data, offsets[k], offsets[k + 1], table)
    return doubtful


@leaf
def _is_doubtful(data: Any, start: int, end: int, table: Any) -> bool:
    """The same of one text.

    A character that combines is doubtful, so the one before a doubtful one is the last of these, or a starter.
    """
    i: Any = start
    read: Any = start
    before = starter = np.uint32(0)
    while i < end:
        if i + BLOCK <= len(data):
            leads, width = _leads(data, i), BLOCK
            if i + BLOCK > end:
                leads &= (np.uint64(1) << np.uint64(end - i)) - np.uint64(1)
        else:
            leads, width = np.uint64(data[i] >= 0xC0), 1
        while leads:
            place = i + np.int64(zeros_below(leads))
            leads &= leads - np.uint64(1)
            code, size = decode(data, place)
            entry = np.uint32(table[code])
            if not entry & DOUBTFUL:
                continue
            if place > read:
                before = starter = np.uint32(table[last_character(data, start, place)[0]])
            order = entry >> COMBINING_SHIFT
            if entry & CHANGED or (entry & SECOND and starter & FIRST) or 0 < order < before >> COMBINING_SHIFT:
                return True
            if order == 0:
                starter = entry
            before, read = entry, place + size
        i += width
    return False


@inlined
def _leads(data: Any, place: int) -> Any:
    """Which of 32 bytes may begin a doubtful character, as bits."""
    two_or_three = within(data, place, 0xCC, 0xCF) | within(data, place, 0xD2, 0xE3)
    return two_or_three | within(data, place, 0xEA, 0xEA) | within(data, place, 0xEF, 0xF0)
