"""The one function a worker runs: a task's description in, committed files and counts out.

Reads the shards, runs or partials named by the spec; writes rows, drops, quarantine and asides through `ShardWriter`,
each file whole or not at all. Nothing is remembered between tasks, so that any worker may run any task, twice if need
be.
"""

from __future__ import annotations

import importlib
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from pipeline.engines.spare import restore
from pipeline.rows import DROP, QUARANTINE
from pipeline.shards import SHARD_BYTES, File, ShardWriter, describe, read_batches, row_bytes
from pipeline.shuffle import RunWriter, merge
from pipeline.stage import Each, Emit, Exchange, Fold, Once, Source, Stage, Step, Task

Phase = Literal["each", "scatter", "gather", "map", "finish", "once"]


class Link(BaseModel):
    """A stage fused in front of another: what to run, and the folder that its drops go to."""

    use: str
    settings: dict[str, Any]
    stage: str
    root: str
    artifacts: dict[str, str] = {}


class TaskSpec(Link):
    """A task as plain data: what to run, on which files, to where. before: the stages that are fused in front."""

    before: list[Link] = []
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
    sources: list[dict[str, Any]] = []
    low: int = 0
    high: int = 0
    limit: int | None = None

    @property
    def key(self) -> str:
        """The task's name within its stage."""
        return f"{self.step}.{self.phase}.{self.index:05}"

    @property
    def wide(self) -> bool:
        """Whether the task gets a process of its own with all the cores."""
        return self.phase == "once"

    @property
    def makes_artifact(self) -> bool:
        """Whether what the task leaves in its folder is its answer."""
        return self.phase in ("finish", "once")


class LinkResult(BaseModel):
    """What a stage did in a task: rows and bytes read, files by stream, counters, drops by rule, CPU seconds.

    kept, kept_bytes: of a fused stage, which writes no rows itself.
    """

    rows: int = 0
    bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    files: dict[str, list[File]] = {}
    counters: dict[str, int] = {}
    rules: dict[str, int] = {}
    seconds: float = 0.0


class TaskResult(LinkResult):
    """What a task did, its fused stages apart, and what it cost. runs: paths of a scatter's sorted runs."""

    key: str
    index: int
    before: list[LinkResult] = []
    runs: list[str] = []
    scattered: int = 0
    peak: int = 0


class BooksError(Exception):
    """Rows that a step lost or made up."""


def load_stage(use: str, settings: Mapping[str, Any], search: list[str]) -> Stage:
    """The stage object of `module:Class`; `search` is where a user's own module may lie."""
    for folder in search:
        if folder not in sys.path:
            sys.path.append(folder)
    module, _, name = use.partition(":")
    if module.partition(".")[0] != "stages":
        restore()
    stage = getattr(importlib.import_module(module), name).model_validate(settings)
    if not isinstance(stage, Stage):
        raise TypeError(f"{use} is not a Stage")
    return stage


