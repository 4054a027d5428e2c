"""A table of distinct words and how often each was met: open addressing over one arena of bytes.

Reads words as Arrow buffers, as the splitter cuts them or as another table gives them. The trade-off: a word costs its
bytes and 40 more, and a look-up two or three cache misses; the table doubles where it is full.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.kernels.leaf import kernel, leaf, zero_array

HALF = 0xFFFFFFFF


@kernel
def add_words(data: Any, offsets: Any, times: Any, slots: Any, ends: Any, counts: Any, arena: Any) -> Any:
    """Adds words to a table from the first on, until the table is full: how many it took.

    Word k is `data[offsets[k]:offsets[k + 1]]` (uint8[:], int64[n + 1]), met times[k % len(times)] times (int64[:]).
    The table of m words: ends int64[:], ends[0] is m, word i ≥ 1 is `arena[ends[i]:ends[i + 1]]`; counts int64[:], of
    word i at i; slots uint64[power of two]: 0, or a hash's upper half and the word's i.
    """
    mask, half, fold = np.uint64(len(slots) - 1), np.uint64(HALF), np.uint64(32)
    words, limit = ends[0], min(len(slots) // 2, len(counts) - 1)
    for k in range(len(offsets) - 1):
        start, size = offsets[k], offsets[k + 1] - offsets[k]
        value = _hash(data, start, start + size)
        slot = value & mask
        entry: Any = np.int64(0)
        while slots[slot] != 0:
            if (slots[slot] ^ value) >> fold == 0:
                entry = np.int64(slots[slot] & half)
                base = ends[entry]
                same = ends[entry + 1] - base == size
                place = 0
                while same and place < size:
                    same = data[start + place] == arena[base + place]
                    place += 1
                if same:
                    break
                entry = np.int64(0)
            slot = (slot + np.uint64(1)) & mask
        if entry == 0:
            if words == limit or ends[words + 1] + size > len(arena):
                ends[0] = words
                return k
            words += 1
            entry = words
            base = ends[entry]
            for place in range(size):
                arena[base + place] = data[start + place]
            ends[entry + 1] = base + size
            slots[slot] = (value & ~half) | np.uint64(entry)
        counts[entry] += times[k % len(times)]
    ends[0] = words
    return len(offsets) - 1


@kernel
def index_words(arena: Any, ends: Any, size: int) -> Any:
    """The slots of a table's words: uint64[size], a power of two."""
    slots, mask = zero_array(size, np.uint64), np.uint64(size - 1)
    for word in range(1, ends[0] + 1):
        value = _hash(arena, ends[word], ends[word + 1])
        slot = value & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (value & ~np.uint64(HALF)) | np.uint64(word)
    return slots


@leaf
def _hash(data: Any, start: int, end: int) -> Any:
    """FNV-1a over bytes, its halves mixed."""
    value = np.uint64(0xCBF29CE484222325)
    for place in range(start, end):
        value = (value ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
    return (value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
