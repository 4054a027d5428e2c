"""Packed shards → flat batches, in a seeded order whose whole state is one integer.

Reads packed Parquet shards. The order of an epoch is a seeded permutation of the row groups, then of the rows within
each: memory is two row groups, never the data, and the price is that rows of one group stay near each other (`pack`
has shuffled them already). Batch n does not depend on what was read before it, so a resume needs only n; nor do its
rows depend on how many processes or parts share it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

PACK = b"gristmill.pack"
IGNORED = -100
"""The label of a token that foretells nothing: a segment's last one, and padding."""
AHEAD = 2
"""Batches made before they are asked for."""
HEAD_BYTES = 1 << 16

Row = tuple[NDArray[np.int32], NDArray[np.int32]]
"""A packed row: its L token ids, and the lengths of its segments."""
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Rows end to end. ids, positions, labels: int64 [rows · L]; lengths: tokens of each document, padding being one.

    Positions start anew in each document.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    lengths: NDArray[np.int64]

    def known(self) -> int:
        """Labelled tokens."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Group:
    """A row group: ids int32 [rows, L], and where each row's segment lengths lie in `lengths`."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    edges: NDArray[np.int64]

    def row(self, number: int) -> Row:
        """One of them."""
        return self.ids[number], self.lengths[self.edges[number] : self.edges[number + 1]]


class Rows:
    """The rows of packed shards by number, in the order of a seeded permutation.

    meta: what `pack` said of the shards. length: L. total: rows of all shards.
    """

    def __init__(self, shards: Sequence[Path], seed: int) -> None:
        """Reads footers only. Raises ValueError where there are no rows, or shards that were packed differently."""
        footers = [pq.read_metadata(path) for path in shards]
        self.shards, self.seed = list(shards), seed
        self.groups = [(s, g) for s, footer in enumerate(footers) for g in range(footer.num_row_groups)]
        self.sizes = np.array([footers[s].row_group(g).num_rows for s, g in self.groups], np.int64)
        self.total = int(self.sizes.sum())
        if not self.total:
            raise ValueError("there are no packed rows to train on")
        packed = {(footer.metadata or {}).get(PACK, b"") for footer in footers}
        if len(packed) > 1 or b"" in packed:
            raise ValueError(f"{self.shards[0].parent}: shards that were not packed together, or not by pack")
        self.meta: dict[str, Any] = json.loads(packed.pop())
        self.length: int = self.meta["sequence_length"]
        self._loaded: dict[int, Group] = {}
        self._orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._inside: dict[tuple[int, int], NDArray[np.int64]] = {}

    def fingerprint(self) -> str:
        """Identity of the shards: sha256 of their first 64 KB and footers (sizes, statistics), in order."""
        digest = hashlib.sha256()
        for path in self.shards:
            digest.update(_ends(path))
        return digest.hexdigest()

    def batch(self, number: int, size: int, part: int = 0, parts: int = 1) -> Batch:
        """Part `part` of `parts` of batch `number` of `size` rows; epochs follow each other without a break."""
        share = size // parts
        first = number * size + part * share
        return collate([self._at(position) for position in range(first, first + share)])

    def in_order(self, count: int, size: int) -> Iterator[tuple[Batch, list[tuple[str, str]]]]:
        """The first `count` rows as stored, in batches of at most `size`, each with its documents' (source, language).

        Padding's are empty.
        """
        stored = islice(self._stored(), count)
        while rows := list(islice(stored, size)):
            padding = [[("", "")] * int(row[1].sum() < self.length) for row, _ in rows]
            names = [one for (_, named), more in zip(rows, padding, strict=True) for one in (*named, *more)]
            yield collate([row for row, _ in rows]), names

    def _stored(self) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
        """Every row as stored, with its segments' (source, language), empty where not known."""
        for group, (shard, number) in enumerate(self.groups):
            table = pq.ParquetFile(self.shards[shard]).read_row_group(number, columns=["sources", "langs"])
            named = zip(table["sources"].to_pylist(), table["langs"].to_pylist(), strict=True)
            for k, (sources, langs) in enumerate(named):
                yield self.group(group).row(k), [(s or "", g or "") for s, g in zip(sources, langs, strict=True)]

    def _at(self, position: int) -> Row:
        epoch, place = divmod(position, self.total)
        order, ends = self._groups_of(epoch)
        which = int(np.searchsorted(ends, place, side="right"))
        group = int(order[which])
        inside = self._permutation(epoch, group)[place - int(ends[which] - self.sizes[group])]
        return self.group(group).row(int(inside))

    def _groups_of(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's order of row groups, and the place after each one's last row."""
        if epoch not in self._orders:
            order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(len(self.groups))
            _make_room(self._orders)
            self._orders[epoch] = order, np.cumsum(self.sizes[order])
        return self._orders[epoch]

    def _permutation(self, epoch: int, group: int) -> NDArray[np.int64]:
        if (epoch, group) not in self._inside:
            chance = np.random.Generator(np.random.PCG64([self.seed, epoch, group]))
            _make_room(self._inside)
            self._inside[epoch, group] = chance.permutation(self.sizes[group])
        return self._inside[epoch, group]

    def group(self, group: int) -> Group:
        """A row group, by its number as stored."""
        if group not in self._loaded:
            shard, number = self.groups[group]
            table = pq.ParquetFile(self.shards[shard]).read_row_group(number, columns=["input_ids", "seq_lengths"])
            ids, lengths = (table[name].combine_chunks() for name in ("input_ids", "seq_lengths"))
            _make_room(self._loaded)
            self._loaded[group] = Group(
                ids.flatten().to_numpy().reshape(-1, self.length),
                lengths.flatten().to_numpy(),
                np.concatenate([[0], np.cumsum(lengths.value_lengths().to_numpy(), dtype=np.int64)]),
            )
        return self._loaded[group]


def collate(rows: Sequence[Row]) -> Batch:
    """Rows → a flat batch; padding is a document of its own without labels."""
    tokens = np.concatenate([ids for ids, _ in rows]).astype(np.int64)
    parts, padding = [], []
    for ids, lengths in rows:
        rest = len(ids) - int(lengths.sum())
        parts.append(np.append(lengths, rest) if rest else lengths)
        padding += [False] * len(lengths) + [True] * bool(rest)
    sizes = np.concatenate(parts).astype(np.int64)
    ends = np.cumsum(sizes)
    labels = np.append(tokens[1:], IGNORED)
    labels[ends - 1] = IGNORED
    labels[np.repeat(np.array(padding), sizes)] = IGNORED
    positions = np.arange(len(tokens)) - np.repeat(ends - sizes, sizes)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(positions), torch.from_numpy(labels), sizes)


def ahead(make: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """make(number) of each number in order, made in a background thread a little before it is asked for."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, "decode") as pool:
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _make_room(held: dict[Any, Any]) -> None:
    """Leaves at most one, the newest: a batch may span two row groups, or two epochs."""
    while len(held) > 1:
        del held[next(iter(held))]


def _ends(path: Path) -> bytes:
    """A Parquet file's first bytes and its footer, whose length and the magic are the last 8 bytes."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, 2)
        return head + file.read(size)
