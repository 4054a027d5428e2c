"""The one function a worker runs: a task's description in, committed files and counts out.

Reads the shards, runs or partials named by the spec; writes rows, drops, quarantine and asides through `ShardWriter`,
each file whole or not at all. Nothing is remembered between tasks, so that any worker may run any task, twice if need
be.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.engines.fused import Fused, Shard, cpu_seconds, from_sources, load_stage, of_a_shard, schema_of
from pipeline.engines.streams import Link, LinkResult, Streams
from pipeline.shards import SHARD_BYTES, File, describe, read_batches, sync
from pipeline.shuffle import RunWriter, merge
from pipeline.stage import Each, Emit, Exchange, Fold, Once, Step, Task

Phase = Literal["each", "scatter", "gather", "map", "finish", "once"]


RUNS = "runs.json"


class TaskSpec(Link):
    """A task as plain data: what to run, on which files, to where. before: the stages that are fused in front. inputs:
    of a gather, a file that lists its step's runs (`RUNS`)."""

    before: list[Link] = Field(default_factory=list)
    search: list[str]
    step: str
    phase: Phase
    index: int
    count: int
    seed: int
    out: str
    scratch: str
    inputs: list[str]
    last: bool = False
    beside: str | None = None
    sources: list[dict[str, Any]] = Field(default_factory=list)
    low: int = 0
    high: int = 0
    limit: int | None = None

    @property
    def key(self) -> str:
        """The task's name within its stage."""
        return f"{self.step}.{self.phase}.{self.index:05}"

    @property
    def stem(self) -> str:
        """What the task's files are called: as the one shard that it reads, else by its number."""
        alone = self.phase in ("each", "scatter", "map") and not self.sources
        return Path(self.inputs[0]).stem if alone else f"part-{self.index:05}"

    @property
    def wide(self) -> bool:
        """Whether the task gets a process of its own with all the cores."""
        return self.phase == "once"

    @property
    def makes_artifact(self) -> bool:
        """Whether what the task leaves in its folder is its answer."""
        return self.phase in ("finish", "once")


class TaskResult(LinkResult):
    """What a task did, its fused stages apart, and what it cost. runs: paths of a scatter's sorted runs."""

    key: str
    index: int
    before: list[LinkResult] = Field(default_factory=list)
    runs: list[str] = Field(default_factory=list)
    scattered: int = 0
    peak: int = 0


