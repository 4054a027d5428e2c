"""Words' hashes, and what spaCy's exceptions say of a word: its sign rules most words out, its hash finds the others.

Reads a word as bytes start to end of a buffer, and the tables of `stages.words`: known, uint64[slots, 4], rows of
(hash, splits, pattern, tail), and signs, uint8[8192]; writes nothing. Words of one hash count as one word: among a
million, a chance of 3e-8 that any two have it, if hashes are as good as random.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import inlined, leaf
from stages.kernels.utf8 import ALL, eight_until

EXCEPTION, PATTERN, TAIL, HEAD = map(np.int64, (1, 2, 4, 8))
"""What a candidate may be by its first byte, last byte and size: an exception, one to be sought among finished words,
what goes as a suffix after a digit; the first two bytes of one to be sought."""
LONGEST = 32
"""Bytes of the longest exception (at most)."""
PRIME, HALF, AWAY = np.uint64(0x9E3779B97F4A7C15), np.uint64(32), np.uint64(40)
"""The multiplier of a hash, half its bits, how far it is shifted down to number a slot."""


@inlined
def hash_word(data: Any, start: int, end: int) -> Any:
    """A word's hash: its size, then eight bytes at a time."""
    state = np.uint64(end - start) * PRIME
    while start < end:
        state = (state ^ eight_until(data, start, end)) * PRIME
        state ^= state >> HALF
        start += 8
    return state


@leaf
def hash_again(data: Any, start: int, end: int) -> Any:
    """The same, where it is seldom asked for: each copy of it that is inlined takes a second to compile."""
    return hash_word(data, start, end)


@inlined
def hash_block(block: Any, size: int) -> Any:
    """The hash of a word of 1 to 7 bytes, the first of a block."""
    state = (np.uint64(size) * PRIME ^ block & ALL >> np.uint64(64 - 8 * size)) * PRIME
    return state ^ state >> HALF


@inlined
def hash_byte(byte: Any) -> Any:
    """The hash of a word of one byte."""
    state = (PRIME ^ np.uint64(byte)) * PRIME
    return state ^ state >> HALF


@inlined
def has_sign(data: Any, start: int, end: int, signs: Any, kinds: int) -> bool:
    """Whether a word may be an exception of some of these kinds, by the first byte, the last and its size."""
    if end - start > LONGEST:
        return False
    sign = (np.int64(data[start]) * 67 + np.int64(data[end - 1]) * 5 + (end - start) * 1201) & 8191
    return bool(signs[sign] & kinds)


@leaf
def find(known: Any, key: Any) -> Any:
    """The row of `known` with this hash, or -1."""
    mask = len(known) - 1
    slot = np.int64(key >> AWAY) & mask
    while known[slot, 0] != 0:
        if known[slot, 0] == key:
            return slot
        slot = (slot + 1) & mask
    return -1


@inlined
def is_known(data: Any, start: int, end: int, key: Any, known: Any, signs: Any, kinds: int) -> Any:
    """Whether a word, of hash `key`, is among the exceptions; one of other kinds may count too."""
    return has_sign(data, start, end, signs, kinds) and find(known, key) >= 0


@leaf
def row_of(data: Any, start: int, end: int, known: Any, signs: Any, kind: int) -> Any:
    """The row of `known` for a word that is an exception of one kind, else -1."""
    if start >= end or not has_sign(data, start, end, signs, kind):
        return np.int64(-1)
    row = np.int64(find(known, hash_again(data, start, end)))
    if row >= 0 and known[row, 1 if kind == EXCEPTION else 2 if kind == PATTERN else 3] == 0:
        return np.int64(-1)
    return row
