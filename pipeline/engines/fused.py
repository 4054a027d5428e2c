"""The stages fused in front of a task's own: its shard, or its sources, in; what comes through them all out.

Reads a shard's batches or the sources themselves; writes what each of the stages drops and quarantines. Sources are
cut as the shards that are not written would have been: each gives a shard of every later stage, of the same name, so
that files and bytes are those of a run that keeps everything. The price: all that comes of one task's sources is one
worker's.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.engines.spare import restore
from pipeline.engines.streams import Link, LinkResult, Streams
from pipeline.loading import is_own, load
from pipeline.shards import ROW_GROUP_BYTES, ROW_GROUP_ROWS, SHARD_BYTES, Cuts, Piece, file_stem, row_bytes
from pipeline.stage import Each, Emit, Source, Stage, Task

T = TypeVar("T")


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended, such as extractors of pages."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def load_stage(use: str, settings: Mapping[str, Any], search: list[str]) -> Stage:
    """The stage object of `module:Class`; `search` is where a user's own module may lie."""
    if not is_own(use):
        restore()
    stage = load(use, [Path(folder) for folder in search]).model_validate(settings)
    if not isinstance(stage, Stage):
        raise TypeError(f"{use} is not a Stage")
    return stage


def schema_of(step: Each, incoming: pa.Schema) -> pa.Schema:
    """The schema of a step's rows."""
    return step.schema if isinstance(step.schema, pa.Schema) else step.schema(incoming)


def from_sources(step: Each, task: Task, sources: Sequence[Mapping[str, Any]]) -> Iterator[Emit]:
    """What the step makes of each source, one after the other."""
    each = (replace(task, source=Source.of(source)) for source in sources)
    return (emit for one in each for emit in step.run(iter(()), one))


def of_a_shard(task: Task) -> Task:
    """The task of a stage that reads shards, within one that reads sources: which shard of all it has is not known."""
    return replace(task, index=-1, count=-1, limit=None, scratch=task.scratch / "shard")


@dataclass(frozen=True)
class Shard:
    """A shard that was not written: its stem, its rows as they come, and their schema."""

    stem: str
    batches: Iterator[pa.RecordBatch]
    schema: pa.Schema


@dataclass
class Fused:
    """One stage of the pass."""

    link: Link
    streams: Streams
    step: Each
    task: Task

    @property
    def done(self) -> LinkResult:
        """What the stage did so far."""
        return self.streams.result

    @classmethod
    def of(cls, link: Link, stem: str, done: LinkResult, task: Task, search: list[str]) -> Fused:
        """The stage that a link names. Raises TypeError where it is none that can be fused."""
        step = load_stage(link.use, link.settings, search).steps()[0]
        if not isinstance(step, Each):
            raise TypeError(f"{link.use} cannot be fused")
        root = Path(link.root)
        artifacts = {name: Path(path) for name, path in link.artifacts.items()}
        task = replace(task, stage=link.stage, folder=root, artifacts=artifacts)
        return cls(link, Streams(root, root, stem, done), step, task)

    def through(self, shard: Shard) -> Shard:
        """What comes of a shard; the stage's other streams are written as it is read."""
        self.streams.stem = shard.stem
        schema = schema_of(self.step, shard.schema)
        return Shard(shard.stem, _timed(_gathered(self._rows(shard.batches, schema)), self.done), schema)

    def files(self, sources: Sequence[Mapping[str, Any]], stem: str) -> Iterator[Shard]:
        """The shards that the stage, which reads sources, would have written."""
        schema = schema_of(self.step, pa.schema([]))
        pieces = _timed(self._pieces(sources, schema), self.done)
        number, first = 0, next(pieces, None)
        while first is not None:
            yield Shard(file_stem(stem, number), _gathered(_one_file(first, pieces)), schema)
            number, first = number + 1, next(pieces, None)

    def close(self) -> None:
        """Commits what the stage dropped and quarantined, and holds its books."""
        self.streams.close()
        self.streams.balance(self.link.stage, self.done.rows, self.done.kept)

    def _rows(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, int]]:
        for emit in self.step.run(_counted(batches, self.done), self.task):
            self.streams.side(emit, self.step.aside)
            if emit.rows is not None and len(emit.rows):
                size = int(row_bytes(emit.rows).sum())
                self._kept(len(emit.rows), size)
                yield _fit(emit.rows, schema), size

    def _pieces(self, sources: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Iterator[Piece]:
        cuts = Cuts(SHARD_BYTES)
        for emit in from_sources(self.step, self.task, sources):
            self.streams.side(emit, self.step.aside)
            self.done.rows = self.streams.counters["records"]
            if emit.rows is not None:
                for piece in cuts.pieces(_fit(emit.rows, schema)):
                    self._kept(len(piece.rows), piece.bytes)
                    yield piece

    def _kept(self, rows: int, size: int) -> None:
        self.done.kept += rows
        self.done.kept_bytes += size


def _one_file(piece: Piece | None, pieces: Iterator[Piece]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The rows of a piece and of those after it, to the end of its file, with their bytes."""
    while piece is not None:
        yield piece.rows, piece.bytes
        piece = None if piece.file_ends else next(pieces, None)


def _gathered(parts: Iterator[tuple[pa.RecordBatch, int]]) -> Iterator[pa.RecordBatch]:
    """Batches of half a row group at least, as far as there are: what a filter leaves of each would be too few rows for
    the next stage, which pays some milliseconds for every batch."""
    waiting: list[pa.RecordBatch] = []
    size = rows = 0
    for batch, more in parts:
        waiting.append(batch)
        size, rows = size + more, rows + len(batch)
        if 2 * size >= ROW_GROUP_BYTES or 2 * rows >= ROW_GROUP_ROWS:
            yield _joined(waiting)
            waiting, size, rows = [], 0, 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return batch if batch.schema.equals(schema) else batch.cast(schema)


def _timed(items: Iterator[T], result: LinkResult) -> Iterator[T]:
    """Items as they come; the time they take is the stage's."""
    while True:
        began = cpu_seconds()
        item = next(items, None)
        result.seconds += cpu_seconds() - began
        if item is None:
            return
        yield item


def _counted(batches: Iterator[pa.RecordBatch], result: LinkResult) -> Iterator[pa.RecordBatch]:
    """Batches as they come, counted; the time they take to come is not the reader's."""
    while True:
        began = cpu_seconds()
        batch = next(batches, None)
        result.seconds -= cpu_seconds() - began
        if batch is None:
            return
        result.rows += len(batch)
        result.bytes += batch.nbytes
        yield batch
