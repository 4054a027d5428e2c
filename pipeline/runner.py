"""Walks the plan: skip what is done, run what is not, check the books, commit, and take up again after a crash.

Writes each stage's folder and `run.json`. A stage's finished tasks are noted one file each under its `.work/`, so
that a killed
run loses at most the tasks under way; `.work/` goes when the manifest is written, which is last. Costs one small
file a task.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engines import Engine
from pipeline.engines.work import Phase, TaskResult, TaskSpec
from pipeline.events import (
    Event,
    EventLog,
    Listener,
    News,
    RunDone,
    RunStarted,
    StageDone,
    StageSkipped,
    StageStarted,
    StepStarted,
    TaskDone,
)
from pipeline.plan import Plan, Planned
from pipeline.shards import File, Manifest, Rows, read_manifest, write_json
from pipeline.shuffle import cut
from pipeline.stage import DOCUMENTS, SOURCES, Each, Exchange, Fold, Once, Source, Step

WORK = ".work"
GROUP_BYTES = 16 << 20
LIBRARIES = ("numpy", "numba", "pyarrow", "ftfy", "tokenizers", "py3langid", "torch", "resiliparse")


class RunError(Exception):
    """A run that cannot go on; its message says what to do."""


@dataclass
class _Totals:
    """What a stage's tasks add up to."""

    files: dict[str, list[File]] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    peak: int = 0


def execute(plan: Plan, engine: Engine, listener: Listener) -> list[Manifest]:
    """Runs every stage that is not done; the manifests of all. Raises RunError, or TaskError from the engine."""
    began = time.perf_counter()
    plan.out.mkdir(parents=True, exist_ok=True)
    with _locked(plan.out):
        log = EventLog(plan.out / "events.jsonl")

        def tell(event: Event) -> None:
            log(event)
            listener(event)

        try:
            tell(RunStarted(str(plan.out), sum(p.why is not None for p in plan.stages), len(plan.stages)))
            _forget(plan)
            for planned in plan.stages:
                if planned.why is None:
                    shutil.rmtree(plan.out / planned.folder / WORK, ignore_errors=True)
                    tell(StageSkipped(planned.folder))
                else:
                    _StageRun(plan, planned, engine, tell).run()
            manifests = [_manifest(plan, planned) for planned in plan.stages]
            write_json(plan.out / "run.json", _summary(plan, manifests))
            tell(RunDone(str(plan.out), time.perf_counter() - began))
        finally:
            log.close()
    return manifests


def grouped(sources: Sequence[Source]) -> list[list[Source]]:
    """Neighbouring sources that share a task, so that ten thousand small files do not make ten thousand shards.

    A group is closed once it holds a 64th of all bytes or `GROUP_BYTES`; a source of unknown size is one by itself.
    """
    enough = min(GROUP_BYTES, sum(source.size for source in sources) // 64)
    groups: list[list[Source]] = []
    size = enough
    for source in sources:
        unknown = bool(source.digest) and not source.size
        if size >= enough or unknown:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += enough if unknown else source.size
    return groups


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Holds the run's folder: two runs in one folder would take each other's files for their own."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{out}: another run is at work in this folder; wait for it, or give another --out"
            ) from None
        yield


def _forget(plan: Plan) -> None:
    """Removes folders of stages that this recipe does not have, left by an earlier one of the same run."""
    mine = {planned.folder for planned in plan.stages}
    for path in sorted(plan.out.iterdir()):
        known = path.is_dir() and ((path / "_manifest.json").exists() or (path / WORK).exists())
        if known and path.name not in mine:
            shutil.rmtree(path)


def _manifest(plan: Plan, planned: Planned) -> Manifest:
    manifest = read_manifest(plan.out / planned.folder)
    if manifest is None:
        raise RunError(f"{planned.folder} has no manifest")
    return manifest


