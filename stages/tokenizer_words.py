"""Distinct pre-tokens and how often each was met: all that a tokenizer learns from.

Reads texts, or such counts of other shards; keeps a table in memory; `tokenizer` calls it. The stock patterns run as
kernels, 105–130 MB/s on one core; a pattern of the user's own goes through `tokenizers`, at 3–5. The trade-off:
counts are exact and so is the bound, at the price of a spill to disk where there are more words than it allows.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.kernels.arrow import read_only, text_buffers

WORDS = pa.schema([("word", pa.large_binary()), ("count", pa.int64())])
"""Words, as bytes, and how often each was met; one word may come in several rows. A row without a word counts words
that were too long and were counted in pieces."""
WHOLE = 1 << 62
"""A length that no pre-token has: none is cut into pieces."""
STOCK = ("gpt2", "cl100k", "o200k", "qwen2")
"""Patterns that have a kernel, in the kernel's order."""
PIECE_BYTES = 1 << 22
"""Bytes of text whose words are looked for at once, so that what is found stays in the cache."""
PARTS = 64
"""Files over which words are spread that do not fit in memory."""
ROOM = 1 << 12
"""Words that a new table has room for."""


class WordTable:
    """Words and their counts, growing as needed: about 45 bytes for a word and twice its own.

    cut: how often a word was met that was too long and was counted in pieces.
    """

    def __init__(self) -> None:
        self.cut = 0
        self._slots = np.zeros(4 * ROOM, np.uint64)
        self._ends, self._counts = np.zeros(ROOM + 2, np.int64), np.zeros(ROOM + 1, np.int64)
        self._arena = np.empty(8 * ROOM, np.uint8)

    def __len__(self) -> int:
        return int(self._ends[0])

    def count(self, texts: Any, pattern: str, longest: int = WHOLE) -> None:
        """Counts the words of an array of texts. pattern: a stock pattern's name, or a regular expression.

        longest: words of more characters are counted in pieces of so many.
        """
        if pattern in STOCK:
            self._count_stock(texts, STOCK.index(pattern), longest)
        else:
            self._count_own(texts.to_pylist(), pattern, longest)

    def _count_stock(self, texts: Any, pattern: int, longest: int) -> None:
        from stages.kernels.pretokens import split_words

        data, offsets = text_buffers(texts)
        edges = np.flatnonzero(np.diff((offsets - offsets[0]) // PIECE_BYTES))
        once, classes = read_only(np.ones(1, np.int64)), character_classes()
        for low, high in pairwise([0, *(edges[edges > 0]).tolist(), len(texts)]):
            found, cut = split_words(data, read_only(offsets[low : high + 1]), classes, pattern, longest)
            self.cut += cut
            self._add(data, read_only(found), once)

    def _count_own(self, texts: list[str], pattern: str, longest: int) -> None:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        split = Split(Regex(pattern), "isolated")
        for text in texts:
            words: Counter[str] = Counter()
            for word, _ in split.pre_tokenize_str(text):
                self.cut += len(word) > longest
                words.update(word[k : k + longest] for k in range(0, len(word), longest))
            self.add(
                pa.array([word.encode() for word in words], pa.large_binary()), np.array([*words.values()], np.int64)
            )

    def add(self, words: Any, counts: NDArray[np.int64]) -> None:
        """Adds an array of n words (binary) met `counts` times (int64[n])."""
        if len(words):
            data, offsets = text_buffers(words)
            self._add(data, offsets, read_only(counts))

    def _add(self, data: NDArray[np.uint8], offsets: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        from stages.kernels.word_counts import add_words

        while len(offsets) > 1:
            taken = add_words(data, offsets, times, self._slots, self._ends, self._counts, self._arena)
            offsets, times = offsets[taken:], times[taken:] if len(times) > 1 else times
            if len(offsets) > 1:
                self._grow(int(offsets[1] - offsets[0]))

    def _grow(self, size: int) -> None:
        from stages.kernels.word_counts import index_words

        words = len(self)
        if self._ends[words + 1] + size > len(self._arena):
            self._arena = np.concatenate([self._arena, np.empty(len(self._arena) + 2 * size, np.uint8)])
        if words + 1 == len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(words, np.int64)])
            self._ends = np.concatenate([self._ends, np.zeros(words, np.int64)])
        if 2 * words >= len(self._slots):
            self._slots = index_words(self._arena, self._ends, 4 * len(self._slots))

    def rows(self) -> pa.RecordBatch:
        """The words and their counts, in the order in which they came: a batch of `WORDS`."""
        words = len(self)
        ends = np.ascontiguousarray(self._ends[1 : words + 2])
        column = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), words, [None, pa.py_buffer(ends), pa.py_buffer(self._arena[: ends[-1]])]
        )
        return pa.RecordBatch.from_arrays([column, pa.array(self._counts[1 : words + 1].copy())], schema=WORDS)

    def cuts(self) -> pa.RecordBatch:
        """How many words were cut into pieces: a batch of `WORDS`, empty where none was."""
        return pa.RecordBatch.from_pylist([{"word": None, "count": self.cut}] * bool(self.cut), schema=WORDS)


