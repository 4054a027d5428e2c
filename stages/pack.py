"""Documents → packed rows of exactly L tokens, shuffled; nothing lost, no document cut without need.

Reads documents and a tokenizer; writes packed rows and, under `validation/`, those of the held-out documents. Documents
go to partitions by a seeded hash of their ids, so that packing partition by partition is a global shuffle. The
trade-off: a partition (32 to 64 MB of tokens) is packed in memory and apart from others, each with a row or so that
ends in padding: 0.03 % of all tokens, at L = 2048 and 200 million of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from pipeline import seeds
from pipeline.rows import drop_rows
from pipeline.stage import Emit, Exchange, Problem, Stage, Step, Task, resolve
from stages.encoder import Encoder, digest, special_ids, vocab_size
from stages.kernels.arrow import read_only
from stages.packed_rows import INTS, METADATA, PACKED

TOKENS = pa.schema(
    [
        ("key", pa.uint64()),
        ("ref", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("lang", pa.string()),
        ("held", pa.bool_()),
        ("tokens", pa.large_list(pa.int32())),
    ]
)
"""One encoded document on its way to its partition."""
BATCH_TOKENS = 2 << 20
HELD_SEED = 0x68656C64
"""Seed of the hash that holds documents out: the same ones in every run, whatever the recipe's seed."""


