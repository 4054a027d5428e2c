"""Shingles, MinHash signatures and band keys, straight from the bytes of a batch.

Words are maximal runs of word characters, lower-cased code point by code point: letters, digits, _ and combining marks
(UTS #18, Annex C). In scripts written without spaces each character with the marks after it is a word. Characters that
show nothing by themselves neither count nor end a word (UAX #29, WB4): joiners and other format characters but U+200B,
which marks a word's end, and variation selectors. A shingle is n words in a row as a 64-bit hash, so that sets of
shingles compare by hash alone; two different shingles share one about once in 2^63. Lower case differs from
`str.lower()` in two places: İ becomes i, and Σ at a word's end becomes σ. Signatures of 128 permutations are made at
480 MB/s of English and 210 of Chinese, for 6 bytes of scratch for each byte of the longest text.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stages.kernels.leaf import empty_array, inlined, kernel, leaf, zero_array
from stages.kernels.utf8 import ONES, TOPS, eight, zeros

CODES = 0x110000
LETTERS_END, MARKS_END = 0x40000, 0x20000
"""No code point from here on is a letter or a digit; none a mark, but for selectors."""
MARK = 1 << 21
"""Added to a mark's code point in its entry."""
SILENT = -(1 << 30)
"""The entry of a character that neither counts nor ends a word."""
SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""First and last code point of the two blocks of variation selectors."""
SPACELESS = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x30FF),  # ideographic marks, Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han A
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar extensions
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x16FE0, 0x16FFF),  # ideographic marks
    (0x1AFF0, 0x1B16F),  # Kana supplements
    (0x20000, 0x3FFFF),  # Han B and later
)
"""First and last code point of each block in which every word character is a word of its own."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C17)
"""2^64 over the golden ratio, made 3 modulo 4: then two words in a row hash apart from the same in reverse."""
EIGHT = np.uint64(8)
"""Bytes looked at together, where all are ASCII."""
STRETCH = np.uint64(64)
"""Bytes read one character after the other once one is not ASCII: trying eight at once again costs as much as ten."""
STRIPE = 1024
"""Shingles hashed together for one permutation after the other: they stay in the first cache."""
FEWEST = 2
"""Permutations of a signature at least: they are worked through in pairs, which keeps two minima in flight."""
SMALL = 48
"""Sets up to this size are sorted by insertion."""


@cache
def folding() -> NDArray[np.int32]:
    """int32[CODES]: 0 for a character that is in no word, else its lower case, negative where it is a word of its own.

    A mark has -(MARK + its code point), a character that shows nothing `SILENT`. Made from the running Python's Unicode
    tables, once a process (0.05 s).
    """
    codes = np.arange(LETTERS_END, dtype=np.int32)
    chars = codes.view("<U1")
    letters = np.where(np.strings.isalnum(chars), codes, 0)
    letters[ord("_")] = ord("_")
    cased = np.flatnonzero((letters > 0) & (np.strings.isupper(chars) | np.strings.istitle(chars)))
    letters[cased] = [ord(chr(code).lower()[0]) for code in cased.tolist()]
    for first, last in SPACELESS:
        letters[first : last + 1] *= -1
    table = np.zeros(CODES, np.int32)
    table[:LETTERS_END] = letters
    kinds = [(code, unicodedata.category(chr(code))) for code in (*range(MARKS_END), *range(0xE0000, 0xE1000))]
    marks = [code for code, kind in kinds if kind[0] == "M"]
    table[marks] = [-(MARK + code) for code in marks]
    table[[code for code, kind in kinds if kind == "Cf" and code != 0x200B]] = SILENT
    for first, last in SELECTORS:
        table[first : last + 1] = SILENT
    table.flags.writeable = False
    return table


