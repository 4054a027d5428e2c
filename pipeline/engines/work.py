"""The one function a worker runs: a task's description in, committed files and counts out.

Reads the shards, runs or partials named by the spec; writes rows, drops, quarantine and asides through
`ShardWriter`, each
file whole or not at all. Nothing is remembered between tasks, so that any worker may run any task, twice if need be.
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

from pipeline.shards import SHARD_BYTES, File, ShardWriter, describe, read_batches
from pipeline.shuffle import RunWriter, merge
from pipeline.stage import DROP, QUARANTINE, Each, Emit, Exchange, Fold, Once, Source, Stage, Step, Task

Phase = Literal["each", "scatter", "gather", "map", "finish", "once"]


class TaskSpec(BaseModel):
    """A task as plain data: what to run, on which files, to where."""

    use: str
    settings: dict[str, Any]
    search: list[str]
    step: str
    phase: Phase
    index: int
    count: int
    stage: str
    seed: int
    root: str
    out: str
    scratch: str
    inputs: list[str]
    last: bool = False
    beside: str | None = None
    artifacts: dict[str, str] = {}
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
        return self.phase in ("finish", "once")


class TaskResult(BaseModel):
    """What a task did: files by stream (or run paths), rows read, counters, drops by rule, and what it cost."""

    key: str
    index: int
    files: dict[str, list[File]] = {}
    runs: list[str] = []
    scattered: int = 0
    rows: int = 0
    bytes: int = 0
    counters: dict[str, int] = {}
    rules: dict[str, int] = {}
    seconds: float = 0.0
    peak: int = 0


class BooksError(Exception):
    """Rows that a step lost or made up."""


def load_stage(use: str, settings: Mapping[str, Any], search: list[str]) -> Stage:
    """The stage object of `module:Class`; `search` is where a user's own module may lie."""
    for folder in search:
        if folder not in sys.path:
            sys.path.append(folder)
    module, _, name = use.partition(":")
    stage = getattr(importlib.import_module(module), name).model_validate(settings)
    if not isinstance(stage, Stage):
        raise TypeError(f"{use} is not a Stage")
    return stage


def run_task(spec: TaskSpec, report: Any) -> TaskResult:
    """Runs one task to its end. report: called with small mappings for whoever watches."""
    began = time.perf_counter()
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
    job.result.seconds, job.result.peak = time.perf_counter() - began, usage.ru_maxrss * 1024
    return job.result


