"""What Exchange means on disk: sorted runs per task, cut by key at read time, merged within a memory budget.

Writes `run-*.arrow`: uncompressed Arrow files, each one record batch sorted by (key, order…), so that a partition is
found by binary search in a memory-mapped key column and no file is made per (task, partition). Costs one write and one
read of the scattered rows; memory is about four copies of one run (32 MB) while writing, about 64 MB of rows (one key's
sort columns at least) while reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.shards import commit, row_bytes, temporary_name

RUN_BYTES = 32 << 20
MERGE_ROWS = 1 << 20
BATCH_BYTES = 8 << 20
KEYS = 1 << 64


class RunWriter:
    """Collects scattered rows and spills them as sorted runs: `folder/run-<index>-<n>.arrow`.

    Within a task a run is cut by the rows' sizes alone, so the files do not depend on the batches that came in.
    """

    def __init__(self, folder: Path, index: int, schema: pa.Schema, key: str, order: Sequence[str]) -> None:
        if schema.field(key).type != pa.uint64():
            raise TypeError(f"the key {key!r} of an exchange must be uint64, not {schema.field(key).type}")
        self.folder, self.index, self.schema = folder, index, schema
        self.sort = [(name, "ascending") for name in (key, *order)]
        self.paths: list[Path] = []
        self.bytes = 0
        self._waiting: list[pa.RecordBatch] = []
        self._size = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows; spills once a run is full."""
        fixed = sum(f.type.bit_width // 8 for f in self.schema if pa.types.is_primitive(f.type))
        self._size += int(row_bytes(batch).sum()) + fixed * len(batch)
        self._waiting.append(batch.cast(self.schema))
        if self._size >= RUN_BYTES:
            self._spill()

    def close(self) -> list[Path]:
        """Spills the rest; the runs' paths."""
        if self._waiting:
            self._spill()
        return self.paths

    def _spill(self) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting, self.bytes, self._size = [], self.bytes + self._size, 0
        table = table.take(pc.sort_indices(table, sort_keys=self.sort)).combine_chunks()
        if not len(table):
            return
        path = self.folder / f"run-{self.index:05}-{len(self.paths):04}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            for batch in table.to_batches():
                writer.write_batch(batch)
        commit(temporary, path)
        self.paths.append(path)


@dataclass(frozen=True)
class _Run:
    """A memory-mapped run: its rows and its keys."""

    rows: pa.RecordBatch
    keys: NDArray[np.uint64]

    def bounds(self, low: int, high: int) -> tuple[int, int]:
        """Rows whose key is in [low, high)."""
        start = int(np.searchsorted(self.keys, np.uint64(low)))
        end = len(self.keys) if high >= KEYS else int(np.searchsorted(self.keys, np.uint64(high)))
        return start, end


def cut(partitions: int) -> list[tuple[int, int]]:
    """The 64-bit key range in even parts: [low, high) for each partition."""
    edges = [k * KEYS // partitions for k in range(partitions + 1)]
    return list(itertools.pairwise(edges))


def merge(paths: Sequence[Path], key: str, order: Sequence[str], low: int, high: int) -> Iterator[pa.RecordBatch]:
    """The rows of all runs whose key is in [low, high), sorted by (key, *order), in batches of about 8 MB.

    Equal rows come in the order of `paths`. The key range is halved until a part has at most a million rows, or one
    key.
    """
    runs = [_open(path, key) for path in paths]
    todo = [(low, high)]
    while todo:
        low, high = todo.pop()
        bounds = [run.bounds(low, high) for run in runs]
        total = sum(end - start for start, end in bounds)
        if total > MERGE_ROWS and high - low > 1:
            middle = (low + high) // 2
            todo += [(middle, high), (low, middle)]
        elif total:
            parts = [run.rows.slice(a, b - a) for run, (a, b) in zip(runs, bounds, strict=True) if b > a]
            yield from _sorted(parts, (key, *order))


def _open(path: Path, key: str) -> _Run:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        rows = reader.get_batch(0)
    return _Run(rows, rows[key].to_numpy(zero_copy_only=True))


def _sorted(parts: list[pa.RecordBatch], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Concatenates, sorts by the named columns (stably), and hands out batches of bounded size."""
    table = pa.Table.from_batches(parts)
    index = pc.sort_indices(table.select(names), sort_keys=[(name, "ascending") for name in names])
    sizes = np.concatenate([row_bytes(part) for part in parts])[index.to_numpy()]
    edges = np.searchsorted(np.cumsum(sizes + 1), np.arange(BATCH_BYTES, sizes.sum() + len(sizes), BATCH_BYTES))
    start = 0
    for end in [*np.unique(edges).tolist(), len(index)]:
        if end > start:
            yield from table.take(index.slice(start, end - start)).combine_chunks().to_batches()
        start = end