@inlined
def _mix(x: np.uint64) -> np.uint64:
    """A 64-bit finaliser (splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inlined
def _between(chunk: np.uint64, low: int, high: int) -> np.uint64:
    """Of eight ASCII bytes those from `low` to `high`, as high bits (others bits are noise)."""
    return (chunk + ONES * np.uint64(128 - low)) & ~(chunk + ONES * np.uint64(127 - high))


@leaf
def _fold_ascii(
    data: NDArray[np.uint8], place: np.uint64, end: np.uint64, out: NDArray[np.uint8], w: np.uint64
) -> np.uint64:
    """Folds eight bytes at a time, from `place` on → out from `w` on, while all are ASCII; how many bytes."""
    first = place
    while place + EIGHT <= end:
        chunk = eight(data, place)
        if chunk & TOPS != np.uint64(0):
            break
        chunk |= (_between(chunk, 65, 90) & TOPS) >> np.uint64(2)
        words = (_between(chunk, 97, 122) | _between(chunk, 48, 57) | _between(chunk, 95, 95)) & TOPS
        chunk &= (words >> np.uint64(7)) * np.uint64(255)
        for j in range(EIGHT):
            out[w + j] = np.uint8(chunk >> j * EIGHT)
        place += EIGHT
        w += EIGHT
    return place - first


@inlined
def _tail(data: NDArray[np.uint8], i: np.uint64, shift: int) -> np.int64:
    """The six bits of a byte after a character's first, shifted to their place."""
    return (np.int64(data[i]) & 0x3F) << shift


@leaf
def _put(code: int, out: NDArray[np.uint8], w: np.uint64) -> np.uint64:
    """Writes a code point as UTF-8 at `w`; where it ends."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    if code < 0x80:
        out[w] = code
        return w + one
    if code < 0x800:
        out[w], out[w + one] = 0xC0 | code >> 6, 0x80 | code & 0x3F
        return w + two
    if code < 0x10000:
        out[w], out[w + one], out[w + two] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
        return w + three
    out[w], out[w + one] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
    out[w + two], out[w + three] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    return w + np.uint64(4)


@leaf
def _put_mark(entry: int, out: NDArray[np.uint8], w: np.uint64, alone: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Writes a mark, or nothing for a silent character: (where the text goes on, the `alone` of `_fold`)."""
    if entry == SILENT:
        return w, alone
    one = np.uint64(1)
    if alone + one != w:
        return _put(-entry - MARK, out, w), alone
    w = _put(-entry - MARK, out, alone)
    out[w] = 0
    return w + one, w


@leaf
def _fold(data: NDArray[np.uint8], start: int, end_: int, table: NDArray[np.int32], out: NDArray[np.uint8]) -> int:
    """One text's words, lower-cased, with one zero byte or more between them → out; how many bytes.

    A word of one character ends in a zero at once, which a mark after it takes back: `alone` is where that zero is.
    Places are unsigned, since numba looks at every signed one for whether it counts from the end.
    """
    place, end, w = np.uint64(start), np.uint64(end_), np.uint64(0)
    alone = end + end  # no place of a zero yet
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    while place < end:
        done = _fold_ascii(data, place, end, out, w)
        place += done
        w += done
        stop = min(place + STRETCH, end)
        while place < stop:
            byte = np.int64(data[place])
            code = byte
            if byte < 0x80:
                place += one
            elif byte < 0xE0:
                code = (byte & 0x1F) << 6 | _tail(data, place + one, 0)
                place += two
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | _tail(data, place + one, 6) | _tail(data, place + two, 0)
                place += three
            else:
                code = (byte & 0x07) << 18 | _tail(data, place + one, 12) | _tail(data, place + two, 6)
                code |= _tail(data, place + three, 0)
                place += np.uint64(4)
            folded = np.int64(table[np.uint64(code)])
            if folded > 0:
                w = _put(folded, out, w)
                continue
            if folded < 0:
                if folded <= -MARK:
                    w, alone = _put_mark(folded, out, w, alone)
                    continue
                out[w] = 0
                w = alone = _put(-folded, out, w + one)
            out[w] = 0
            w += one
    return int(w)