@dataclass(frozen=True)
class Bounded:
    """The words that stay under a bound. least: rarer ones were pruned (1: none); words, met: how many words that was,
    and how often they were met together. cut: how often a word was met that was counted in pieces."""

    rows: pa.Table
    least: int
    words: int
    met: int
    cut: int = 0


def most_frequent(partials: Iterator[pa.RecordBatch], bound: int, scratch: Path) -> Bounded:
    """Sums the counts of all batches of `WORDS`; of more than `bound` words the rarest go.

    All words met fewer than `least` times are pruned, `least` being the smallest number that leaves at most `bound`:
    the order of the batches changes nothing. Holds about 2 × `bound` words; more are summed in parts, through files in
    `scratch`.
    """
    table, spilled, cut = WordTable(), False, 0
    for partial in partials:
        known = partial["word"].is_valid()
        cut += pc.sum(partial["count"].filter(pc.invert(known))).as_py() or 0
        batch = partial.filter(known)
        table.add(batch["word"], batch["count"].to_numpy())
        if len(table) > bound:
            _spill(table.rows(), scratch, first=not spilled)
            table, spilled = WordTable(), True
    if not spilled:
        return Bounded(pa.Table.from_batches([table.rows()]), 1, 0, 0, cut)
    _spill(table.rows(), scratch, first=False)
    kept = Bounded(pa.Table.from_batches([], WORDS), 1, 0, 0)
    for part in range(PARTS):
        table = WordTable()
        for batch in _spilt(scratch, part):
            table.add(batch["word"], batch["count"].to_numpy())
        kept = _prune(kept, table.rows(), bound)
    return replace(kept, cut=cut)


def _prune(kept: Bounded, rows: pa.RecordBatch, bound: int) -> Bounded:
    """The bound held over what was kept and more rows, whose words are others."""
    table = pa.concat_tables([kept.rows, pa.Table.from_batches([rows])])
    counts = np.concatenate([column.to_numpy() for column in table["count"].chunks])
    least = kept.least
    if (counts >= least).sum() > bound:
        least = int(np.partition(counts, len(counts) - bound - 1)[len(counts) - bound - 1]) + 1
    mask = counts >= least
    lost = counts[~mask]
    return Bounded(table.filter(pa.array(mask)), least, kept.words + len(lost), kept.met + int(lost.sum()))


def _spill(rows: pa.RecordBatch, scratch: Path, *, first: bool) -> None:
    """Appends rows to the files of their parts; a word's length and its first, middle and last byte choose."""
    data, offsets = text_buffers(rows["word"])
    starts, ends = offsets[:-1], offsets[1:]
    mixed = (ends - starts) + 7 * data[starts].astype(np.int64) + 31 * data[ends - 1].astype(np.int64)
    parts = (mixed + 11 * data[(starts + ends) // 2].astype(np.int64)) % PARTS
    for part in range(PARTS):
        path = scratch / f"words-{part:02}.arrow"
        with path.open("wb" if first else "ab") as sink, pa.ipc.new_stream(sink, WORDS) as writer:
            writer.write_batch(rows.take(pa.array(np.flatnonzero(parts == part))))


def _spilt(scratch: Path, part: int) -> Iterator[pa.RecordBatch]:
    """The batches of one part: a file of Arrow streams, one after the other."""
    with pa.OSFile(str(scratch / f"words-{part:02}.arrow")) as source:
        while source.tell() < source.size():
            with pa.ipc.open_stream(source) as stream:
                yield from stream


@functools.cache
def character_classes() -> NDArray[np.uint8]:
    """The class of each code point for the kernel's scanners: uint8[0x110000].

    Asked of the regular expressions of `tokenizers` itself, so that what is learnt is what will be encoded whatever
    Unicode version they know (another than the `regex` module's, as a rule). A seventh of a second, once a process.
    """
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    from stages.kernels.pretokens import LETTER, LOWER, NEWLINE, NUMBER, OTHER, SPACE, UPPER

    upper, lower = LETTER | UPPER, LETTER | LOWER
    kinds = {"Lu": upper, "Lt": upper, "Ll": lower, "Lm": upper | lower, "Lo": upper | lower}
    bits = {rf"\p{{{name}}}": kind for name, kind in kinds.items()}
    bits |= {r"\p{M}": UPPER | LOWER, r"\p{N}": NUMBER, r"\s": SPACE}
    codes = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x40000), np.arange(0xE0000, 0xE1000)])
    runs = Split(Regex("|".join(f"{name}+" for name in bits)), "isolated").pre_tokenize_str("".join(map(chr, codes)))
    firsts = "".join(run[0] for run, _ in runs)
    found = np.zeros(len(firsts), np.uint8)
    for name, kind in bits.items():
        for _, (low, high) in Split(Regex(f"[^{name}]+"), "removed").pre_tokenize_str(firsts):
            found[low:high] |= kind
    found[found & (LETTER | NUMBER | SPACE) == 0] |= OTHER
    table = np.full(0x110000, OTHER, np.uint8)
    table[codes] = np.repeat(found, [high - low for _, (low, high) in runs])
    table[[10, 13]] |= NEWLINE
    return read_only(table)