class Pack(Stage):
    """Encode documents and pack them into rows of exactly `sequence_length` tokens."""

    version: ClassVar[int] = 2
    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "rows"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tokenizer: str | None = Field(None, description="A tokenizer.json or its folder; null: the recipe's own tokenizer.")
    sequence_length: int = Field(
        2048,
        ge=8,
        le=1 << 20,
        description="Tokens in a row, L. Labels are the row shifted by one, within it: no row has L + 1.",
    )
    algorithm: Literal["best_fit", "concat"] = Field(
        "best_fit",
        description="best_fit: documents over L are cut every L tokens, all pieces packed by best-fit-decreasing. "
        "concat: one stream of documents, cut every L tokens.",
    )
    bos: bool = Field(True, description="Begin each document with the beginning token (its first piece only).")
    eos: bool = Field(True, description="End each document with the end token (its last piece only).")
    validation: float = Field(
        0.005, ge=0, lt=1, description="Share of documents held out, by the hash of their id, whatever the seed."
    )

    def kernels(self) -> tuple[str, ...]:
        """Those that pack."""
        return ("stages.kernels.pack",)

    def steps(self) -> tuple[Step, ...]:
        """One exchange: encode and scatter, gather and pack."""
        aside = {"validation": PACKED}
        return (Exchange("rows", self._encode, TOKENS, "key", ("ref",), PACKED, gather=self._pack, aside=aside),)

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """A given tokenizer that cannot be read, or has no special tokens."""
        if self.tokenizer is None:
            return []
        try:
            special_ids(resolve(self.tokenizer, folders))
        except Exception as error:  # noqa: BLE001 - `tokenizers` raises bare Exception for a file it cannot read
            return [Problem(("tokenizer",), f"{self.tokenizer}: {error}")]
        return []

    def _encode(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        from stages.kernels.pack import frame

        encoder, special = Encoder(task.artifacts["tokenizer"]), special_ids(task.artifacts["tokenizer"])
        bos, eos = special["bos_id"] if self.bos else -1, special["eos_id"] if self.eos else -1
        start = task.index << 32
        for batch in batches:
            names = [i.encode() for i in batch["id"].to_pylist()]
            order = seeds.number("pack.order", task.seed)
            keys = np.array([xxhash.xxh3_64_intdigest(name, order) for name in names], np.uint64)
            draws = np.array([xxhash.xxh3_64_intdigest(name, HELD_SEED) for name in names], np.uint64)
            before = encoder.fallbacks
            ids, offsets = encoder.encode(batch["text"], keys)
            ids = frame(read_only(ids), read_only(offsets), bos, eos)
            offsets = offsets + np.arange(len(offsets)) * (self.bos + self.eos)
            held = draws < np.uint64(self.validation * 2.0**64)
            refs = np.arange(start, start + len(batch), dtype=np.uint64)
            start += len(batch)
            yield self._scattered(
                batch, (keys, refs, held), (ids, offsets), task, {"encoder_fallback": encoder.fallbacks - before}
            )

    def _scattered(
        self,
        batch: pa.RecordBatch,
        marks: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]],
        encoded: tuple[NDArray[np.int32], NDArray[np.int64]],
        task: Task,
        counters: Mapping[str, int],
    ) -> Emit:
        keys, refs, held = (pa.array(one) for one in marks)
        ids, offsets = encoded
        tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
        source = pc.replace_substring_regex(batch["source"], ":[^:]*$", "")
        rows = pa.record_batch([keys, refs, batch["id"], source, batch["lang"], held, tokens], schema=TOKENS)
        empty = np.diff(offsets) == 0
        counts = {
            **counters,
            "documents": len(batch),
            "documents_validation": int((marks[2] & ~empty).sum()),
            "text_bytes": pc.sum(pc.binary_length(batch["text"])).as_py() or 0,
            "tokens": len(ids),
        }
        if not empty.any():
            return Emit(rows, counters=counts)
        drops = drop_rows(batch.filter(pa.array(empty)), task, ["empty"] * int(empty.sum()))
        return Emit(rows.filter(pa.array(~empty)), drops=drops, counters=counts)

    def _pack(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        special = special_ids(task.artifacts["tokenizer"])
        about = {
            "format": 1,
            "tokenizer_sha256": digest(task.artifacts["tokenizer"]),
            "seed": task.seed,
            **self.model_dump(include={"sequence_length", "algorithm", "bos", "eos"}),
            **special,
            "vocab_size": vocab_size(task.artifacts["tokenizer"]),
        }
        schema = PACKED.with_metadata({METADATA: json.dumps(about, sort_keys=True)})
        yield Emit(pa.RecordBatch.from_pylist([], schema=schema))
        for held, part in _splits(batches):
            for batch, counters in self._rows(part, schema, special["pad_id"], task):
                if held:
                    own = {f"{name}_validation": n for name, n in counters.items()}
                    yield Emit(aside={"validation": batch}, counters=own)
                else:
                    yield Emit(batch, counters=counters)

    def _rows(
        self, part: pa.RecordBatch, schema: pa.Schema, pad: int, task: Task
    ) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
        """Packed rows of one split in batches, each with its counters. Raises ValueError where a token is lost."""
        lists, length = part["tokens"], self.sequence_length
        documents = _Documents(part, lists.flatten().to_numpy(), lists.offsets.to_numpy() - lists.offsets[0].as_py())
        if self.algorithm == "best_fit":
            segments = _best_fit(documents.offsets, length)
        else:
            segments = _stream(documents.offsets, length)
        segments = _shuffled(segments, seeds.generator("pack.rows", task.seed, task.index), self.algorithm)
        step, packed = max(1, BATCH_TOKENS // length), 0
        count = int(segments.row[-1]) + 1
        for low in range(0, count, step):
            high = min(low + step, count)
            one = segments.take(slice(*np.searchsorted(segments.row, [low, high])))
            batch, counters = _batch(documents, one, np.full((high - low, length), pad, np.int32), low, schema)
            packed += counters["tokens_packed"]
            yield batch, counters
        if packed != len(documents.tokens):
            raise ValueError(f"{len(documents.tokens)} tokens came in, {packed} were packed")


def _splits(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[bool, pa.RecordBatch]]:
    """The documents to train on and those held out, each in one piece if there are any, and whether they are held out.

    Copied as they come, so that a partition never is in memory thrice.
    """
    parts: dict[bool, list[pa.RecordBatch]] = {False: [], True: []}
    for batch in batches:
        for held, found in parts.items():
            found.append(batch.filter(pc.equal(batch["held"], held)))
    for held, found in parts.items():
        if sum(map(len, found)):
            whole = pa.concat_batches(found)
            found.clear()
            yield held, whole


@dataclass(frozen=True, slots=True)
class _Documents:
    """The documents of one split of a partition: document k's tokens are `tokens[offsets[k]:offsets[k + 1]]`."""

    rows: pa.RecordBatch
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Segments:
    """Pieces of documents: which document, the first token in it, how many, and the row each goes to; int64[n] each."""

    doc: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    row: NDArray[np.int64]

    def take(self, chosen: NDArray[np.int64] | slice) -> _Segments:
        """Some of the segments, or all in another order."""
        return _Segments(self.doc[chosen], self.start[chosen], self.length[chosen], self.row[chosen])


def _best_fit(offsets: NDArray[np.int64], length: int) -> _Segments:
    """Documents cut every `length` tokens of their own, their pieces packed."""
    from stages.kernels.pack import best_fit

    sizes = np.diff(offsets)
    pieces = -(-sizes // length)
    doc = np.repeat(np.arange(len(sizes)), pieces)
    start = (np.arange(len(doc)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    sizes = np.minimum(sizes[doc] - start, length)
    narrow = np.uint16 if length < 1 << 16 else np.uint32
    order = np.argsort((length - sizes).astype(narrow), kind="stable")
    row = best_fit(read_only(sizes[order]), length)
    return _Segments(doc[order], start[order], sizes[order], row)


def _stream(offsets: NDArray[np.int64], length: int) -> _Segments:
    """All documents as one stream, cut every `length` tokens."""
    edges = np.union1d(offsets, np.arange(0, offsets[-1], length))
    begin = edges[:-1]
    doc = np.searchsorted(offsets, begin, side="right") - 1
    return _Segments(doc, begin - offsets[doc], np.diff(edges), begin // length)


def _shuffled(segments: _Segments, chance: np.random.Generator, algorithm: str) -> _Segments:
    """Rows in random order; of best_fit also the segments of each, which come with the longest first. Sorted by row."""
    places = chance.permutation(int(segments.row.max()) + 1)
    if algorithm == "best_fit":
        segments = segments.take(chance.permutation(len(segments.row)))
    segments = _Segments(segments.doc, segments.start, segments.length, places[segments.row])
    return segments.take(np.argsort(segments.row, kind="stable"))


def _batch(
    documents: _Documents, one: _Segments, rows: NDArray[np.int32], low: int, schema: pa.Schema
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Fills `rows` (int32[rows, L], all padding) with the segments of rows low, low + 1, …; the batch and counters."""
    from stages.kernels.pack import fill

    count, length = rows.shape
    begins = read_only(documents.offsets[one.doc] + one.start)
    copied = fill(read_only(documents.tokens), begins, read_only(one.length), read_only(one.row - low), rows)
    edges = pa.array(np.searchsorted(one.row, np.arange(low, low + count + 1)).astype(np.int32))
    doc = pa.array(one.doc)
    ends = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    columns = [
        pa.ListArray.from_arrays(ends, pa.array(rows.reshape(-1)), type=INTS),
        pa.ListArray.from_arrays(edges, pa.array(one.length.astype(np.int32)), type=INTS),
        pa.ListArray.from_arrays(edges, documents.rows["id"].take(doc)),
        pa.ListArray.from_arrays(edges, pa.array(one.start)),
        pa.ListArray.from_arrays(edges, documents.rows["source"].take(doc)),
        pa.ListArray.from_arrays(edges, documents.rows["lang"].take(doc)),
    ]
    sizes = np.diff(documents.offsets)[one.doc]
    cut = (one.start == 0) & (one.length < sizes)
    counters = {
        "rows": count,
        "tokens_packed": copied,
        "padding": count * length - copied,
        "cuts": int(cut.sum()),
        "needless_cuts": int((cut & (sizes <= length)).sum()),
    }
    return pa.RecordBatch.from_arrays(columns, schema=schema), counters
