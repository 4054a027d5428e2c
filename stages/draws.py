"""Numbers drawn for documents by hashing their ids: what a sample, a split and a shuffle choose by.

Reads batches of one shard in order. A document's number is a seeded hash of its id, so that it is the same in every
corpus that has the document. Ids should be unique, and an id that repeats must not be chosen all or nothing: the
second and later documents of an id in a shard are hashed with their source and their turn as well, and are counted.
The trade-off: 100 bytes of memory for each document of the shard at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray


class Draws:
    """The numbers of a shard's documents. repeated: documents so far whose id an earlier one of the shard has."""

    def __init__(self, *seeds: int) -> None:
        """seeds: of the hashes; each gives a number."""
        self.seeds, self.repeated = seeds, 0
        self._met: Counter[int] = Counter()

    def of(self, batch: pa.RecordBatch) -> list[NDArray[np.uint64]]:
        """A number of each of the next n documents for each seed: uint64[n]. batch: has `id` and `source`."""
        names = self._names(batch["id"].to_pylist(), batch["source"])
        return [np.array([xxhash.xxh3_64_intdigest(name, seed) for name in names], np.uint64) for seed in self.seeds]

    def _names(self, ids: Sequence[str], sources: pa.Array) -> list[bytes]:
        names = [one.encode() for one in ids]
        for k, name in enumerate(names):
            key = xxhash.xxh3_64_intdigest(name)
            if turn := self._met[key]:
                self.repeated += 1
                names[k] = b"%b\0%b\0%d" % (name, (sources[k].as_py() or "").encode(), turn)
            self._met[key] = turn + 1
        return names
