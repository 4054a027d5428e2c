"""Words of a batch, for rules that count them: spaCy's blank English tokenizer, or jieba's for Chinese, run by kernels.

Reads a batch's texts; writes a hash, lengths and flags for each word, and each text's sentences. The rules are spaCy's
tables as data (`data/english.json`), and those of `stages.jieba`. One difference is known: spaCy joins `: )` (with a
blank inside) to hold off an emoticon right after it, which a kernel that works chunk by chunk does not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from stages.kernels.arrow import read_only

Cut = Literal["english", "characters", "jieba"]
"""How words are cut: as English, as English with each character of a script without spaces a word, as Chinese."""
MULTIPLIER, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Texts:
    """n texts in one buffer: text k is `data[starts[k]:ends[k]]` (uint8[:], int64[n], int64[n])."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """Some of them."""
        return Texts(self.data, read_only(self.starts[rows]), read_only(self.ends[rows]))


@dataclass(frozen=True, slots=True)
class Words:
    """The words of n texts, those of text k from firsts[k] to lasts[k].

    hashes uint64[w]; marks uint32[w], a word's characters shifted and its flags (bits of `kernels.words`); firsts,
    lasts int64[n].
    """

    hashes: NDArray[np.uint64]
    marks: NDArray[np.uint32]
    firsts: NDArray[np.int64]
    lasts: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Words:
        """The words of some of the texts."""
        places = (read_only(part[rows]) for part in (self.firsts, self.lasts))
        return Words(self.hashes, self.marks, *places)

    def group(self, ends: NDArray[np.int64]) -> Words:
        """The words of texts made of these in a row: text k of texts ends[k] to ends[k + 1]."""
        places = np.append(self.firsts, len(self.hashes))[ends]
        return Words(self.hashes, self.marks, read_only(places[:-1]), read_only(places[1:]))


def words(texts: Texts, cut: Cut = "english") -> Words:
    """The words of texts, cut in one of three ways."""
    from stages.kernels.words import FEW, find_words

    if cut == "jieba":
        return _chinese(texts)
    singles = cut == "characters"
    hashes, marks = room_for(int((texts.ends - texts.starts).sum()) + FEW)
    firsts = read_only(find_words(texts.data, texts.starts, texts.ends, *tables(), singles, hashes, marks))
    total = int(firsts[-1])
    return Words(read_only(hashes[:total]), read_only(marks[:total]), firsts[:-1], firsts[1:])


def to_array(texts: Texts) -> pa.Array:
    """Texts in ascending order of place as a large_string array."""
    both = np.column_stack([texts.starts, texts.ends]).ravel()
    pieces = pa.LargeStringArray.from_buffers(max(len(both) - 1, 0), pa.py_buffer(both), pa.py_buffer(texts.data))
    return pieces.take(pa.array(np.arange(0, len(both), 2)))


def room_for(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Hashes and marks to be written: numpy asks for large pages, as numba does not, and only pages used are paid."""
    return np.empty(size, np.uint64), np.empty(size, np.uint32)


def _chinese(texts: Texts) -> Words:
    from stages.jieba import cut_texts
    from stages.kernels.words import AFTER_BLANK, read_words

    starts, ends, apart, firsts = cut_texts(texts.data, texts.starts, texts.ends, classes())
    hashes, marks = room_for(len(starts))
    read_words(texts.data, starts, ends, classes(), hashes, marks)
    marks[apart] |= np.uint32(AFTER_BLANK)
    return Words(read_only(hashes), read_only(marks), *(read_only(part) for part in (firsts[:-1], firsts[1:])))


@cache
def rules() -> dict[str, Any]:
    """The rules as data: classes of characters as ranges, exceptions with their splits."""
    found: dict[str, Any] = orjson.loads((Path(__file__).parent / "data/english.json").read_bytes())
    return found


@cache
def tables() -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8]]:
    """What the kernel reads: class bits uint32[0x110000], exceptions uint64[slots, 4], their signs uint8[8192]."""
    known, signs = _exceptions()
    return classes(), read_only(known), read_only(signs)


@cache
def classes() -> NDArray[np.uint32]:
    """Bits of a character's class, by code point, in the order of `kernels.chunks`.

    Beside the classes of the data: EDGE (may be stripped at a chunk's end), INNER (may be cut inside one), DIGIT (0 to
    9).
    """
    from stages.kernels import chunks as kernel

    table = np.zeros(0x110000, np.uint32)
    names = "space line prefix suffix lower upper alpha quote infix stopped word host letter symbol terminal sentence"
    bits = {name: np.uint32(1 << bit) for bit, name in enumerate([*names.split(), "punctuation", "single"])}
    edge, inner = np.uint32(kernel.EDGE), np.uint32(kernel.INNER)
    for name, own in bits.items():
        bit = own | {"prefix": edge, "suffix": edge, "infix": inner}.get(name, np.uint32(0))
        for first, last in rules()["classes"][name]:
            table[first : last + 1] |= bit
    table[[ord(c) for c in ".+—–"]] |= edge
    table[[ord(c) for c in ".,:<>=/-–—~+*^$'’"]] |= inner
    table[ord("0") : ord("9") + 1] |= np.uint32(kernel.DIGIT)
    return read_only(table)


def _exceptions() -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """An open-addressing table of (hash, splits, pattern, tail), and what a text may be by first byte, last and size.

    splits, pattern: bit k is set where a word begins at character k; 0 for none.
    """
    from stages.kernels.exceptions import EXCEPTION, HEAD, PATTERN, TAIL

    rows: dict[str, list[int]] = {}
    for text, splits, pattern in rules()["exceptions"]:
        rows[text] = [_bits(splits), 0 if pattern is None else _bits(pattern), 0]
    for text in rules()["after_digits"]:
        rows.setdefault(text, [0, 0, 0])[2] = 1
    known, signs = np.zeros((4096, 4), np.uint64), np.zeros(8192, np.uint8)
    for text, row in rows.items():
        data = text.encode()
        slot = word_hash(text) >> 40 & 4095
        while known[slot, 0]:
            slot = slot + 1 & 4095
        known[slot] = [word_hash(text), *row]
        for value, kind in zip(row, (EXCEPTION, PATTERN, TAIL), strict=True):
            signs[_sign(data)] |= np.uint8(kind if value else 0)
        signs[_sign(data[:2])] |= np.uint8(HEAD if row[1] else 0)
    return known, signs


def _sign(data: bytes) -> int:
    return data[0] * 67 + data[-1] * 5 + len(data) * 1201 & 8191


def _bits(cuts: list[int]) -> int:
    return 1 | sum(1 << cut for cut in cuts)


def word_hash(word: str) -> int:
    """The hash of one word, that of `kernels.exceptions`."""
    data, state = word.encode(), len(word.encode()) * MULTIPLIER & MASK
    for place in range(0, len(data), 8):
        state = (state ^ int.from_bytes(data[place : place + 8], "little")) * MULTIPLIER & MASK
        state ^= state >> 32
    return state
