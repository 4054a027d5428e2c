"""Exact duplicates by a 128-bit hash of the content (XXH3, by the xxhash library): the first in input order stays.

Reads documents; writes those that stay and drops that name the survivor. Only hashes, references and ids are
regrouped, some 60 bytes per document on disk; memory does not grow with the corpus. Equal hashes are taken for equal
content: among 2^48 different documents any two share one with a chance of 2^-33. 93 MB/s a core, shards read and
written, where only to read and write them makes 136 (benchmarks/exact_dedup.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from pipeline.rows import drop_rows
from pipeline.stage import UNICODE, Each, Emit, Exchange, Stage, Step, Task
from stages.kernels.arrow import text_buffers
from stages.normalisation import composed

HASH = pa.schema([("key", pa.uint64()), ("low", pa.uint64()), ("ref", pa.uint64()), ("id", pa.string())])
"""A document: both halves of its hash, its reference (shard << 32 | row) and its id."""
REMOVAL = pa.schema([("shard", pa.uint64()), ("row", pa.uint64()), ("survivor", pa.string())])
"""A document that goes, by its place, and the id of the one that stays."""


class ExactDedup(Stage):
    """Drop documents whose normalised content an earlier document has, by input order.

    Empty texts are equal to each other: one stays.
    """

    version: ClassVar[int] = 3
    normalise: Literal["none", "whitespace", "text"] = Field(
        "whitespace",
        description="What does not count: nothing; how much blank is where; or all but letters, marks and digits, and "
        "their case and compatible forms (NFKD), composed or not. A text with none of these is then compared as it is, "
        "composed (NFC).",
    )

    def libraries(self) -> tuple[str, ...]:
        """What Python knows of characters, if texts are normalised."""
        return () if self.normalise == "none" else (UNICODE,)

    def kernels(self) -> tuple[str, ...]:
        """Those that normalise, if it does."""
        names = {"none": (), "whitespace": ("normalise",), "text": ("canonical", "normalise")}[self.normalise]
        return tuple(f"stages.kernels.{name}" for name in names)

    def steps(self) -> tuple[Step, ...]:
        """Hashes regrouped → removals by shard → one pass that drops."""
        return (
            Exchange("hashes", self._hash, HASH, "key", ("low", "ref"), REMOVAL, _removals, columns=("id", "text")),
            Exchange("removals", _as_they_are, REMOVAL, "shard", ("row",), REMOVAL, reads="hashes", by="shard"),
            Each("drop", _drop, lambda schema: schema, beside="removals"),
        )

    def _hash(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        start, scratch = 0, np.empty(0, np.uint8)
        for batch in batches:
            halves, scratch = self._digests(batch, scratch)
            refs = np.arange(start, start + len(batch), dtype=np.uint64) | np.uint64(task.index << 32)
            start += len(batch)
            columns = [pa.array(halves[:, 0]), pa.array(halves[:, 1]), pa.array(refs), batch["id"]]
            yield Emit(rows=pa.record_batch(columns, schema=HASH))

    def _digests(
        self, batch: pa.RecordBatch, scratch: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """XXH3's 128 bits of each document's content: (uint64[n, 2], memory to hand back with the next batch)."""
        data, offsets = text_buffers(batch["text"])
        if self.normalise == "text":
            data, offsets = composed(data, offsets)
        spans = _spans(data, offsets)
        if self.normalise == "whitespace":
            from stages.kernels.normalise import byte_kinds, squeezed

            scratch, ends = squeezed(data, offsets, byte_kinds(), scratch)
            spans = _spans(scratch, ends)
        elif self.normalise == "text":
            from stages.kernels.normalise import bare, letters

            scratch, ends = bare(data, offsets, *letters(), scratch)
            spans = (new or old for new, old in zip(_spans(scratch, ends), spans, strict=True))
        digests = b"".join(map(xxhash.xxh3_128_digest, spans))
        return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64), scratch


def _spans(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Iterator[memoryview]:
    """Each text's bytes, uncopied."""
    view, places = memoryview(data.data), offsets.tolist()
    return (view[start:end] for start, end in pairwise(places))


def _removals(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    """All but the first document of each hash, with that first one's id; a group may span batches."""
    last: list[pa.RecordBatch] = []
    for batch in batches:
        rows = pa.Table.from_batches([*last, batch]).combine_chunks().to_batches()[0]
        high, low, refs = (rows[name].to_numpy() for name in ("key", "low", "ref"))
        begins = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
        first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
        gone = np.flatnonzero(~begins)
        columns = [pa.array(refs[gone] >> np.uint64(32)), pa.array(refs[gone] & np.uint64(0xFFFFFFFF))]
        yield Emit(rows=pa.record_batch([*columns, rows["id"].take(pa.array(first[gone]))], schema=REMOVAL))
        last = [rows.slice(first[-1], 1)]


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)


def _drop(batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
    removals = task.beside if task.beside is not None else REMOVAL.empty_table()
    rows = removals["row"].to_numpy()
    start = 0
    for batch in batches:
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        mask = np.ones(len(batch), np.bool_)
        mask[rows[low:high].astype(np.int64) - start] = False
        start += len(batch)
        survivors = removals["survivor"].slice(low, high - low).to_pylist()
        yield Emit(rows=batch) if mask.all() else _split(batch, mask, survivors, task)


def _split(batch: pa.RecordBatch, mask: NDArray[np.bool_], survivors: list[str], task: Task) -> Emit:
    """What stays of a batch (`mask`), and drops that name the survivors of the rest, in order."""
    n = len(survivors)
    broken = [[{"rule": "exact_duplicate", "score": 1.0, "limit": 1.0}]] * n
    lost = batch.filter(pa.array(~mask))
    drops = drop_rows(lost, task, ["exact_duplicate"] * n, broken, survivors, [1.0] * n)
    return Emit(rows=batch.filter(pa.array(mask)), drops=drops)
