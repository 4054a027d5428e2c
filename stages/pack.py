"""Documents → packed rows of exactly L tokens, shuffled; nothing lost, no document cut without need.

Reads documents and a tokenizer; writes packed rows, under `validation/` those of the held-out documents, and
`roles/highlights.json`. Documents go to partitions by a seeded hash of their ids, so that packing partition by
partition is a global shuffle; documents of one id are hashed with their sources too (`stages.draws`) and counted. The
trade-off: a partition (32 to 64 MB of tokens) is packed in memory and apart from others, each with a row or so that
ends in padding: 0.03 % of all tokens, at L = 2048 and 200 million of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline import seeds
from pipeline.rows import HEAD_BYTES, drop_rows, quarantine_rows
from pipeline.stage import Emit, Exchange, Fold, Problem, Stage, Step, Task, resolve
from stages.draws import Draws
from stages.encoder import Encoder, Ids, digest, special_tokens, vocab_size
from stages.kernels.arrow import read_only
from stages.packed_rows import INTS, METADATA, PACKED
from stages.special_tokens import Roles

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
    bos: bool | str = Field(
        True,
        description="What each document begins with (its first piece only): a token's text; true: the beginning token "
        "that the tokenizer's files name, or the end token where they name none; false: nothing.",
    )
    eos: bool | str = Field(
        True,
        description="What each document ends with (its last piece only): a token's text; true: the end token that the "
        "tokenizer's files name, which must be one; false: nothing.",
    )
    pad: str | None = Field(
        None,
        min_length=1,
        description="The text of the token that fills rows up; null: the padding token that the tokenizer's files "
        "name, or the end token where they name none.",
    )
    validation: float = Field(
        0.005, ge=0, lt=1, description="Share of documents held out, by the hash of their id, whatever the seed."
    )

    def libraries(self) -> tuple[str, ...]:
        """`tokenizers`, whose ids these are whoever encodes."""
        return ("tokenizers",)

    def kernels(self) -> tuple[str, ...]:
        """Those that pack."""
        return ("stages.kernels.pack",)

    def steps(self) -> tuple[Step, ...]:
        """The roles of special tokens written down; then one exchange: encode and scatter, gather and pack."""
        aside = {"validation": PACKED}
        return (
            Fold("roles", self._write_roles, TOKENS, keep=True),
            Exchange("rows", self._encode, TOKENS, "key", ("ref",), PACKED, gather=self._pack, aside=aside),
        )

    def check(self, folders: Sequence[Path]) -> list[Problem]:
        """A given tokenizer that cannot be read, whose files do not say how documents end, or that cannot encode."""
        if self.tokenizer is None:
            return []
        try:
            path = resolve(self.tokenizer, folders)
            Encoder(path, self._roles(path).texts())
        except Exception as error:  # noqa: BLE001 - `tokenizers` raises bare Exception for a file it cannot read
            return [Problem(("tokenizer",), f"{self.tokenizer}: {error}")]
        return []

    def _roles(self, tokenizer: Path) -> Roles:
        return special_tokens(tokenizer, self.bos, self.eos, self.pad)

    def _write_roles(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        roles = self._roles(task.artifacts["tokenizer"])
        text = json.dumps({"special tokens": _in_words(roles)}, ensure_ascii=False)
        (task.folder / "highlights.json").write_text(text + "\n", encoding="utf-8")
        return {}

    def _encode(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        roles = self._roles(task.artifacts["tokenizer"])
        encoder = Encoder(task.artifacts["tokenizer"], roles.texts())
        draws = Draws(seeds.number("pack.order", task.seed), HELD_SEED)
        start = task.index << 32
        for batch in batches:
            keys, drawn = draws.of(batch)
            refs = np.arange(start, start + len(batch), dtype=np.uint64)
            start += len(batch)
            good, fit = np.ones(len(batch), np.bool_), batch
            if refused := encoder.refused(batch["text"]):
                good[list(refused)] = False
                fit = batch.filter(pa.array(good))
                yield Emit(quarantine=_unfit(batch, refused, task), counters={"documents": len(refused)})
            held = drawn[good] < np.uint64(self.validation * 2.0**64)
            encoded = _framed(encoder.encode(fit["text"], keys[good]), roles)
            yield self._scattered(fit, (keys[good], refs[good], held), encoded, task)
        yield Emit(
            counters={
                "encoder_fallback": encoder.fallbacks,
                "unknown_tokens": encoder.unknown,
                "lost_bytes": encoder.lost,
                "repeated_ids": draws.repeated,
            }
        )

    def _scattered(
        self,
        batch: pa.RecordBatch,
        marks: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]],
        encoded: Ids,
        task: Task,
    ) -> Emit:
        keys, refs, held = (pa.array(one) for one in marks)
        ids, offsets = encoded
        tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
        source = pc.replace_substring_regex(batch["source"], ":[^:]*$", "")
        rows = pa.record_batch([keys, refs, batch["id"], source, batch["lang"], held, tokens], schema=TOKENS)
        empty = np.diff(offsets) == 0
        counts = {
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
        roles = self._roles(task.artifacts["tokenizer"])
        about = {
            "format": 1,
            "tokenizer_sha256": digest(task.artifacts["tokenizer"]),
            "seed": task.seed,
            **self.model_dump(include={"sequence_length", "algorithm"}),
            "bos": roles.bos is not None,
            "eos": roles.eos is not None,
            **roles.ids(),
            "roles": {
                name: role and {"token": role.token, "from": role.source} for name, role in roles.items().items()
            },
            "vocab_size": vocab_size(task.artifacts["tokenizer"]),
        }
        schema = PACKED.with_metadata({METADATA: json.dumps(about, sort_keys=True)})
        yield Emit(pa.RecordBatch.from_pylist([], schema=schema))
        batches = _watched(batches, again := Counter[str]())
        for held, part in _splits(batches):
            for batch, counters in self._rows(part, schema, roles.pad.id, task):
                if held:
                    own = {f"{name}_validation": n for name, n in counters.items()}
                    yield Emit(aside={"validation": batch}, counters=own)
                else:
                    yield Emit(batch, counters=counters)
        yield Emit(counters=again)

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


def _in_words(roles: Roles) -> str:
    """What begins, ends and pads, and who says so."""
    told = []
    for name, role in roles.items().items():
        what = {"bos": "documents begin with", "eos": "end with", "pad": "padding"}[name]
        told.append(f"{what} {role.token!r} ({role.source})" if role else f"{what} nothing (the recipe)")
    return "; ".join(told)


def _framed(encoded: Ids, roles: Roles) -> Ids:
    """Encoded documents, each with what it begins and ends with."""
    from stages.kernels.pack import frame

    (ids, offsets), ends = encoded, (roles.bos, roles.eos)
    bos, eos = (-1 if role is None else role.id for role in ends)
    added = sum(role is not None for role in ends)
    return frame(read_only(ids), read_only(offsets), bos, eos), offsets + np.arange(len(offsets)) * added


def _unfit(batch: pa.RecordBatch, refused: Mapping[int, str], task: Task) -> pa.RecordBatch:
    """The quarantine's rows of documents that cannot be encoded. refused: position → why."""
    rows = batch.select(["id", "source", "text"]).take(pa.array(refused)).to_pylist()
    told = zip(rows, refused.values(), strict=True)
    return quarantine_rows(
        [(row["id"], row["source"], "not_encodable", why, row["text"].encode()[:HEAD_BYTES]) for row, why in told], task
    )


def _watched(batches: Iterator[pa.RecordBatch], again: Counter[str]) -> Iterator[pa.RecordBatch]:
    """A partition's documents as they come, in order of their keys. again: counts those with the key of the one before:
    they have its id, in another shard (within one, `Draws` gives them other keys and counts them)."""
    last = np.empty(0, np.uint64)
    for batch in batches:
        keys = np.concatenate([last, batch["key"].to_numpy()])
        again["repeated_ids"] += int((keys[1:] == keys[:-1]).sum())
        last = keys[-1:]
        yield batch


def _splits(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[bool, pa.RecordBatch]]:
    """The documents to train on and those held out, each in one piece if there are any, and whether they are held out.

    Copied as they come, so that a partition never is in memory three times.
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
        "padding_tokens": count * length - copied,
        "cut_documents": int(cut.sum()),
        "needless_cuts": int((cut & (sizes <= length)).sum()),
    }
    return pa.RecordBatch.from_arrays(columns, schema=schema), counters
