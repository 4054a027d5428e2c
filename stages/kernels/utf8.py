"""UTF-8 read a character or eight bytes at a time, for the kernels that read texts.

Reads valid UTF-8 as byte ranges of one buffer, and classes of characters, uint32[0x110000] of bits; writes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import inlined, leaf

SPACE = 1
"""The bit of a character's class that says it is blank."""
ONES, TOPS, ALL = (np.uint64(byte * 0x0101010101010101) for byte in (1, 0x80, 0xFF))
"""The same byte eight times."""
PLACES = np.uint64(0x01020304050607)
"""Multiplied by a power of 256, it has that power's exponent as its highest byte."""


@leaf
def decode(data: Any, i: int) -> Any:
    """The code point at `i`, and its bytes."""
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
def last_character(data: Any, start: int, end: int) -> Any:
    """The last code point of bytes start to end, and where it starts; (0, start) where there is none."""
    i = end
    while i > start:
        i -= 1
        if data[i] & 0xC0 != 0x80:
            return decode(data, i)[0], i
    return np.int64(0), start


@leaf
def lstrip(data: Any, start: int, end: int, classes: Any) -> Any:
    """Where the first character that is no blank starts, or the end."""
    while start < end:
        code, width = decode(data, start)
        if not classes[code] & SPACE:
            break
        start += width
    return start


@leaf
def rstrip(data: Any, start: int, end: int, classes: Any) -> Any:
    """Where the last character that is no blank ends, or the start."""
    while end > start:
        code, place = last_character(data, start, end)
        if not classes[code] & SPACE:
            break
        end = place
    return end


@inlined
def eight(data: Any, i: Any) -> Any:
    """Eight bytes from `i` on, all before the buffer's end, the first the lowest."""
    at, block = np.uint64(i), np.uint64(0)
    for k in range(8):
        # an unsigned index, which numba does not check for negative ones: LLVM makes one load of the eight
        block |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return block


@inlined
def eight_until(data: Any, i: int, end: int) -> Any:
    """Eight bytes from `i` on, the first the lowest; 0 for those from `end` on."""
    if i + 8 > len(data):
        return _rest(data, i, end)
    block = eight(data, i)
    return block if end - i >= 8 else block & ALL >> np.uint64(64 - 8 * (end - i))


@leaf
def _rest(data: Any, i: int, end: int) -> Any:
    """The same where the buffer ends."""
    block = np.uint64(0)
    for k in range(min(end - i, 8)):
        block |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return block


@inlined
def zeros(block: Any) -> Any:
    """The top bits of a block's bytes that are 0; the first is right, one after it may not be."""
    return (block - ONES) & ~block & TOPS


@inlined
def first_top(tops: Any) -> Any:
    """Which byte of a block is the first whose top bit is set; some is."""
    lowest = (tops & (~tops + np.uint64(1))) >> np.uint64(7)
    return np.int64(lowest * PLACES >> np.uint64(56))