@leaf
def _hash_words(folded: NDArray[np.uint8], size: int, out: NDArray[np.uint64]) -> int:
    """Hashes of the words of a folded text, followed by 16 zero bytes → out; how many.

    Eight bytes at a time: a zero byte among them shows in the high bit of its place (Mycroft), and the ones below it
    are counted by a product.
    """
    end, i, count = np.uint64(size), np.uint64(0), 0
    while i < end:
        chunk = eight(folded, i)
        if chunk & np.uint64(0xFF) == np.uint64(0):
            filled = ((chunk & ~TOPS) + ~TOPS | chunk) & TOPS
            if filled == np.uint64(0):
                i += EIGHT
                continue
            i += (((filled & (~filled + np.uint64(1))) - np.uint64(1) & ONES) * ONES >> np.uint64(56)) - np.uint64(1)
            chunk = eight(folded, i)
        state = np.uint64(0)
        gaps = zeros(chunk)
        while gaps == np.uint64(0):
            state = (state ^ chunk) * MULTIPLIER
            state ^= state >> np.uint64(32)
            i += EIGHT
            chunk = eight(folded, i)
            gaps = zeros(chunk)
        below = (gaps & (~gaps + np.uint64(1))) - np.uint64(1)
        out[count] = _mix((state ^ chunk & below) * MULTIPLIER)
        count += 1
        i += (below & ONES) * ONES >> np.uint64(56)
    return count


@leaf
def _shingles(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    table: NDArray[np.int32],
    n: int,
    folded: NDArray[np.uint8],
    out: NDArray[np.uint64],
) -> int:
    """Hashes of one text's shingles, in order and not yet distinct → out; how many: one at least. folded: scratch."""
    size = _fold(data, start, end, table, folded)
    for j in range(16):
        folded[size + j] = 0
    count = _hash_words(folded, size, out)
    if count == 0:
        state = np.uint64(1)
        for place in range(start, end):
            if data[place] > 32:
                state = (state ^ np.uint64(data[place])) * MULTIPLIER
                state ^= state >> np.uint64(29)
        out[0] = state
        count = 1
    width = min(n, count)
    rolled, leaving = np.uint64(0), np.uint64(1)
    for j in range(width - 1):
        rolled = (rolled + out[j]) * MULTIPLIER
        leaving *= MULTIPLIER
    for j in range(count - width + 1):
        word = out[j]
        rolled += out[j + width - 1]
        out[j] = _mix(rolled ^ np.uint64(width))
        rolled = (rolled - word * leaving) * MULTIPLIER
    return int(count - width + 1)


@leaf
def _longest(offsets: NDArray[np.int64]) -> int:
    """Bytes of the longest text."""
    longest = np.int64(0)
    for k in range(len(offsets) - 1):
        longest = max(longest, offsets[k + 1] - offsets[k])
    return int(longest)


@leaf
def _sort(values: NDArray[np.uint64], size: int, spare: NDArray[np.uint64], counts: NDArray[np.int32]) -> None:
    """Sorts the first `size` values in place: few by insertion, else by radix, a byte at a time, whatever they are."""
    if size <= SMALL:
        for j in range(1, size):
            value, i = values[j], j
            while i > 0 and values[i - 1] > value:
                values[i] = values[i - 1]
                i -= 1
            values[i] = value
        return
    for byte in range(8):
        for slot in range(256):
            counts[byte, slot] = 0
    for j in range(size):
        for byte in range(8):
            counts[byte, values[j] >> np.uint64(8 * byte) & np.uint64(255)] += 1
    source, target = values, spare
    for byte in range(8):
        total = np.int32(0)
        for slot in range(256):
            here = counts[byte, slot]
            counts[byte, slot] = total
            total += here
        for j in range(size):
            value = source[j]
            digit = value >> np.uint64(8 * byte) & np.uint64(255)
            target[counts[byte, digit]] = value
            counts[byte, digit] += 1
        source, target = target, source