def run_task(spec: TaskSpec, report: Any) -> TaskResult:
    """Runs one task to its end. report: called with small mappings for whoever watches."""
    began = cpu_seconds()
    stage = load_stage(spec.use, spec.settings, spec.search)
    step = next(step for step in stage.steps() if step.name == spec.step)
    scratch = Path(spec.scratch)
    _empty(scratch)
    beside = _whole(Path(spec.beside)) if spec.beside else None
    task = Task(
        stage=spec.stage,
        seed=spec.seed,
        index=spec.index,
        count=spec.count,
        folder=Path(spec.out),
        scratch=scratch,
        artifacts={name: Path(path) for name, path in spec.artifacts.items()},
        beside=beside,
        limit=spec.limit,
        report=report,
    )
    job = _Job(spec, task, TaskResult(key=spec.key, index=spec.index))
    job.run(step)
    shutil.rmtree(scratch, ignore_errors=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    job.result.seconds, job.result.peak = cpu_seconds() - began, usage.ru_maxrss * 1024
    return job.result


class _Job:
    """A task under way: its own streams, those of the stages fused in front, and when it last told of itself."""

    def __init__(self, spec: TaskSpec, task: Task, result: TaskResult) -> None:
        self.spec, self.result = spec, result
        result.before = [LinkResult() for _ in spec.before]
        self.task = of_a_shard(task) if spec.sources and spec.before else task
        self.fused = [
            Fused.of(link, spec.stem, done, self.task if k else task, spec.search)
            for k, (link, done) in enumerate(zip(spec.before, result.before, strict=True))
        ]
        alone = bool(spec.sources) and not self.fused
        self.streams = Streams(
            Path(spec.root),
            Path(spec.out),
            spec.stem,
            result,
            aside_stem=f"gather-{spec.index:05}" if spec.phase == "gather" else None,
            roll=SHARD_BYTES if alone else None,
            even_empty=not alone,
        )
        self.told = 0.0

    def run(self, step: Step) -> None:
        """Runs the phase of the step that the spec names, commits its files, checks its books."""
        try:
            self._phase(step)
        except BaseException:
            for streams in (*(fused.streams for fused in self.fused), self.streams):
                streams.abandon()
            raise
        if self.spec.makes_artifact:
            self.result.files["artifact"] = _tree(self.task.folder, Path(self.spec.root))
        self.result.counters, self.result.rules = dict(self.streams.counters), dict(self.streams.rules)

    def _phase(self, step: Step) -> None:
        match step, self.spec.phase:
            case Each(), "each":
                self._each(step)
            case Exchange(), "scatter":
                self._scatter(step)
            case Exchange(), "gather":
                runs = [Path(p) for p in json.loads(Path(self.spec.inputs[0]).read_bytes())]
                merged = merge(runs, step.key, step.order, self.spec.low, self.spec.high)
                self._stream((step.gather or _as_they_are)(merged, self.task), step.schema, step.aside)
            case Fold(), "map":
                self._stream((step.map or _as_they_are)(self._read(), self.task), step.partial, {})
            case Fold(), "finish":
                self.streams.counters.update(step.finish(self._read(), self.task))
            case Once(), "once":
                self.streams.counters.update(step.run([Path(p) for p in self.spec.inputs], self.task))
            case _:
                raise TypeError(f"step {step.name} has no phase {self.spec.phase}")

    def _each(self, step: Each) -> None:
        """Writes what the step makes of the task's sources, or of each shard that comes through the fused stages."""
        if self.spec.sources and not self.fused:
            schema = schema_of(step, pa.schema([]))
            self._write(from_sources(step, self.task, self.spec.sources), schema, step.aside)
        else:
            for shard in self._shards():
                self.streams.stem = shard.stem
                self._write(step.run(shard.batches, self.task), schema_of(step, shard.schema), step.aside)
                self.streams.close()
        self._close()

    def _shards(self) -> Iterator[Shard]:
        """The task's shard, or those that its sources make, by way of the fused stages."""
        if self.spec.sources:
            shards, rest = self.fused[0].files(self.spec.sources, self.spec.stem), self.fused[1:]
        else:
            schema = pq.read_schema(self.spec.inputs[0]).remove_metadata()
            shards, rest = iter([Shard(self.spec.stem, self._read(), schema)]), self.fused
        for shard in shards:
            if self.spec.sources:
                _empty(self.task.scratch)
            through = reduce(lambda one, fused: fused.through(one), rest, shard)
            yield through
            if self.fused:
                deque(through.batches, 0)  # what a step leaves unread is lost, and the books must say so
            for fused in rest:
                fused.streams.close()

    def _read(self, columns: tuple[str, ...] | None = None) -> Iterator[pa.RecordBatch]:
        for path in self.spec.inputs:
            for batch in read_batches(Path(path), columns):
                self.result.rows += len(batch)
                self.result.bytes += batch.nbytes
                yield batch
                self._tell()

    def _tell(self) -> None:
        if (now := time.process_time()) - self.told > 0.5:
            self.told = now
            first = self.fused[0].done if self.spec.sources and self.fused else self.result
            self.task.report({"rows": first.rows, "bytes": self.result.bytes})

    def _stream(self, emits: Iterator[Emit], schema: pa.Schema, aside: Mapping[str, pa.Schema]) -> None:
        """Writes every emitted stream, to the end."""
        self._write(emits, schema, aside)
        self._close()

    def _write(self, emits: Iterator[Emit], schema: pa.Schema, aside: Mapping[str, pa.Schema]) -> None:
        """Writes every emitted stream; an empty `rows` still becomes an empty shard, so that shards stay in step."""
        rows = self.streams.rows(schema)
        for emit in emits:
            self.streams.side(emit, aside)
            if emit.rows is not None:
                rows.write(emit.rows)
            self._tell()

    def _scatter(self, step: Exchange) -> None:
        runs = RunWriter(Path(self.spec.out), self.spec.index, step.scattered, step.key, step.order)
        for emit in step.scatter(self._read(step.columns), self.task):
            self.streams.side(emit, step.aside)
            if emit.rows is not None:
                runs.write(emit.rows)
        self.result.runs = [str(path) for path in runs.close()]
        self.result.scattered = runs.bytes
        self._close()

    def _close(self) -> None:
        """Commits all streams, then holds the books of each stage that reads and gives documents."""
        self.streams.close()
        read = self.streams.counters["records"] if self.spec.sources else self.result.rows
        for fused in self.fused:
            fused.close()
            read = fused.done.kept
        self.result.rows = read
        if self.spec.phase == "each" and (self.spec.last or self.spec.sources):
            self.streams.balance(self.spec.key, read, sum(file.rows for file in self.result.files.get("rows", [])))


def _whole(path: Path) -> pa.Table:
    """All of a small shard, without what pyarrow loads for data sets."""
    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)


def _tree(folder: Path, root: Path) -> list[File]:
    """Every file an artifact consists of, each synced; *.jsonl are logs and checkpoints are for resuming: neither is
    its content."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = [path for path in paths if path.suffix != ".jsonl" and "checkpoints" not in path.relative_to(folder).parts]
    files = [path for path in inside if not path.relative_to(root).parts[0].startswith((".", "_"))]
    for path in {*files, *(path.parent for path in files)}:
        sync(path)
    return [describe(path, root) for path in files]
