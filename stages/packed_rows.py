"""Packed shards: what a row looks like, and how rows are read again; for whoever packs, trains or exports.

Reads the Parquet shards that `pack` writes: footers when it is made, then a row group at a time. The two groups read
last stay in memory, and the price is that jumping among more reads them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

INTS = pa.list_(pa.field("element", pa.int32(), nullable=False))
PACKED = pa.schema(
    [
        pa.field("input_ids", INTS, nullable=False),
        pa.field("seq_lengths", INTS, nullable=False),
        pa.field("doc_ids", pa.list_(pa.string()), nullable=False),
        pa.field("doc_offsets", pa.list_(pa.int64()), nullable=False),
        pa.field("sources", pa.list_(pa.string())),
        pa.field("langs", pa.list_(pa.string())),
    ]
)
"""A packed row. input_ids: exactly L tokens, the padding at the end. Per segment: its length (they add up to the real
tokens), its document's id, its first token's place in that document, the document's file of origin and language."""
METADATA = "gristmill.pack"
"""Key of the file's metadata: JSON with format, sequence_length, algorithm, seed, tokenizer_sha256, bos, eos, bos_id,
eos_id, pad_id, vocab_size."""
HEAD_BYTES = 1 << 16

Row = tuple[NDArray[np.int32], NDArray[np.int32]]
"""A packed row: its L token ids, and the lengths of its segments."""


@dataclass(frozen=True)
class Group:
    """A row group: ids int32 [rows, L], and where each row's segment lengths lie in `lengths`."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    edges: NDArray[np.int64]

    def row(self, number: int) -> Row:
        """One of them."""
        return self.ids[number], self.lengths[self.edges[number] : self.edges[number + 1]]


class PackedRows:
    """The rows of packed shards as stored, group by group.

    meta: what `pack` said of the shards. length: L. total: rows of all shards. groups: (shard, row group in it) of
    each; sizes: its rows.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        """Reads footers only. Raises ValueError where there are no rows, or shards that were packed differently."""
        footers = [pq.read_metadata(path) for path in shards]
        self.shards = list(shards)
        self.groups = [(s, g) for s, footer in enumerate(footers) for g in range(footer.num_row_groups)]
        self.sizes = np.array([footers[s].row_group(g).num_rows for s, g in self.groups], np.int64)
        self.total = int(self.sizes.sum())
        if not self.total:
            raise ValueError("there are no packed rows to train on")
        packed = {(footer.metadata or {}).get(METADATA.encode(), b"") for footer in footers}
        if len(packed) > 1 or b"" in packed:
            raise ValueError(f"{self.shards[0].parent}: shards that were not packed together, or not by pack")
        self.meta: dict[str, Any] = json.loads(packed.pop())
        self.length: int = self.meta["sequence_length"]
        self.group = lru_cache(2)(self._read)

    def fingerprint(self) -> str:
        """Identity of the shards: sha256 of their first 64 KB and footers (sizes, statistics), in order."""
        digest = hashlib.sha256()
        for path in self.shards:
            digest.update(_ends(path))
        return digest.hexdigest()

    def columns(self, group: int, names: Sequence[str]) -> pa.Table:
        """Columns of a row group, by its number."""
        shard, number = self.groups[group]
        return pq.ParquetFile(self.shards[shard]).read_row_group(number, columns=list(names))

    def _read(self, group: int) -> Group:
        table = self.columns(group, ["input_ids", "seq_lengths"])
        ids, lengths = (table[name].combine_chunks() for name in ("input_ids", "seq_lengths"))
        return Group(
            ids.flatten().to_numpy().reshape(-1, self.length),
            lengths.flatten().to_numpy(),
            np.concatenate([[0], np.cumsum(lengths.value_lengths().to_numpy(), dtype=np.int64)]),
        )


def training_shards(pack: Path) -> list[Path]:
    """The shards of a `pack` folder, in order."""
    return sorted(pack.glob("part-*.parquet"))


def held_out_shards(pack: Path) -> list[Path]:
    """The shards of the documents that it held out, in order; none where it held none out."""
    return sorted((pack / "validation").glob("[!.]*.parquet"))


def _ends(path: Path) -> bytes:
    """A Parquet file's first bytes and its footer, whose length and the magic are the last 8 bytes."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, 2)
        return head + file.read(size)