@kernel
def shingles(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], table: NDArray[np.int32], n: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The set of shingles of every text: (hashes uint64[:], ends int64[texts + 1]), sorted and distinct in each text.

    data, offsets: texts as UTF-8, text k at `data[offsets[k]:offsets[k + 1]]`. table: `folding()`. A text of fewer than
    n words has one shingle of all its words; one without any word has one of its bytes above the blank.
    """
    texts, longest = len(offsets) - 1, _longest(offsets)
    folded, words = empty_array(2 * longest + 16, np.uint8), empty_array(longest // 2 + 1, np.uint64)
    spare, counts = empty_array(longest // 2 + 1, np.uint64), empty_array((8, 256), np.int32)
    out = empty_array((offsets[texts] - offsets[0]) // 4 + texts, np.uint64)
    ends = zero_array(texts + 1, np.int64)
    total = 0
    for k in range(texts):
        count = _shingles(data, offsets[k], offsets[k + 1], table, n, folded, words)
        if total + count > len(out):  # half as large as it may need to be, since fresh memory costs more than a copy
            larger = empty_array(2 * len(out) + count, np.uint64)
            for j in range(total):
                larger[j] = out[j]
            out = larger
        _sort(words, count, spare, counts)
        for j in range(count):
            if j == 0 or words[j] != words[j - 1]:
                out[total] = words[j]
                total += 1
        ends[k + 1] = total
    return out[:total], ends


@kernel
def signatures(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    table: NDArray[np.int32],
    n: int,
    factors: NDArray[np.uint32],
    addends: NDArray[np.uint32],
) -> NDArray[np.uint32]:
    """MinHash signatures uint32[texts, len(factors)] of the texts' sets of shingles, as `shingles` makes them.

    Permutation i takes the low 32 bits x of a shingle to (factors[i]·x + addends[i]) mod 2^32, factors odd; a signature
    holds each one's minimum over the text (Broder 1997). Two sets agree in a place with a chance near their Jaccard.
    factors, addends: `FEWEST` at least.
    """
    texts, size, longest = len(offsets) - 1, len(factors), _longest(offsets)
    folded, words = empty_array(2 * longest + 16, np.uint8), empty_array(longest // 2 + 1, np.uint64)
    stripe = empty_array(STRIPE, np.uint32)
    out = np.full((texts, size), np.uint32(0xFFFFFFFF))
    for k in range(texts):
        count = _shingles(data, offsets[k], offsets[k + 1], table, n, folded, words)
        for start in range(0, count, STRIPE):
            filled = min(STRIPE, count - start)
            for j in range(filled):
                stripe[j] = np.uint32(words[start + j])
            for pair in range(0, size, 2):
                i = min(pair, size - 2)
                low, factor, addend = out[k, i], factors[i], addends[i]
                low_, factor_, addend_ = out[k, i + 1], factors[i + 1], addends[i + 1]
                for j in range(filled):
                    x = stripe[j]
                    low = min(low, np.uint32(factor * x + addend))
                    low_ = min(low_, np.uint32(factor_ * x + addend_))
                out[k, i], out[k, i + 1] = low, low_
    return out


@kernel
def band_keys(signed: NDArray[np.uint32], bands: int, rows: int) -> NDArray[np.uint64]:
    """Keys uint64[texts, bands]: each mixes a band's number with its `rows` values of a signature.

    signed: uint32[texts, bands × rows] or wider.
    """
    keys: NDArray[np.uint64] = empty_array((len(signed), bands), np.uint64)
    for k in range(len(signed)):
        for band in range(bands):
            state = np.uint64(band + 1)
            for i in range(band * rows, (band + 1) * rows):
                state = (state ^ np.uint64(signed[k, i])) * MULTIPLIER
                state ^= state >> np.uint64(32)
            keys[k, band] = _mix(state)
    return keys
