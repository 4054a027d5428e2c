"""Packed shards → batches, in a seeded order whose state is one integer.

The order of an epoch is a seeded permutation of row groups, then of the rows within each: memory is two row groups,
never the data. Batch n is
the same whatever was read before it, so that a resume needs only n.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

PACK = b"gristmill.pack"
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """ids, positions, documents, labels: int64 [B, L]; labels -100 at a document's last token and at padding."""

    ids: Tensor
    positions: Tensor
    documents: Tensor
    labels: Tensor


class Rows:
    """The rows of packed shards by number, in the order of a seeded permutation."""

    def __init__(self, shards: Sequence[Path], seed: int) -> None:
        """Reads footers only."""
        self.shards, self.seed = list(shards), seed
        self.meta = json.loads((pq.read_schema(self.shards[0]).metadata or {})[PACK])
        self.length: int = self.meta["sequence_length"]
        footers = [pq.read_metadata(path) for path in self.shards]
        self.groups = [(s, g) for s, footer in enumerate(footers) for g in range(footer.num_row_groups)]
        self.sizes = [footers[s].row_group(g).num_rows for s, g in self.groups]
        self.total = sum(self.sizes)
        self._loaded: dict[int, tuple[NDArray[np.int32], list[NDArray[np.int32]]]] = {}
        self._order: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def fingerprint(self) -> str:
        """Identity of the data: names, sizes in rows, and what pack said of them."""
        names = [(path.name, path.stat().st_size) for path in self.shards]
        return hashlib.sha256(json.dumps([names, self.sizes, self.meta], sort_keys=True).encode()).hexdigest()

    def batch(self, number: int, size: int) -> Batch:
        """Batch `number` of `size` rows; epochs follow each other without a break."""
        rows = [self._row(position) for position in range(number * size, (number + 1) * size)]
        return collate([ids for ids, _ in rows], [lengths for _, lengths in rows])

    def _row(self, position: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        epoch, place = divmod(position, self.total)
        groups, edges = self._epoch(epoch)
        which = int(np.searchsorted(edges, place, side="right")) - 1
        group = int(groups[which])
        inside = np.random.Generator(np.random.PCG64([self.seed, epoch, group])).permutation(self.sizes[group])
        ids, lengths = self._load(group)
        row = int(inside[place - int(edges[which])])
        return ids[row], lengths[row]

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if epoch not in self._order:
            groups = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(len(self.groups))
            edges = np.concatenate([[0], np.cumsum(np.array(self.sizes)[groups])])
            self._order = {epoch: (groups, edges)}
        return self._order[epoch]

    def _load(self, group: int) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        if group not in self._loaded:
            shard, number = self.groups[group]
            table = pq.ParquetFile(self.shards[shard]).read_row_group(number, columns=["input_ids", "seq_lengths"])
            table = table.combine_chunks()
            ids = table["input_ids"].chunk(0).flatten().to_numpy().reshape(-1, self.length)
            lengths = [np.array(one, np.int32) for one in table["seq_lengths"].to_pylist()]
            if len(self._loaded) > 1:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[group] = (ids, lengths)
        return self._loaded[group]

    def first(self, count: int) -> list[Batch]:
        """The first `count` rows in stored order, one batch per eight: for validation."""
        rows = []
        for group in range(len(self.groups)):
            ids, lengths = self._load(group)
            rows += [(ids[k], lengths[k]) for k in range(len(lengths))]
            if len(rows) >= count:
                break
        rows = rows[:count]
        return [
            collate([i for i, _ in rows[k : k + 8]], [n for _, n in rows[k : k + 8]]) for k in range(0, len(rows), 8)
        ]


def collate(ids: Sequence[NDArray[np.int32]], lengths: Sequence[NDArray[np.int32]]) -> Batch:
    """Rows and their segment lengths → tensors; padding is a document of its own without labels."""
    size, length = len(ids), len(ids[0])
    tokens = np.stack(ids).astype(np.int64)
    documents, positions = np.empty((size, length), np.int64), np.empty((size, length), np.int64)
    labels = np.full((size, length), IGNORED, np.int64)
    labels[:, :-1] = tokens[:, 1:]
    for k, one in enumerate(lengths):
        real = int(one.sum())
        parts = np.append(one, length - real) if real < length else one
        ends = np.cumsum(parts)
        documents[k] = np.repeat(np.arange(len(parts)), parts)
        positions[k] = np.arange(length) - np.repeat(ends - parts, parts)
        labels[k, ends - 1] = IGNORED
        labels[k, real:] = IGNORED
    return Batch(*(torch.from_numpy(a) for a in (tokens, positions, documents, labels)))