def run_task(spec: TaskSpec, report: Any) -> TaskResult:
    """Runs one task to its end. report: called with small mappings for whoever watches."""
    began = time.process_time()
    stage = load_stage(spec.use, spec.settings, spec.search)
    step = next(step for step in stage.steps() if step.name == spec.step)
    scratch = Path(spec.scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    beside = pa.concat_tables([pq.read_table(spec.beside, use_threads=False)]) if spec.beside else None
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
    job.result.seconds, job.result.peak = time.process_time() - began, usage.ru_maxrss * 1024
    return job.result


@dataclass
class _Streams:
    """What one stage writes in one task: a writer for each stream, counters, and drops by rule."""

    spec: Link
    folder: Path
    stem: str
    aside_stem: str
    result: LinkResult
    roll: int | None = None
    writers: dict[str, ShardWriter] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def side(self, emit: Emit, aside: Mapping[str, pa.Schema]) -> None:
        """Takes all of an emit but its rows."""
        self.counters.update(emit.counters)
        streams = {"drops": emit.drops, "quarantine": emit.quarantine, **emit.aside}
        schemas = {"drops": DROP, "quarantine": QUARANTINE, **aside}
        for name, batch in streams.items():
            if batch is not None and len(batch):
                self.writer(name, schemas[name]).write(batch)
        if emit.drops is not None:
            for row in pc.value_counts(emit.drops["rule"]).to_pylist():
                self.rules[row["values"]] += row["counts"]

    def writer(self, name: str, schema: pa.Schema, *, even_empty: bool = False) -> ShardWriter:
        """The writer of a stream: `rows` go to the task's folder, the others to one of their own."""
        if name not in self.writers:
            root = Path(self.spec.root)
            if name == "rows":
                writer = ShardWriter(root, self.folder, self.stem, schema, roll=self.roll, even_empty=even_empty)
            else:
                writer = ShardWriter(root, root / name, self.aside_stem, schema, even_empty=False)
            self.writers[name] = writer
        return self.writers[name]

    def close(self) -> dict[str, int]:
        """Commits all streams; rows by stream."""
        self.result.files = {name: writer.close() for name, writer in self.writers.items()}
        self.result.counters, self.result.rules = dict(self.counters), dict(self.rules)
        return {name: sum(file.rows for file in files) for name, files in self.result.files.items()}

    def abandon(self) -> None:
        """Removes what is not committed."""
        for writer in self.writers.values():
            writer.abandon()


class _Job:
    """A task under way: its own streams, those of the stages fused in front, and when it last told of itself."""

    def __init__(self, spec: TaskSpec, task: Task, result: TaskResult) -> None:
        self.spec, self.task, self.result = spec, task, result
        stem = f"part-{spec.index:05}"
        aside = f"gather-{spec.index:05}" if spec.phase == "gather" else stem
        roll = SHARD_BYTES if spec.sources else None
        self.streams = _Streams(spec, Path(spec.out), stem, aside, result, roll)
        result.before = [LinkResult() for _ in spec.before]
        links = zip(spec.before, result.before, strict=True)
        self.before = [_Streams(link, Path(link.root), stem, stem, done) for link, done in links]
        self.told = 0.0

    def run(self, step: Step) -> None:
        """Runs the phase of the step that the spec names, commits its files, checks its books."""
        try:
            self._phase(step)
        except BaseException:
            for streams in (*self.before, self.streams):
                streams.abandon()
            raise
        if self.spec.makes_artifact:
            self.result.files["artifact"] = _tree(self.task.folder, Path(self.spec.root))
        self.result.counters, self.result.rules = dict(self.streams.counters), dict(self.streams.rules)

    def _phase(self, step: Step) -> None:
        match step, self.spec.phase:
            case Each(), "each":
                self._stream(*self._each(step), step.aside)
            case Exchange(), "scatter":
                self._scatter(step)
            case Exchange(), "gather":
                merged = merge([Path(p) for p in self.spec.inputs], step.key, step.order, self.spec.low, self.spec.high)
                self._stream((step.gather or _as_they_are)(merged, self.task), step.schema, step.aside)
            case Fold(), "map":
                self._stream((step.map or _as_they_are)(self._read(), self.task), step.partial, {})
            case Fold(), "finish":
                self.streams.counters.update(step.finish(self._read(), self.task))
            case Once(), "once":
                self.streams.counters.update(step.run([Path(p) for p in self.spec.inputs], self.task))
            case _:
                raise TypeError(f"step {step.name} has no phase {self.spec.phase}")

    def _each(self, step: Each) -> tuple[Iterator[Emit], pa.Schema]:
        """What the step makes of the task's sources, or of its shard by way of the fused stages; and its schema."""
        if self.spec.sources:
            each = (replace(self.task, source=Source(**source)) for source in self.spec.sources)
            return (emit for task in each for emit in step.run(iter(()), task)), _schema(step, pa.schema([]))
        batches, schema = self._read(), pq.read_schema(self.spec.inputs[0]).remove_metadata()
        for streams in self.before:
            batches, schema = self._through(streams, batches, schema)
        return step.run(batches, self.task), _schema(step, schema)

    def _through(
        self, streams: _Streams, batches: Iterator[pa.RecordBatch], incoming: pa.Schema
    ) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
        """A fused stage's rows as they come, and their schema; its other streams are written."""
        link = streams.spec
        only = load_stage(link.use, link.settings, self.spec.search).steps()[0]
        if not isinstance(only, Each):
            raise TypeError(f"{link.use} cannot be fused")
        step, schema = only, _schema(only, incoming)
        artifacts = {name: Path(path) for name, path in link.artifacts.items()}
        task = replace(self.task, stage=link.stage, folder=Path(link.root), artifacts=artifacts)

        def rows() -> Iterator[pa.RecordBatch]:
            done = streams.result
            began = time.process_time()
            for emit in step.run(_counted(batches, done), task):
                streams.side(emit, step.aside)
                if emit.rows is not None and len(emit.rows):
                    done.kept += len(emit.rows)
                    done.kept_bytes += int(row_bytes(emit.rows).sum())
                    done.seconds += time.process_time() - began
                    yield emit.rows.cast(schema)
                    began = time.process_time()
            done.seconds += time.process_time() - began

        return rows(), schema

    def _read(self) -> Iterator[pa.RecordBatch]:
        for path in self.spec.inputs:
            for batch in read_batches(Path(path)):
                self.result.rows += len(batch)
                self.result.bytes += batch.nbytes
                yield batch
                self._tell()

    def _tell(self) -> None:
        if (now := time.process_time()) - self.told > 0.5:
            self.told = now
            self.task.report({"rows": self.result.rows, "bytes": self.result.bytes})

    def _stream(self, emits: Iterator[Emit], schema: pa.Schema, aside: Mapping[str, pa.Schema]) -> None:
        """Writes every emitted stream; an empty `rows` still becomes an empty shard, so that shards stay in step."""
        rows = self.streams.writer("rows", schema, even_empty=not self.spec.sources)
        for emit in emits:
            self.streams.side(emit, aside)
            if emit.rows is not None:
                rows.write(emit.rows)
            self._tell()
        self._close()

    def _scatter(self, step: Exchange) -> None:
        runs = RunWriter(Path(self.spec.out), self.spec.index, step.scattered, step.key, step.order)
        for emit in step.scatter(self._read(), self.task):
            self.streams.side(emit, step.aside)
            if emit.rows is not None:
                runs.write(emit.rows)
        self.result.runs = [str(path) for path in runs.close()]
        self.result.scattered = runs.bytes
        self._close()

    def _close(self) -> None:
        """Commits all streams, then holds the books of each stage that reads and gives documents."""
        out = self.streams.close()
        read = self.streams.counters["records"] if self.spec.sources else self.result.rows
        for streams in self.before:
            gone, done = streams.close(), streams.result
            _balance(streams.spec.stage, done.rows, done.kept, gone)
            read = done.kept
        self.result.rows = read
        if self.spec.phase == "each" and (self.spec.last or self.spec.sources):
            _balance(self.spec.key, read, out["rows"], out)


def _counted(batches: Iterator[pa.RecordBatch], result: LinkResult) -> Iterator[pa.RecordBatch]:
    """Batches as they come, counted; the time they take to come is not the reader's."""
    while True:
        began = time.process_time()
        batch = next(batches, None)
        result.seconds -= time.process_time() - began
        if batch is None:
            return
        result.rows += len(batch)
        result.bytes += batch.nbytes
        yield batch


def _balance(name: str, read: int, kept: int, out: Mapping[str, int]) -> None:
    gone = out.get("drops", 0) + out.get("quarantine", 0)
    if read != kept + gone:
        raise BooksError(f"{name}: {read} rows in, {kept} kept and {gone} dropped or quarantined")


def _schema(step: Each, incoming: pa.Schema) -> pa.Schema:
    return step.schema if isinstance(step.schema, pa.Schema) else step.schema(incoming)


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)


def _tree(folder: Path, root: Path) -> list[File]:
    """Every file an artifact consists of; *.jsonl are logs and checkpoints are for resuming: neither is its content."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = [path for path in paths if path.suffix != ".jsonl" and "checkpoints" not in path.relative_to(folder).parts]
    return [describe(path, root) for path in inside if not path.relative_to(root).parts[0].startswith((".", "_"))]
