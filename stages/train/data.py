"""Packed rows → flat batches, in a seeded order whose whole state is one integer.

Reads packed Parquet shards. The order of an epoch is a seeded permutation of the row groups, then of the rows within
each window of `WINDOW` groups. `pack` leaves the pieces of a long document in one shard: with up to `WINDOW` groups the
order is that of an ideal shuffle, with more the pieces are nearer than that. Memory is two windows at most, 256 MB,
never the data. Batch n does not depend on what was read before it, so a resume needs only n; nor do its rows depend on
how many processes or parts share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.seeds import generator
from stages.packed_rows import PackedRows, Row

IGNORED = -100
"""The label of a token that predicts nothing: a segment's last one, and padding."""
WINDOW = 16
"""Row groups whose rows are shuffled together; a group is about 8 MB."""
AHEAD = 2
"""Batches made before they are asked for."""
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


class Rows(PackedRows):
    """The rows of packed shards, also in the order of a seeded permutation, which is another in each epoch."""

    def __init__(self, shards: Sequence[Path], seed: int) -> None:
        """As PackedRows."""
        super().__init__(shards)
        self.seed = seed
        self.group = lru_cache(2 * WINDOW)(self._read)  # a batch may span two epochs, or two windows
        self._groups = lru_cache(2)(self._shuffled_groups)
        self._inside = lru_cache(2)(self._shuffled_rows)

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
        for number in range(len(self.groups)):
            group, table = self.group(number), self.columns(number, ["sources", "langs"])
            named = zip(table["sources"].to_pylist(), table["langs"].to_pylist(), strict=True)
            for k, (sources, langs) in enumerate(named):
                yield group.row(k), [(s or "", g or "") for s, g in zip(sources, langs, strict=True)]

    def _at(self, position: int) -> Row:
        epoch, place = divmod(position, self.total)
        order, edges = self._groups(epoch)
        window = (int(np.searchsorted(edges, place, side="right")) - 1) // WINDOW
        first = int(edges[window * WINDOW])
        row = first + int(self._inside(epoch, window)[place - first])
        which = int(np.searchsorted(edges, row, side="right")) - 1
        return self.group(int(order[which])).row(row - int(edges[which]))

    def _shuffled_groups(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's order of row groups, and the rows before each and in all: [groups], [groups + 1]."""
        order = generator("train.groups", self.seed, epoch).permutation(len(self.groups))
        return order, np.concatenate([[0], np.cumsum(self.sizes[order])])

    def _shuffled_rows(self, epoch: int, window: int) -> NDArray[np.int64]:
        """The order of the rows of a window, counted from its first."""
        _, edges = self._groups(epoch)
        last = min((window + 1) * WINDOW, len(self.groups))
        return generator("train.rows", self.seed, epoch, window).permutation(edges[last] - edges[window * WINDOW])


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
