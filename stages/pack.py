"""Documents → packed rows of exactly L tokens, shuffled; nothing lost, no document cut without need.

Reads documents and a tokenizer; writes packed rows and, under `validation/`, those of the held-out documents.
Documents go to partitions by
a seeded hash of their ids, so packing partition by partition is a global shuffle; memory is one partition, about 64
MB of tokens. Its one
cost is padding: at most one bin's worth a partition over what best-fit leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from pipeline.stage import Emit, Exchange, Stage, Step, Task, drop_rows
from stages.kernels.arrow import read_only

TOKENS = pa.schema(
    [
        ("key", pa.uint64()),
        ("ref", pa.uint64()),
        ("id", pa.string()),
        ("held", pa.bool_()),
        ("tokens", pa.large_list(pa.int32())),
    ]
)
INTS = pa.list_(pa.field("element", pa.int32(), nullable=False))
PACKED = pa.schema(
    [
        pa.field("input_ids", INTS, nullable=False),
        pa.field("seq_lengths", INTS, nullable=False),
        pa.field("doc_ids", pa.list_(pa.string()), nullable=False),
        pa.field("doc_offsets", pa.list_(pa.int64()), nullable=False),
    ]
)
ROWS = 1024


class Pack(Stage):
    """Encode documents and pack them into rows of exactly `sequence_length` tokens."""

    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "rows"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tokenizer: str | None = Field(None, description="A tokenizer.json or its folder; null: the recipe's own tokenizer.")
    sequence_length: int = Field(2048, ge=8, description="Tokens of a row, L; labels are the row shifted by one.")
    algorithm: Literal["best_fit", "concat"] = Field(
        "best_fit", description="best_fit, or one stream cut every L tokens."
    )
    bos: bool = Field(True, description="Begin each document with the beginning token.")
    eos: bool = Field(True, description="End each document with the end token.")
    validation: float = Field(0.005, ge=0, lt=1, description="Share of documents held out, by hash of their id.")

    def steps(self) -> tuple[Step, ...]:
        """One exchange: encode and scatter, gather and pack."""
        return (
            Exchange(
                "rows", self._encode, TOKENS, "key", ("ref",), PACKED, gather=self._pack, aside={"validation": PACKED}
            ),
        )

    def _encode(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        from stages.encoder import Encoder

        encoder = Encoder(task.artifacts["tokenizer"])
        special = special_ids(task.artifacts["tokenizer"])
        start = 0
        for batch in batches:
            ids, offsets = encoder.encode(batch["text"].to_pylist())
            ids, offsets = _framed(
                ids, offsets, special["bos_id"] if self.bos else None, special["eos_id"] if self.eos else None
            )
            yield self._emit(batch, ids, offsets, start, task)
            start += len(batch)

    def _emit(
        self, batch: pa.RecordBatch, ids: NDArray[np.int32], offsets: NDArray[np.int64], start: int, task: Task
    ) -> Emit:
        names = batch["id"].to_pylist()
        keys = np.array([xxhash.xxh3_64_intdigest(i.encode(), seed=task.seed + 1) for i in names], np.uint64)
        share = np.array([xxhash.xxh3_64_intdigest(i.encode(), seed=task.seed + 2) for i in names], np.float64) / 2**64
        refs = np.arange(start, start + len(batch), dtype=np.uint64) | np.uint64(task.index << 32)
        tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
        held = share < self.validation
        rows = pa.record_batch([pa.array(keys), pa.array(refs), batch["id"], pa.array(held), tokens], schema=TOKENS)
        empty = np.diff(offsets) == 0
        counters = {"documents": len(batch), "documents_validation": int(held.sum()), "tokens": int(offsets[-1])}
        if not empty.any():
            return Emit(rows, counters=counters)
        drops = drop_rows(batch.filter(pa.array(empty)), task, ["empty"] * int(empty.sum()))
        return Emit(rows.filter(pa.array(~empty)), drops=drops, counters=counters)

    def _pack(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        table = pa.Table.from_batches(list(batches), TOKENS).combine_chunks()
        schema = PACKED.with_metadata({"gristmill.pack": json.dumps(self._metadata(task), sort_keys=True)})
        for held in (False, True):
            part = table.filter(pa.array(np.equal(table["held"].to_numpy(), held), pa.bool_())).combine_chunks()
            for batch, counters in self._rows(part, schema, task):
                own = {f"{name}_validation" if held else name: n for name, n in counters.items()}
                yield Emit(None, aside={"validation": batch}, counters=own) if held else Emit(batch, counters=own)

    def _metadata(self, task: Task) -> dict[str, object]:
        from stages.tokenizer import digest

        path = task.artifacts["tokenizer"]
        return {
            "tokenizer_sha256": digest(path),
            "sequence_length": self.sequence_length,
            "algorithm": self.algorithm,
            "seed": task.seed,
            **special_ids(path),
        }

    def _rows(self, part: pa.Table, schema: pa.Schema, task: Task) -> Iterator[tuple[pa.RecordBatch, dict[str, int]]]:
        """Packed rows of one split, shuffled, in batches, each with its counters."""
        if not len(part):
            return
        lists = part["tokens"].chunk(0)
        tokens, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
        tokens, offsets = tokens[offsets[0] : offsets[-1]], offsets - offsets[0]
        segments = (
            _chunks(offsets, self.sequence_length)
            if self.algorithm == "best_fit"
            else _stream(offsets, self.sequence_length)
        )
        if self.algorithm == "best_fit":
            order = np.argsort(-segments.length, kind="stable")
            segments = segments.take(order)
            from stages.kernels.pack import best_fit

            segments.bin = best_fit(read_only(segments.length), self.sequence_length)
        count = int(segments.bin.max()) + 1
        random = np.random.Generator(np.random.PCG64([task.seed, task.index]))
        place = np.empty(count, np.int64)
        place[random.permutation(count)] = np.arange(count)
        segments.bin = place[segments.bin]
        segments = segments.take(np.argsort(segments.bin, kind="stable"))
        if int(segments.length.sum()) != int(offsets[-1]):
            raise ValueError(f"{offsets[-1]} tokens came in, {segments.length.sum()} were packed")
        pad = special_ids(task.artifacts["tokenizer"])["pad_id"]
        names = part["id"].combine_chunks()
        for low in range(0, count, ROWS):
            high = min(low + ROWS, count)
            one = segments.slice(*np.searchsorted(segments.bin, [low, high]))
            yield self._batch(one, low, high, tokens, offsets, names, pad, schema)

    def _batch(
        self,
        one: _Segments,
        low: int,
        high: int,
        tokens: NDArray[np.int32],
        offsets: NDArray[np.int64],
        names: pa.Array,
        pad: int,
        schema: pa.Schema,
    ) -> tuple[pa.RecordBatch, dict[str, int]]:
        """Rows [low, high) as a batch."""
        length, rows = self.sequence_length, high - low
        edges = np.searchsorted(one.bin, np.arange(low, high + 1)).astype(np.int32)
        ends = np.cumsum(one.length)
        before = np.concatenate([[0], ends])[edges[:-1]]
        within = ends - one.length - before[one.bin - low]
        where = np.repeat((one.bin - low) * length + within - (ends - one.length), one.length) + np.arange(ends[-1])
        source = np.repeat(offsets[one.doc] + one.start - (ends - one.length), one.length) + np.arange(ends[-1])
        flat = np.full(rows * length, pad, np.int32)
        flat[where] = tokens[source]
        starts = pa.array(edges)
        columns = [
            pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * length), pa.array(flat)).cast(INTS),
            pa.ListArray.from_arrays(starts, pa.array(one.length.astype(np.int32))).cast(INTS),
            pa.ListArray.from_arrays(starts, names.take(pa.array(one.doc))),
            pa.ListArray.from_arrays(starts, pa.array(one.start)),
        ]
        sizes = np.diff(offsets)[one.doc]
        first = one.start == 0
        cut = first & (one.length < sizes)
        counters = {
            "rows": rows,
            "padding": rows * length - int(ends[-1]),
            "packed_tokens": int(ends[-1]),
            "cuts": int(cut.sum()),
            "needless_cuts": int((cut & (sizes <= length)).sum()),
        }
        return pa.RecordBatch.from_arrays(columns, schema=schema), counters


class _Segments:
    """Pieces of documents: which document, its first token, how many, and the row each goes to; int64[n] each."""

    def __init__(
        self, doc: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64], bin_: NDArray[np.int64]
    ) -> None:
        self.doc, self.start, self.length, self.bin = doc, start, length, bin_

    def take(self, order: NDArray[np.int64]) -> _Segments:
        """The segments in another order."""
        return _Segments(self.doc[order], self.start[order], self.length[order], self.bin[order])

    def slice(self, low: int, high: int) -> _Segments:
        """Segments [low, high)."""
        return _Segments(self.doc[low:high], self.start[low:high], self.length[low:high], self.bin[low:high])


def _chunks(offsets: NDArray[np.int64], length: int) -> _Segments:
    """Documents cut every `length` tokens of their own, their last piece shorter."""
    sizes = np.diff(offsets)
    pieces = -(-sizes // length)
    doc = np.repeat(np.arange(len(sizes)), pieces)
    start = (np.arange(len(doc)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    return _Segments(doc, start, np.minimum(sizes[doc] - start, length), np.zeros(len(doc), np.int64))


def _stream(offsets: NDArray[np.int64], length: int) -> _Segments:
    """All documents as one stream cut every `length` tokens."""
    total = int(offsets[-1])
    edges = np.union1d(offsets, np.append(np.arange(0, total, length), total))
    begin, size = edges[:-1], np.diff(edges)
    doc = np.searchsorted(offsets, begin, side="right") - 1
    return _Segments(doc, begin - offsets[doc], size, begin // length)


def _framed(
    ids: NDArray[np.int32], offsets: NDArray[np.int64], bos: int | None, eos: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every document with its beginning and end tokens."""
    extra = (bos is not None) + (eos is not None)
    new = offsets + extra * np.arange(len(offsets))
    out = np.empty(int(new[-1]), np.int32)
    shift = np.repeat(np.arange(len(offsets) - 1) * extra + (bos is not None), np.diff(offsets))
    out[np.arange(len(ids)) + shift] = ids
    if bos is not None:
        out[new[:-1]] = bos
    if eos is not None:
        out[new[1:] - 1] = eos
    return out, new


def special_ids(path: Path) -> dict[str, int]:
    """{"bos_id", "eos_id", "pad_id", "vocab_size"} of a tokenizer.json or its folder.

    Named by `tokenizer_config.json` beside it where that is, else its first special tokens in this order.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    tokenizer = Tokenizer.from_file(str(file))
    config = file.with_name("tokenizer_config.json")
    names = json.loads(config.read_text()) if config.exists() else {}
    added = [t.content for _, t in sorted(tokenizer.get_added_tokens_decoder().items()) if t.special]
    if not added:
        raise ValueError(f"{file} has no special tokens to begin, end and pad with")
    found: dict[str, int] = {"vocab_size": tokenizer.get_vocab_size()}
    for k, role in enumerate(("bos", "eos", "pad")):
        name = names.get(f"{role}_token") or added[min(k, len(added) - 1)]
        number = tokenizer.token_to_id(name if isinstance(name, str) else name["content"])
        if number is None:
            raise ValueError(f"{file} has no token {name!r}, which its config names")
        found[f"{role}_id"] = number
    return found
