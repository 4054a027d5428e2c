"""What letters texts are made of: how many of each script, and what else their code points tell.

Reads UTF-8 bytes and a table of code points; writes counts and traits. Of blocks of 32 bytes only what is beyond ASCII
is looked up: English is counted ten times as fast as Chinese.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import kernel, zero_array
from stages.kernels.utf8 import decode
from stages.kernels.vectors import BLOCK, ones_in, within, zeros_below

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
        row, i, end, found, plain = counts[k], starts[k], ends[k], 0, 0
        while i < end:
            if i + BLOCK <= end:
                upper, lower = within(data, i, 65, 90), within(data, i, 97, 122)
                plain += ones_in(upper | lower)
                found |= UPPER * (upper > 0) | LOWER * (lower > 0)
                leads, width = within(data, i, 0xC0, 0xFF), BLOCK
            else:
                leads, width = np.uint64(data[i] < 0x80 or data[i] >= 0xC0), 1
            while leads:
                entry = table[decode(data, i + np.int64(zeros_below(leads)))[0]]
                row[entry & SCRIPT] += 1
                found |= entry
                leads &= leads - np.uint64(1)
            i += width
        row[latin] += plain
        row[0] = 0
        traits[k] = found & ~SCRIPT
    return counts, traits
