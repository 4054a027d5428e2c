"""What Exchange means on disk: sorted runs per task, cut by key at read time, merged within a memory budget.

Writes `run-*.arrow`: uncompressed Arrow files, each one record batch sorted by (key, order…), so that a partition is
found by binary search in a memory-mapped key column and no file is made per (task, partition). Costs one write and one
read of the scattered rows; memory is about four copies of one run (32 MB) while writing, about three copies of 32 MB of
rows while reading (more only where rows alike in key and first order column are more): what is mapped is given back as
soon as it is copied.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.shards import commit, row_bytes, temporary_name

RUN_BYTES = 32 << 20
MERGE_ROWS, MERGE_BYTES = 1 << 20, 32 << 20
BATCH_BYTES = 8 << 20
KEYS = 1 << 64
MADVISE = ctypes.CDLL(None).madvise

Span = tuple[int, int]
"""Rows of a run, from the first to before the second."""


class RunWriter:
    """Collects scattered rows and spills them as sorted runs: `folder/run-<index>-<n>.arrow`.

    Within a task a run is cut by the rows' sizes alone, so the files do not depend on the batches that came in.
    """

    def __init__(self, folder: Path, index: int, schema: pa.Schema, key: str, order: Sequence[str]) -> None:
        if schema.field(key).type != pa.uint64():
            raise TypeError(f"the key {key!r} of an exchange must be uint64, not {schema.field(key).type}")
        self.folder, self.index, self.schema = folder, index, schema
        self.sort = (key, *order)
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
        self.bytes, self._size = self.bytes + self._size, 0
        pieces = list(_sorted(self._waiting, self.sort))
        if not pieces:
            return
        rows = pa.concat_batches(pieces)
        pieces.clear()
        path = self.folder / f"run-{self.index:05}-{len(self.paths):04}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            writer.write_batch(rows)
        commit(temporary, path)
        self.paths.append(path)


class _Run:
    """A memory-mapped run, whose file is closed: there may be more runs than a process may open files. size: its bytes
    for a row."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self.map = file.read_buffer()  # it stays when the file is closed
        self.rows = pa.ipc.open_file(self.map).get_batch(0)
        self.size = len(self.map) / len(self.rows)

    def bounds(self, name: str, span: Span, low: int, high: int) -> Span:
        """Of rows in a span, sorted by a column, those whose value in it is in [low, high)."""
        values: NDArray[np.uint64] = self.rows[name].to_numpy(zero_copy_only=True)[slice(*span)]
        start = int(np.searchsorted(values, np.uint64(low)))
        end = len(values) if high >= KEYS else int(np.searchsorted(values, np.uint64(high)))
        self._give_back()
        return span[0] + start, span[0] + end

    def copy(self, start: int, end: int) -> pa.RecordBatch:
        """Rows [start, end), in memory of their own."""
        rows = self.rows.take(pa.array(np.arange(start, end)))
        self._give_back()
        return rows

    def _give_back(self) -> None:
        """A page that was read counts as this process's, with 15 more around it: a hundred runs would be 300 MB."""
        start = self.map.address // mmap.PAGESIZE * mmap.PAGESIZE
        size = self.map.address + self.map.size - start
        MADVISE(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def cut(partitions: int) -> list[tuple[int, int]]:
    """The 64-bit key range in even parts: [low, high) for each partition."""
    edges = [k * KEYS // partitions for k in range(partitions + 1)]
    return list(itertools.pairwise(edges))


def merge(paths: Sequence[Path], key: str, order: Sequence[str], low: int, high: int) -> Iterator[pa.RecordBatch]:
    """The rows of all runs whose key is in [low, high), sorted by (key, *order), in batches of about 8 MB.

    Equal rows come in the order of `paths`. The key range is halved until a part has at most a million rows and 32 MB,
    or one key; the rows of one key are cut in the same way by the first column of `order`, if it is uint64.
    """
    runs = [_Run(path) for path in paths]
    by = (key, *order)
    halved = [name for name in by[:2] if runs and runs[0].rows[name].type == pa.uint64()]
    yield from _parts(runs, [(0, len(run.rows)) for run in runs], halved, by, low, high)


def _parts(
    runs: Sequence[_Run], spans: Sequence[Span], halved: Sequence[str], by: Sequence[str], low: int, high: int
) -> Iterator[pa.RecordBatch]:
    """The rows of the runs' spans, equal in the sort columns before `halved[0]`, of which that is in [low, high)."""
    todo = [(low, high)]
    while todo:
        low, high = todo.pop()
        bounds = [run.bounds(halved[0], span, low, high) for run, span in zip(runs, spans, strict=True)]
        total = sum(end - start for start, end in bounds)
        size = sum(run.size * (end - start) for run, (start, end) in zip(runs, bounds, strict=True))
        large = total > MERGE_ROWS or size > MERGE_BYTES
        if large and high - low > 1:
            middle = (low + high) // 2
            todo += [(middle, high), (low, middle)]
        elif large and len(halved) > 1:
            yield from _parts(runs, bounds, halved[1:], by, 0, KEYS)
        elif total:
            yield from _sorted([run.copy(a, b) for run, (a, b) in zip(runs, bounds, strict=True) if b > a], by)


def _sorted(parts: list[pa.RecordBatch], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Concatenates, sorts by the named columns (stably), and hands out batches of bounded size; empties `parts`.

    Such a batch also bounds what lists cost: pyarrow notes 8 bytes for each item that it takes, and doubles as it goes.
    """
    rows = pa.concat_batches(parts)
    parts.clear()
    index = pc.sort_indices(rows.select(names), sort_keys=[(name, "ascending") for name in names])
    sizes = row_bytes(rows)[index.to_numpy()]
    edges = np.searchsorted(np.cumsum(sizes + 1), np.arange(BATCH_BYTES, sizes.sum() + len(sizes), BATCH_BYTES))
    start = 0
    for end in [*np.unique(edges).tolist(), len(index)]:
        if end > start:
            yield rows.take(index.slice(start, end - start))
        start = end
