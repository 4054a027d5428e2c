"""Where the stock split patterns cut a text: UTF-8 bytes in, the ends of its pre-tokens out.

Reads Arrow buffers and a table of character classes. A first loop writes the class of each character; then a scanner
written by hand for each pattern tries the pattern's alternatives in their order. A regex engine with a
counter makes 3–5 MB/s, this 120–260. Functions below the first take addresses, not arrays: numba counts references to
an array at each call, which took two thirds of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stages.kernels.leaf import empty_array, kernel, leaf

LETTER, NUMBER, SPACE, OTHER, UPPER, LOWER, NEWLINE, REST = (1 << bit for bit in range(8))
"""Bits of a character's class: \\p{L}, \\p{N}, \\s, none of the three; [\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}],
[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}], [\\r\\n]. REST: a byte after a character's first. 0: the end of the text."""
GPT2, CL100K, O200K, QWEN2 = range(4)
QUOTE, BLANK, SLASH = 39, 32, 47
NOT_AHEAD = NEWLINE | LETTER | NUMBER


@kernel
def split_words(data: Any, offsets: Any, classes: Any, pattern: int, longest: int) -> Any:
    """Cuts n texts into pre-tokens, one after the other: (found, how many pre-tokens were cut into pieces).

    found: int64[m + 1], word i is `data[found[i]:found[i + 1]]`. Text k is `data[offsets[k]:offsets[k + 1]]` (uint8[:],
    int64[n + 1], valid UTF-8). classes: uint8[0x110000], none 0.
    pattern: GPT2, CL100K, O200K or QWEN2. longest: a pre-token of more characters is cut into pieces of so many.
    """
    found, count, largest, pieces = empty_array(offsets[-1] - offsets[0] + 1, np.int64), 0, 0, 0
    for k in range(len(offsets) - 1):
        largest = max(largest, offsets[k + 1] - offsets[k])
    kinds = empty_array(largest + 1, np.uint8)
    found[0] = offsets[0]
    for k in range(len(offsets) - 1):
        start, size = offsets[k], offsets[k + 1] - offsets[k]
        place = np.int64(0)
        while place < size:
            code = np.int64(data[start + place])
            if code < 0x80:
                kinds[place] = classes[code]
                place += 1
                continue
            width = 2 + (code >= 0xE0) + (code >= 0xF0)
            code &= 0xFF >> (width + 1)
            for rest in range(1, width):
                code = code << 6 | np.int64(data[start + place + rest]) & 63
                kinds[place + rest] = REST
            kinds[place] = classes[code]
            place += width
        kinds[size] = 0
        base = np.int64(kinds.ctypes.data)
        shift = np.int64(data.ctypes.data) + start - base
        place, end = base, base + size
        while place < end:
            stop, first = _after(place, shift, pattern), count
            while place < stop:
                place = stop if stop - place <= longest else _piece(place, stop, longest)
                count += 1
                found[count] = place - base + start
            pieces += count > first + 1
    return found[: count + 1], pieces


@intrinsic
def _byte(context: Any, address: Any) -> Any:
    """The byte at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        return builder.zext(builder.load(pointer), context.get_value_type(types.int64))

    return types.int64(types.int64), generate


@leaf
def _piece(place: Any, end: int, longest: int) -> Any:
    """Where `longest` characters from `place` end, or `end`."""
    while place < end and longest:
        place = _run(place + 1, REST)
        longest -= 1
    return place


@leaf
def _run(place: Any, mask: int) -> Any:
    """Where the bytes from `place` on end that are of these classes."""
    while _byte(place) & mask:
        place += 1
    return place


@leaf
def _after(place: Any, shift: int, pattern: int) -> Any:
    """The end of the pre-token that starts at `place`, where its class is; its bytes are `shift` from there."""
    kind = _byte(place)
    after = _contraction(place, shift, pattern != GPT2) if pattern != O200K else place
    if after > place:
        return after
    ahead = place + (_byte(place + shift) == BLANK)
    if pattern == GPT2:
        mask = _byte(ahead) & (LETTER | NUMBER | OTHER)
        return _run(ahead, mask | REST) if mask else _blanks(place, False)
    after = _cased(place, kind, shift) if pattern == O200K else _letters(place, kind)
    if after > place:
        return after
    if kind & NUMBER:
        digits = 1 if pattern == QWEN2 else 3
        while digits and _byte(after) & NUMBER:
            after = _run(after + 1, REST)
            digits -= 1
        return after
    if _byte(ahead) & OTHER:
        after = _run(ahead, OTHER | REST)
        while _byte(after) & NEWLINE or (pattern == O200K and _byte(after) and _byte(after + shift) == SLASH):
            after += 1
        return after
    return _blanks(place, True)


@leaf
def _contraction(place: Any, shift: int, any_case: bool) -> Any:
    """The end of 's|'t|'re|'ve|'m|'ll|'d at `place`, or `place`. In any case the long s, U+017F, is an s."""
    if _byte(place) == 0 or _byte(place + shift) != QUOTE or _byte(place + 1) & LETTER == 0:
        return place
    first = _byte(place + shift + 1)
    second = _byte(place + shift + 2) if _byte(place + 2) else 0
    if any_case:
        if first == 0xC5 and second == 0xBF:
            return place + 3
        first |= (first < 97) << 5
        second |= (second < 97) << 5
    if first in (115, 116, 109, 100):  # s t m d
        return place + 2
    if (first in (114, 118) and second == 101) or (first == 108 and second == 108):  # re ve ll
        return place + 3
    return place


@leaf
def _letters(place: Any, kind: int) -> Any:
    """The end of [^\\r\\n\\p{L}\\p{N}]?\\p{L}+ at `place`, or `place`."""
    after = place if kind & NOT_AHEAD else _run(place + 1, REST)
    return _run(after, LETTER | REST) if _byte(after) & LETTER else place


@leaf
def _cased(place: Any, kind: int, shift: int) -> Any:
    """The end of o200k's two alternatives for words at `place`, or `place`.

    Upper case, then at least one lower; else at least one upper; both first with another character before them, then
    without.
    """
    ahead = place if kind & NOT_AHEAD else _run(place + 1, REST)
    after = _lower_end(ahead)
    if after == ahead and ahead > place and kind & LOWER:
        ahead = place
        after = _lower_end(place)
    if after == ahead and _byte(after) & UPPER:
        after = _run(ahead, UPPER | REST)
    return _contraction(after, shift, True) if after > ahead else place


@leaf
def _lower_end(place: Any) -> Any:
    """The end of [upper]*[lower]+ at `place`, or `place`.

    Letters without case are of both classes: where no lower case follows, the last of them ends the match.
    """
    both = place
    while _byte(place) & UPPER:
        kind = _byte(place)
        place = _run(place + 1, REST)
        if kind & LOWER:
            both = place
    return _run(place, LOWER | REST) if _byte(place) & LOWER else both


@leaf
def _blanks(place: Any, lines: bool) -> Any:
    """The end of (\\s*[\\r\\n]+ where `lines`, then) \\s+(?!\\S)|\\s+ at `place`, which is a blank."""
    after, last, newline = place, place, place
    while _byte(after) & SPACE:
        last = after
        after = _run(after + 1, REST)
        if _byte(last) & NEWLINE:
            newline = after
    if lines and newline > place:
        return newline
    return after if _byte(after) == 0 or last == place else last
