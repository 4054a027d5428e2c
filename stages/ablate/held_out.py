"""The text that recipes are measured on: held out by all of them, and known to none.

Reads packed runs. A document is measured only if no recipe trains on it or on half of its shingles: without that,
whoever keeps copies would be paid for them. Unless a set is given, documents are measured that every recipe keeps: what
a filter drops is not asked for, which favours filters a little. Every recipe's documents are read once more for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from pipeline.shards import read_batches, read_manifest
from stages.kernels.arrow import text_buffers
from stages.packed_rows import PackedRows, held_out_shards, training_shards
from stages.train.command import packed

SHINGLE = 5
KNOWN = 0.5
"""Share of a held-out document's shingles that may be known to a recipe's training documents."""
MOST_DOCUMENTS = 20_000
MOST_BYTES = 1_000_000
CUT_BYTES = 8192
"""Bytes measured: of all documents, chosen by the hash of their ids, and of each."""


@dataclass(frozen=True)
class Arm:
    """A recipe that has been run up to its packed rows. held: ids of the documents that it holds out."""

    name: str
    pack: Path
    tokenizer: Path
    shards: list[Path]
    held: pa.Array

    @classmethod
    def of(cls, name: str, run: Path) -> Arm:
        """Raises ValueError where a run has no packed rows, or packs without BOS: a first token is not foretold then"""
        pack, tokenizer = packed(run)
        manifest = read_manifest(pack)
        parent = read_manifest(run / manifest.parent) if manifest and manifest.parent else None
        if manifest is None or manifest.parent is None or parent is None:
            raise ValueError(f"{pack}: the documents that it packed are not in the run")
        arm = cls(name, pack, tokenizer, [run / manifest.parent / name for name in parent.shards], _held_ids(pack))
        if not arm.rows().meta["bos"]:
            raise ValueError(f"{pack}: `ablate` needs `bos: true`")
        return arm

    def rows(self) -> PackedRows:
        """Its packed rows."""
        return PackedRows(training_shards(self.pack))

    def documents(self) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Its documents batch by batch, and which of them it holds out."""
        for shard in self.shards:
            for batch in read_batches(shard, columns=["id", "text", "lang"]):
                yield batch, pc.is_in(batch["id"], self.held)


def _held_ids(pack: Path) -> pa.Array:
    tables = [pq.read_table(path, columns=["doc_ids"]) for path in held_out_shards(pack)]
    ids = [pc.list_flatten(column) for table in tables for column in table["doc_ids"].chunks]
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *ids]))


@dataclass(frozen=True)
class HeldOut:
    """The text that all are measured on. texts: each cut to `CUT_BYTES`; left_out: documents that a recipe knows."""

    texts: pa.Array
    langs: list[str]
    left_out: int

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each text: int64[n]."""
        found: NDArray[np.int64] = pc.binary_length(self.texts).to_numpy()
        return found

    def digest(self) -> str:
        """Its identity."""
        return hashlib.sha256(json.dumps([self.texts.to_pylist(), self.langs]).encode()).hexdigest()


def hold_out(arms: Sequence[Arm], files: Sequence[Path]) -> HeldOut:
    """The documents of `files` (Parquet with `text`), or those that every arm holds out, as the first one has them."""
    if files:
        rows = [row for path in files for row in pq.read_table(path).to_pylist()]
        documents = [(str(k), row["text"], row.get("lang") or "") for k, row in enumerate(rows)]
    else:
        documents = _held_by_all(arms)
    documents.sort(key=lambda one: xxhash.xxh3_64_intdigest(one[0].encode()))
    chosen = pa.array([_cut(text) for _, text, _ in documents[:MOST_DOCUMENTS]], pa.large_string())
    fresh = ~known(chosen, arms)
    sizes = np.where(fresh, pc.binary_length(chosen).to_numpy(), 0)
    taken = np.flatnonzero(fresh & (sizes > 0) & (np.cumsum(sizes) <= MOST_BYTES))
    if not len(taken):
        raise ValueError("no document is held out by every recipe: raise `validation` of `pack`, or give --held-out")
    langs = [documents[k][2] for k in taken]
    return HeldOut(chosen.take(pa.array(taken)), langs, int((~fresh).sum()))


def _held_by_all(arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    """(id, text, language) of the documents that every arm holds out."""
    common = arms[0].held
    for arm in arms[1:]:
        common = common.filter(pc.is_in(common, arm.held))
    found = []
    for batch, held in arms[0].documents():
        rows = batch.filter(held)
        rows = rows.filter(pc.is_in(rows["id"], common)).to_pylist()
        found += [(row["id"], row["text"], row["lang"] or "") for row in rows]
    return found


def _cut(text: str) -> str:
    """Its first `CUT_BYTES`, to a whole character."""
    return text.encode()[:CUT_BYTES].decode(errors="ignore")


def known(texts: pa.Array, arms: Sequence[Arm]) -> NDArray[np.bool_]:
    """Whether some arm trains on documents that together have `KNOWN` of a text's shingles: bool[n]."""
    from stages.kernels.minhash import folding, shingles

    values, ends = shingles(*text_buffers(texts), folding(), SHINGLE)
    table, places = np.unique(values, return_inverse=True)
    found = np.zeros(len(texts), np.bool_)
    if not len(table):
        return found
    for arm in arms:
        seen = np.zeros(len(table), np.bool_)
        for batch, held in arm.documents():
            theirs, _ = shingles(*text_buffers(batch["text"].filter(pc.invert(held))), folding(), SHINGLE)
            at = np.minimum(np.searchsorted(table, theirs), len(table) - 1)
            seen[at[table[at] == theirs]] = True
        hits = np.concatenate([[0], np.cumsum(seen[places])])
        found |= np.diff(hits[ends]) > KNOWN * np.maximum(np.diff(ends), 1)
    return found
