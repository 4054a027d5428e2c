"""Exact duplicates by a 128-bit hash of the content: the first in input order stays.

Reads documents; writes those that stay and drops that name the survivor. Only hashes, references and ids are
regrouped, some 60
bytes per document on disk; memory does not grow with the corpus.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipeline.stage import Each, Emit, Exchange, Stage, Step, Task, drop_rows

HASH = pa.schema([("key", pa.uint64()), ("low", pa.uint64()), ("ref", pa.uint64()), ("id", pa.string())])
REMOVAL = pa.schema([("shard", pa.uint64()), ("row", pa.uint64()), ("survivor", pa.string())])


class ExactDedup(Stage):
    """Drop documents whose normalised content an earlier document has, by input order."""

    normalise: Literal["none", "whitespace", "text"] = Field(
        "whitespace",
        description="What is not compared: nothing; runs of blanks; or all but letters and digits, and case (NFKC).",
    )

    def steps(self) -> tuple[Step, ...]:
        """Hashes regrouped → removals by shard → one pass that drops."""
        return (
            Exchange("hashes", self._hash, HASH, "key", ("low", "ref"), REMOVAL, gather=_removals),
            Exchange("removals", _as_they_are, REMOVAL, "shard", ("row",), REMOVAL, reads="hashes", by="shard"),
            Each("drop", _drop, lambda schema: schema, beside="removals"),
        )

    def _normal(self, text: str) -> str:
        if self.normalise == "whitespace":
            return " ".join(text.split())
        if self.normalise == "text":
            return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
        return text

    def _hash(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        start = 0
        for batch in batches:
            digests = b"".join(xxhash.xxh3_128_digest(self._normal(t).encode()) for t in batch["text"].to_pylist())
            halves = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
            refs = np.arange(start, start + len(batch), dtype=np.uint64) | np.uint64(task.index << 32)
            start += len(batch)
            columns = [pa.array(halves[:, 0]), pa.array(halves[:, 1]), pa.array(refs), batch["id"]]
            yield Emit(rows=pa.record_batch(columns, schema=HASH))


def _removals(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    """All but the first document of each hash, with that first one's id; a group may span batches."""
    last: tuple[int, int, str] | None = None
    for batch in batches:
        high, low, refs = (batch[name].to_numpy() for name in ("key", "low", "ref"))
        begins = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
        carried = last is not None and (high[0], low[0]) == last[:2]
        first = np.maximum.accumulate(np.where(begins, np.arange(len(batch)), 0))
        survivors = batch["id"].take(pa.array(first)).to_pylist()
        if carried and last is not None:
            until = int(np.argmax(begins[1:])) + 1 if begins[1:].any() else len(batch)
            survivors[:until] = [last[2]] * until
            begins[0] = False
        last = (high[-1], low[-1], survivors[-1])
        gone = np.flatnonzero(~begins)
        columns = [refs[gone] >> np.uint64(32), refs[gone] & np.uint64(0xFFFFFFFF)]
        names = pa.array([survivors[k] for k in gone], pa.string())
        yield Emit(rows=pa.record_batch([*map(pa.array, columns), names], schema=REMOVAL))


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)


def _drop(batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
    removals = task.beside if task.beside is not None else REMOVAL.empty_table()
    rows = removals["row"].to_numpy()
    start = 0
    for batch in batches:
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        gone = rows[low:high].astype(np.int64) - start
        start += len(batch)
        if not len(gone):
            yield Emit(rows=batch)
            continue
        mask = np.ones(len(batch), np.bool_)
        mask[gone] = False
        survivors = removals["survivor"].slice(low, high - low).to_pylist()
        n = len(gone)
        broken = [[{"rule": "exact_duplicate", "score": 1.0, "limit": 1.0}]] * n
        drops = drop_rows(batch.take(pa.array(gone)), task, ["exact_duplicate"] * n, broken, survivors, [1.0] * n)
        yield Emit(rows=batch.filter(pa.array(mask)), drops=drops)