@dataclass
class _Job:
    """A task under way: its writers and what it has counted so far."""

    spec: TaskSpec
    task: Task
    result: TaskResult
    writers: dict[str, ShardWriter] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    told: float = 0.0

    def run(self, step: Step) -> None:
        """Runs the phase of the step that the spec names, commits its files, checks its books."""
        try:
            match step, self.spec.phase:
                case Each(), "each":
                    self._stream(self._each(step), self._rows_schema(step), step.aside)
                case Exchange(), "scatter":
                    self._scatter(step)
                case Exchange(), "gather":
                    merged = merge(
                        [Path(p) for p in self.spec.inputs], step.key, step.order, self.spec.low, self.spec.high
                    )
                    self._stream((step.gather or _as_they_are)(merged, self.task), step.schema, step.aside)
                case Fold(), "map":
                    self._stream((step.map or _as_they_are)(self._read(), self.task), step.partial, {})
                case Fold(), "finish":
                    self.counters.update(step.finish(self._read(), self.task))
                case Once(), "once":
                    self.counters.update(step.run([Path(p) for p in self.spec.inputs], self.task))
                case _:
                    raise TypeError(f"step {step.name} has no phase {self.spec.phase}")
        except BaseException:
            for writer in self.writers.values():
                writer.abandon()
            raise
        if self.spec.wide:
            self.result.files["artifact"] = _tree(self.task.folder, Path(self.spec.root))
        self.result.counters, self.result.rules = dict(self.counters), dict(self.rules)

    def _each(self, step: Each) -> Iterator[Emit]:
        """What the step makes of the task's shard, or of each of its sources in turn."""
        if not self.spec.sources:
            yield from step.run(self._read(), self.task)
        for source in self.spec.sources:
            yield from step.run(self._read(), replace(self.task, source=Source(**source)))

    def _read(self) -> Iterator[pa.RecordBatch]:
        for path in self.spec.inputs:
            for batch in read_batches(Path(path)):
                self.result.rows += len(batch)
                self.result.bytes += batch.nbytes
                yield batch
                self._tell()

    def _tell(self) -> None:
        if (now := time.perf_counter()) - self.told > 0.5:
            self.told = now
            self.task.report({"rows": self.result.rows, "bytes": self.result.bytes})

    def _rows_schema(self, step: Each) -> pa.Schema:
        if isinstance(step.schema, pa.Schema):
            return step.schema
        incoming = pa.schema([]) if not self.spec.inputs else pq.read_schema(self.spec.inputs[0])
        return step.schema(incoming.remove_metadata())

    def _stream(self, emits: Iterator[Emit], schema: pa.Schema, aside: Mapping[str, pa.Schema]) -> None:
        """Writes every emitted stream; an empty `rows` still becomes an empty shard, so that shards stay in step."""
        self._writer("rows", schema)
        for emit in emits:
            self._side(emit, aside)
            if emit.rows is not None:
                self.writers["rows"].write(emit.rows)
            self._tell()
        self._close()

    def _scatter(self, step: Exchange) -> None:
        folder = Path(self.spec.out)
        runs = RunWriter(folder, self.spec.index, step.scattered, step.key, step.order)
        for emit in step.scatter(self._read(), self.task):
            self._side(emit, step.aside)
            if emit.rows is not None:
                runs.write(emit.rows)
        self.result.runs = [str(path) for path in runs.close()]
        self.result.scattered = runs.bytes
        self._close()

    def _side(self, emit: Emit, aside: Mapping[str, pa.Schema]) -> None:
        self.counters.update(emit.counters)
        streams = {"drops": emit.drops, "quarantine": emit.quarantine, **emit.aside}
        schemas = {"drops": DROP, "quarantine": QUARANTINE, **aside}
        for name, batch in streams.items():
            if batch is not None and len(batch):
                self._writer(name, schemas[name]).write(batch)
        if emit.drops is not None:
            for row in pc.value_counts(emit.drops["rule"]).to_pylist():
                self.rules[row["values"]] += row["counts"]

    def _writer(self, name: str, schema: pa.Schema) -> ShardWriter:
        if name not in self.writers:
            root, main = Path(self.spec.root), name == "rows"
            folder = Path(self.spec.out) if main else root / name
            stem = (
                f"gather-{self.spec.index:05}"
                if self.spec.phase == "gather" and not main
                else f"part-{self.spec.index:05}"
            )
            roll = SHARD_BYTES if main and self.spec.sources else None
            self.writers[name] = ShardWriter(
                root, folder, stem, schema, roll=roll, even_empty=main and not self.spec.sources
            )
        return self.writers[name]

    def _close(self) -> None:
        """Commits all streams, then holds the books of a step that reads and gives documents."""
        self.result.files = {name: writer.close() for name, writer in self.writers.items()}
        out = {name: sum(file.rows for file in files) for name, files in self.result.files.items()}
        if self.spec.sources:
            self.result.rows = self.counters["records"]
        if self.spec.phase != "each" or not (self.spec.last or self.spec.sources):
            return
        gone = out.get("drops", 0) + out.get("quarantine", 0)
        if self.result.rows != out["rows"] + gone:
            raise BooksError(
                f"{self.spec.key}: {self.result.rows} rows in, {out['rows']} kept and {gone} dropped or quarantined"
            )


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)


def _tree(folder: Path, root: Path) -> list[File]:
    """Every file an artifact consists of; *.jsonl are logs and checkpoints are for resuming: neither is its content."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = [path for path in paths if path.suffix != ".jsonl" and "checkpoints" not in path.relative_to(folder).parts]
    return [describe(path, root) for path in inside if not path.relative_to(root).parts[0].startswith((".", "_"))]