class _StageRun:
    """One stage being run."""

    def __init__(self, plan: Plan, planned: Planned, engine: Engine, tell: Listener) -> None:
        self.plan, self.planned, self.engine, self.tell = plan, planned, engine, tell
        self.root = plan.out / planned.folder
        self.work = self.root / WORK
        self.steps = planned.stage.steps()
        self.totals = _Totals()
        self.artifacts = {name: str(self._absolute(path)) for name, path in planned.artifacts.items()}
        self.parent = read_manifest(plan.out / planned.parent) if planned.parent else None
        self.outputs: dict[str, list[str]] = {DOCUMENTS: self._documents()}

    def run(self) -> None:
        """Runs the stage's steps and commits its manifest."""
        began = time.perf_counter()
        self.tell(StageStarted(self.planned.folder, self.planned.why or ""))
        self._clear()
        for step in self.steps:
            self._step(step)
        self._sweep()
        rows = self._books()
        manifest = self._commit(rows)
        size = {"in": self._bytes(self.parent), "out": self._bytes(manifest)}
        self.tell(
            StageDone(
                self.planned.folder,
                rows.model_dump(),
                size["in"] if self.parent else sum(s.size for s in self.planned.sources if s.start == 0),
                size["out"],
                round(time.perf_counter() - began, 3),
                round(self.totals.cpu, 3),
                self.totals.peak,
                dict(self.totals.rules.most_common()),
                dict(sorted(self.totals.counters.items())),
            )
        )

    def _bytes(self, manifest: Manifest | None) -> int:
        return sum(file.text_bytes for file in manifest.files.get("rows", [])) if manifest else 0

    def _absolute(self, path: str) -> Path:
        return Path(path) if Path(path).is_absolute() else (self.plan.out / path).resolve()

    def _documents(self) -> list[str]:
        if self.parent is None or self.planned.parent is None:
            return []
        return [str(self.plan.out / self.planned.parent / name) for name in self.parent.shards]

    def _clear(self) -> None:
        """An older attempt's folder goes, unless it was for this very fingerprint and can be taken up."""
        mark = self.work / "fingerprint"
        if self.root.exists() and not (mark.exists() and mark.read_text() == self.planned.fingerprint):
            shutil.rmtree(self.root)
        self._sweep()
        self.work.mkdir(parents=True, exist_ok=True)
        mark.write_text(self.planned.fingerprint)

    def _sweep(self) -> None:
        """Removes files that a killed worker had begun; no task may be under way."""
        for stray in self.root.rglob(".*.tmp"):
            stray.unlink()

    def _step(self, step: Step) -> None:
        last = step is self.steps[-1]
        out = self._home(step, last=last)
        match step:
            case Each():
                results = self._tasks(step, "each", out, last=last)
                self.outputs[step.name] = self._rows(results)
            case Exchange():
                self.outputs[step.name] = self._rows(self._exchange(step, out))
            case Fold():
                self.outputs[step.name] = []
                self._fold(step, out)
            case Once():
                self.outputs[step.name] = []
                spec = self._spec(step, "once", out, 0, 1, self.outputs[step.reads])
                self._collect(step, [spec])
        if (last or step.keep) and self.outputs[step.name]:
            stream = "rows" if last else step.name
            self.totals.files[stream] = [file for result in self.results for file in result.files.get("rows", [])]

    def _home(self, step: Step, *, last: bool) -> Path:
        if last:
            return self.root
        return self.root / step.name if step.keep else self.work / step.name

    def _rows(self, results: Sequence[TaskResult]) -> list[str]:
        return [str(self.root / file.name) for result in results for file in result.files.get("rows", [])]

    def _tasks(self, step: Each | Exchange | Fold, phase: Phase, out: Path, *, last: bool = False) -> list[TaskResult]:
        """One task per group of sources or per shard that the step reads."""
        if step.reads == SOURCES:
            sources = self.planned.sources
            share = None if self.plan.limit is None else -(-self.plan.limit // len(sources))
            groups = grouped(sources)
            specs = [
                self._spec(step, phase, out, k, len(groups), []).model_copy(
                    update={"sources": [asdict(source) for source in group], "limit": share, "last": last}
                )
                for k, group in enumerate(groups)
            ]
        else:
            shards = self.outputs[step.reads]
            beside = self.outputs.get(getattr(step, "beside", None) or "")
            specs = [
                self._spec(step, phase, out, k, len(shards), [shard]).model_copy(
                    update={"last": last, "beside": beside[k] if beside else None}
                )
                for k, shard in enumerate(shards)
            ]
        return self._collect(step, specs)

    def _exchange(self, step: Exchange, out: Path) -> list[TaskResult]:
        scattered = self._tasks(step, "scatter", self.work / f"{step.name}-runs")
        runs = [run for result in scattered for run in result.runs]
        if step.by == "shard":
            count = len(self.outputs[DOCUMENTS])
            ranges = [(k, k + 1) for k in range(count)]
        else:
            size = sum(result.scattered for result in scattered)
            ranges = cut(max(1, -(-size // step.partition_bytes)))
        specs = [
            self._spec(step, "gather", out, k, len(ranges), runs).model_copy(update={"low": low, "high": high})
            for k, (low, high) in enumerate(ranges)
        ]
        return self._collect(step, specs)

    def _fold(self, step: Fold, out: Path) -> None:
        partials = self.outputs[step.reads]
        if step.map is not None:
            partials = self._rows(self._tasks(step, "map", self.work / f"{step.name}-partials"))
        self._collect(step, [self._spec(step, "finish", out, 0, 1, partials)])
        self.artifacts[step.name] = str(out)

    def _spec(self, step: Step, phase: Phase, out: Path, index: int, count: int, inputs: Sequence[str]) -> TaskSpec:
        return TaskSpec(
            use=self.planned.use.ref,
            settings=self.planned.given,
            search=[str(folder) for folder in self.plan.recipe.folders],
            step=step.name,
            phase=phase,
            index=index,
            count=count,
            stage=self.planned.folder,
            seed=self.plan.recipe.settings.seed,
            root=str(self.root),
            out=str(out),
            scratch=str(self.work / f"scratch-{step.name}-{phase}-{index:05}"),
            inputs=list(inputs),
            artifacts=self.artifacts,
        )

    def _collect(self, step: Step, specs: Sequence[TaskSpec]) -> list[TaskResult]:
        """Results of all tasks in order: those noted by an interrupted run, and the rest as they end."""
        notes = {spec.key: self.work / "tasks" / f"{spec.key}.json" for spec in specs}
        done = {key: TaskResult.model_validate_json(p.read_bytes()) for key, p in notes.items() if p.exists()}
        todo = [spec for spec in specs if spec.key not in done]
        total = self.parent.rows.kept if self.parent else 0
        self.tell(StepStarted(self.planned.folder, step.name, len(specs), len(done), total))
        for spec in todo:
            Path(spec.out).mkdir(parents=True, exist_ok=True)
        for result in self.engine.run(todo, self._news):
            write_json(notes[result.key], result.model_dump())
            done[result.key] = result
            kept = sum(file.rows for file in result.files.get("rows", []))
            self.tell(
                TaskDone(self.planned.folder, result.key, result.rows, kept, result.bytes, result.seconds, result.peak)
            )
        self.results = [done[spec.key] for spec in specs]
        for result in self.results:
            self._add(step, result)
        return self.results

    def _news(self, values: Mapping[str, Any]) -> None:
        self.tell(News(self.planned.folder, str(values.get("task", "")), dict(values)))

    def _add(self, step: Step, result: TaskResult) -> None:
        totals = self.totals
        totals.counters.update(result.counters)
        totals.rules.update(result.rules)
        totals.cpu += result.seconds
        totals.peak = max(totals.peak, result.peak)
        for stream, files in result.files.items():
            last_artifact = stream == "artifact" and (step is self.steps[-1] or step.keep)
            if last_artifact or stream not in ("rows", "artifact"):
                totals.files.setdefault(stream, []).extend(files)

    def _books(self) -> Rows:
        """Rows in = kept + dropped + quarantined, from the files that are on disk; a bad share over the limit stops
        the run."""
        counted = {name: sum(f.rows for f in files) for name, files in self.totals.files.items()}
        rows = Rows(dropped=counted.get("drops", 0), quarantined=counted.get("quarantine", 0))
        rows.read = self.parent.rows.kept if self.parent else self.totals.counters["records"]
        if self.planned.stage.gives == "artifact":
            rows.kept = rows.read
        elif self.planned.stage.gives == "rows":
            rows.kept = self.totals.counters["documents"] - rows.dropped - rows.quarantined
        else:
            rows.kept = counted.get("rows", 0)
        if not rows.balanced:
            raise RunError(f"{self.planned.folder}: the books do not balance: {rows}; this is a fault of the stage")
        self._judge(rows)
        return rows

    def _judge(self, rows: Rows) -> None:
        limit, name = self.plan.recipe.settings.max_bad, self.planned.folder
        if rows.read and rows.quarantined / rows.read > limit:
            raise RunError(
                f"{name}: {rows.quarantined:,} of {rows.read:,} records are bad ({rows.quarantined / rows.read:.2%}), "
                f"over max_bad {limit:.2%}. Look at {self.root / 'quarantine'}, mend the input or raise max_bad, "
                "and run again."
            )
        if not rows.kept:
            worst = ", ".join(f"{rule} {n:,}" for rule, n in self.totals.rules.most_common(3)) or "no records at all"
            raise RunError(f"{name}: nothing is left of {rows.read:,} records ({worst}); see {self.root / 'drops'}")

    def _commit(self, rows: Rows) -> Manifest:
        manifest = Manifest(
            stage=self.planned.folder,
            use=self.planned.use.ref,
            version=self.planned.stage.version,
            gives=self.planned.stage.gives,
            fingerprint=self.planned.fingerprint,
            settings=self.planned.settings,
            parent=self.planned.parent,
            artifacts=dict(self.planned.artifact_prints),
            rows=rows,
            rules=dict(self.totals.rules),
            counters=dict(self.totals.counters),
            files=self.totals.files,
        )
        write_json(self.root / "_manifest.json", manifest.model_dump())
        shutil.rmtree(self.work)
        return manifest


def _summary(plan: Plan, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What `run.json` holds: the recipe as resolved, versions, and per stage rows, bytes, counters, seconds."""
    costs = stage_costs(plan.out)
    return {
        "recipe": {
            **plan.recipe.settings.model_dump(),
            "path": str(plan.recipe.path),
            "limit": plan.limit,
            "stages": [{"use": p.use.ref, **p.settings} for p in plan.stages],
        },
        "versions": {name: version for name in ("gristmill", *LIBRARIES) if (version := _version(name))},
        "stages": [
            {
                "stage": m.stage,
                "rows": m.rows.model_dump(),
                "rules": m.rules,
                "counters": m.counters,
                "bytes": sum(f.text_bytes for f in m.files.get("rows", [])),
                **costs.get(m.stage, {}),
            }
            for m in manifests
        ],
    }


def stage_costs(out: Path) -> dict[str, dict[str, float]]:
    """Seconds, bytes in and peak memory of each stage's last run, from the events."""
    costs = {}
    path = out / "events.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        event = json.loads(line)
        if event["event"] == "StageDone":
            names = ("seconds", "cpu_seconds", "bytes_in", "peak")
            costs[event["stage"]] = {name: event[name] for name in names}
    return costs


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
