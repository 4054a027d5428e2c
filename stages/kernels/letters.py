"""What letters texts are made of: how many of each script, and what else their code points tell.

Reads UTF-8 bytes and a table of code points; writes counts and traits. Blocks of 64 bytes that are all ASCII are
counted without looking anything up: five times as fast as the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import kernel, leaf, zero_array
from stages.kernels.utf8 import decode

BLOCK = 64
SCRIPT = 0xFF
"""The bits of an entry that number the script; those above are traits."""
UPPER, LOWER = 0x100, 0x200
"""Traits: an upper-case letter, a lower-case one."""


@kernel
def read_letters(data: Any, starts: Any, ends: Any, table: Any, kinds: int) -> Any:
    """(letters by script int64[n, kinds], traits uint16[n]) of n texts.

    Text k is `data[starts[k]:ends[k]]`. table: uint16[0x110000], of each code point the script, 0 for no letter, and
    its traits; a text has the traits of all its code points. What is no letter is not counted.
    """
    counts, traits = zero_array((len(starts), kinds), np.int64), zero_array(len(starts), np.uint16)
    latin = table[97] & SCRIPT
    for k in range(len(starts)):
        row, i, end, found = counts[k], starts[k], ends[k], 0
        while i < end:
            if end - i >= BLOCK and _is_ascii(data, i):
                upper, lower = _count_ascii(data, i)
                row[latin] += upper + lower
                found |= UPPER * (upper > 0) | LOWER * (lower > 0)
                i += BLOCK
                continue
            stop = min(i + BLOCK, end)
            while i < stop:
                code, width = decode(data, i)
                row[table[code] & SCRIPT] += 1
                found |= table[code]
                i += width
        row[0] = 0
        traits[k] = found & ~SCRIPT
    return counts, traits


@leaf
def _is_ascii(data: Any, start: int) -> Any:
    beyond = np.uint8(0)
    for byte in data[start : start + BLOCK]:
        beyond |= byte
    return beyond < 0x80


@leaf
def _count_ascii(data: Any, start: int) -> Any:
    """Upper-case and lower-case letters of a block."""
    upper: Any = 0
    lower: Any = 0
    for byte in data[start : start + BLOCK]:
        upper += np.uint8(byte - np.uint8(65)) < 26
        lower += np.uint8(byte - np.uint8(97)) < 26
    return upper, lower
