"""One stage being run: its steps, their tasks, its books and its manifest, with the stages that are fused into it.

Reads the parent's manifest; writes the stage's folder. Each finished task is noted in a small file under `.work/`, so
that a killed run loses at most the tasks under way; `.work/` goes once the manifest, the last file, is written. Notes
are not synced, as what they speak of is: a machine that loses its power loses the notes of its last seconds, and does
those tasks again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.engines import Engine
from pipeline.engines.streams import Link, LinkResult
from pipeline.engines.work import RUNS, Phase, TaskResult, TaskSpec
from pipeline.events import Listener, News, StageDone, StageStarted, StepStarted, TaskDone
from pipeline.given_up import given_up, told
from pipeline.plan import Plan, Planned
from pipeline.quarantine import faults
from pipeline.shards import MANIFEST, File, Manifest, Rows, discard, read_manifest, temporary_name, write_json
from pipeline.shuffle import cut
from pipeline.stage import DOCUMENTS, SOURCES, Each, Exchange, Fold, Once, Source, Step

WORK = ".work"
GROUP_BYTES = 16 << 20
FEW_PARTITIONS = 32


class RunError(Exception):
    """A run that cannot go on; its message says what to do."""


@dataclass
class _Totals:
    """What a stage's tasks add up to."""

    files: dict[str, list[File]] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    kept_bytes: int = 0
    cpu: float = 0.0
    peak: int = 0

    def take(self, result: LinkResult) -> None:
        """Adds a task's counts."""
        self.counters.update(result.counters)
        self.rules.update(result.rules)
        self.kept += result.kept
        self.kept_bytes += result.kept_bytes
        self.cpu += result.seconds


def grouped(sources: Sequence[Source]) -> list[list[Source]]:
    """Neighbouring sources that share a task, so that ten thousand small files do not make ten thousand shards.

    A group is closed once it holds a 64th of all bytes or `GROUP_BYTES`; a source of unknown size is one by itself.
    """
    enough = min(GROUP_BYTES, sum(source.size for source in sources) // 64)
    groups: list[list[Source]] = []
    size: float = enough
    for source in sources:
        if size >= enough or source.bytes == math.inf:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.bytes
    return groups


def partitions(size: int, most: int) -> int:
    """Into how many partitions rows of `size` bytes go: of `most` bytes each, or of half as many where those are few,
    so that workers that share them end at about the same time."""
    return max(1, -(-size // most), min(FEW_PARTITIONS, -(-2 * size // most)))


def _bytes(spec: TaskSpec) -> float:
    """What a task reads; 0 where that is several files, which its step's other tasks read too."""
    if spec.sources:
        return sum(Source.of(source).bytes for source in spec.sources)
    return Path(spec.inputs[0]).stat().st_size if len(spec.inputs) == 1 else 0


def _note(path: Path, result: TaskResult) -> None:
    """Notes a finished task under a name that no half of a note has, unless the power fails."""
    temporary = temporary_name(path)
    temporary.write_text(result.model_dump_json(), encoding="utf-8")
    temporary.replace(path)


def _noted(path: Path) -> TaskResult | None:
    """What a note says; None where there is none, or one that the disk has not got all of."""
    try:
        return TaskResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


class StageRun:
    """One stage being run, with the stages that are fused in front of it."""

    def __init__(self, plan: Plan, planned: Planned, before: Sequence[Planned], engine: Engine, tell: Listener) -> None:
        self.plan, self.planned, self.before, self.engine, self.tell = plan, planned, before, engine, tell
        self.root = plan.out / planned.folder
        self.work = self.root / WORK
        self.steps = planned.stage.steps()
        self.totals = _Totals()
        self.links = [_Totals() for _ in before]
        self.artifacts = self._artifacts(planned)
        self.first = (*before, planned)[0]
        self.source = self.first.parent
        self.parent = read_manifest(plan.out / self.source) if self.source else None
        self.outputs: dict[str, list[str]] = {DOCUMENTS: self._documents()}

    def run(self) -> None:
        """Runs the stage's steps and commits its manifest, after those of the stages in front."""
        self.began = time.perf_counter()
        for planned in (*self.before, self.planned):
            self.tell(StageStarted(planned.folder, planned.why or ""))
        self._clear()
        for step in self.steps:
            self._step(step)
        self._sweep()
        read, size = self._fused()
        rows = self._books(read)
        manifest = self._commit(self.planned, self.totals, rows, None)
        discard(self.work)
        self._told(self.planned, self.totals, manifest, size)

    def _fused(self) -> tuple[int, int]:
        """Commits the stages in front; (documents, their bytes) that reach the stage itself."""
        first = self.links[0] if self.links else self.totals
        read = self.parent.rows.kept if self.parent else first.counters["records"]
        size = self.parent.kept_bytes if self.parent else sum(s.size for s in self.first.sources if s.start == 0)
        for planned, totals in zip(self.before, self.links, strict=True):
            rows = Rows(
                read=read,
                kept=totals.kept,
                dropped=sum(file.rows for file in totals.files.get("drops", [])),
                quarantined=sum(file.rows for file in totals.files.get("quarantine", [])),
            )
            self._judge(planned, totals, rows)
            manifest = self._commit(planned, totals, rows, totals.kept_bytes)
            self._told(planned, totals, manifest, size)
            read, size = totals.kept, totals.kept_bytes
        return read, size

    def _told(self, planned: Planned, totals: _Totals, manifest: Manifest, size: int) -> None:
        """Tells that a stage is done; of the time that passed it has the share that its work had."""
        share = totals.cpu / max(sum(each.cpu for each in (*self.links, self.totals)), 1e-9) if self.links else 1.0
        took = share * (time.perf_counter() - self.began)
        self.tell(
            StageDone(
                planned.folder,
                manifest.rows.model_dump(),
                size,
                manifest.kept_bytes,
                round(took, 3),
                round(totals.cpu, 3),
                totals.peak,
                dict(totals.rules.most_common()),
                dict(sorted(totals.counters.items())),
            )
        )

    def _artifacts(self, planned: Planned) -> dict[str, str]:
        return {name: str(self._absolute(path)) for name, path in planned.artifacts.items()}

    def _absolute(self, path: str) -> Path:
        return Path(path) if Path(path).is_absolute() else (self.plan.out / path).resolve()

    def _documents(self) -> list[str]:
        if self.parent is None or self.source is None:
            return []
        return [str(self.plan.out / self.source / name) for name in self.parent.shards]

    def _clear(self) -> None:
        """An older attempt's folders go, unless they were for these very fingerprints and can be taken up."""
        mark = self.work / "fingerprint"
        stages = (*self.before, self.planned)
        wanted = "\n".join(planned.fingerprint for planned in stages)
        if not (mark.exists() and mark.read_text() == wanted):
            for planned in stages:
                discard(self.plan.out / planned.folder)
        self._sweep()
        self.work.mkdir(parents=True, exist_ok=True)
        mark.write_text(wanted)

    def _sweep(self) -> None:
        """Removes files that a killed worker had begun; no task may be under way."""
        for planned in (*self.before, self.planned):
            for stray in (self.plan.out / planned.folder).rglob(".*.tmp"):
                stray.unlink(missing_ok=True)

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
        if step.reads == SOURCES or (self.before and self.first.sources):
            sources = self.first.sources
            share = None if self.plan.limit is None else -(-self.plan.limit // len(sources))
            groups = grouped(sources)
            specs = [
                self._spec(step, phase, out, k, len(groups), []).model_copy(
                    update={"sources": [source.plain() for source in group], "limit": share, "last": last}
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
        runs = self.work / f"{step.name}-runs" / RUNS  # one file for all tasks: each reads every run
        write_json(runs, [run for result in scattered for run in result.runs])
        if step.by == "shard":
            count = len(self.outputs[DOCUMENTS])
            ranges = [(k, k + 1) for k in range(count)]
        else:
            size = sum(result.scattered for result in scattered)
            ranges = cut(partitions(size, step.partition_bytes))
        specs = [
            self._spec(step, "gather", out, k, len(ranges), [str(runs)]).model_copy(update={"low": low, "high": high})
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
            settings=self.planned.settings,
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
            before=[self._link(planned) for planned in self.before],
        )

    def _link(self, planned: Planned) -> Link:
        return Link(
            use=planned.use.ref,
            settings=planned.settings,
            stage=planned.folder,
            root=str(self.plan.out / planned.folder),
            artifacts=self._artifacts(planned),
        )

    def _collect(self, step: Step, specs: Sequence[TaskSpec]) -> list[TaskResult]:
        """Results of all tasks in order: those noted by an interrupted run, and the rest as they end. What is largest
        begins first, so that no worker is left with it while the others have nothing to do."""
        notes = {spec.key: self.work / "tasks" / f"{spec.key}.json" for spec in specs}
        done = {key: result for key, path in notes.items() if (result := _noted(path))}
        todo = sorted((spec for spec in specs if spec.key not in done), key=_bytes, reverse=True)
        total = self.parent.rows.kept if self.parent else 0
        self.tell(StepStarted(self.planned.folder, step.name, len(specs), len(done), total))
        for folder in {self.work / "tasks", *(Path(spec.out) for spec in todo)}:
            folder.mkdir(parents=True, exist_ok=True)
        for result in self.engine.run(todo, self._news):
            _note(notes[result.key], result)
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
        totals.take(result)
        totals.cpu -= sum(link.seconds for link in result.before)
        totals.peak = max(totals.peak, result.peak)
        for link, fused in zip(result.before, self.links, strict=True):
            fused.take(link)
            fused.peak = totals.peak
            for stream, files in link.files.items():
                fused.files.setdefault(stream, []).extend(files)
        for stream, files in result.files.items():
            last_artifact = stream == "artifact" and (step is self.steps[-1] or step.keep)
            if last_artifact or stream not in ("rows", "artifact"):
                totals.files.setdefault(stream, []).extend(files)

    def _books(self, read: int) -> Rows:
        """Rows in = kept + dropped + quarantined, from the files that are on disk; a bad share over the limit stops
        the run."""
        counted = {name: sum(f.rows for f in files) for name, files in self.totals.files.items()}
        rows = Rows(read=read, dropped=counted.get("drops", 0), quarantined=counted.get("quarantine", 0))
        if self.planned.stage.gives == "artifact":
            rows.kept = rows.read
        elif self.planned.stage.gives == "rows":
            rows.kept = self.totals.counters["documents"] - rows.dropped - rows.quarantined
        else:
            rows.kept = counted.get("rows", 0)
        self._judge(self.planned, self.totals, rows)
        return rows

    def _judge(self, planned: Planned, totals: _Totals, rows: Rows) -> None:
        """Stops the run where books do not balance, too much is bad, or nothing is left."""
        name = planned.folder
        if not rows.balanced:
            raise RunError(f"{name}: the books do not balance: {rows}; this is a fault of the stage")
        self._weigh(planned, totals, rows)
        if not rows.kept:
            worst = ", ".join(f"{rule} {n:,}" for rule, n in totals.rules.most_common(3)) or "no records at all"
            drops = self.plan.out / name / "drops"
            raise RunError(f"{name}: nothing is left of {rows.read:,} records ({worst}); see {drops}")

    def _weigh(self, planned: Planned, totals: _Totals, rows: Rows) -> None:
        """Stops the run where the share of bad records, or that of the input's bytes lost to faults, is over the
        limit; names the files that were not read to their end."""
        limit, root = self.plan.recipe.settings.max_bad, self.plan.out / planned.folder
        lost, given = totals.counters["bytes_lost"], sum(source.size for source in planned.sources)
        for bad, of, what in (
            (rows.quarantined, rows.read, "records are bad"),
            (lost, given, "bytes of the input could not be read"),
        ):
            if of and bad / of > limit:
                files = [file.name for file in totals.files.get("quarantine", [])]
                message = (
                    f"{planned.folder}: {bad:,} of {of:,} {what} ({bad / of:.2%}), over max_bad {limit:.2%}: "
                    f"{faults(root, files).line()}. See more with `gristmill sample {self.plan.out} {planned.folder} "
                    "--quarantined`; mend the input or raise max_bad, and run again."
                )
                raise RunError("\n".join([message, *told(given_up(root, files) if planned.sources else [])]))

    def _commit(self, planned: Planned, totals: _Totals, rows: Rows, fused_bytes: int | None) -> Manifest:
        manifest = Manifest(
            stage=planned.folder,
            gives=planned.stage.gives,
            fingerprint=planned.fingerprint,
            identity=planned.identity,
            parent=planned.parent,
            rows=rows,
            rules=dict(totals.rules),
            counters=dict(totals.counters),
            files=totals.files,
            remarks=planned.stage.remarks(self.plan.recipe.folders),
            fused_bytes=fused_bytes,
        )
        if planned.repairs is not None:
            _same_again(planned.folder, planned.repairs, manifest)
        write_json(self.plan.out / planned.folder / MANIFEST, manifest.model_dump())
        return manifest


def _same_again(folder: str, old: Manifest, new: Manifest) -> None:
    """Stops where a stage that was made again came out different: stages after it were made of what it was before."""
    before, now = ({(f.name, f.sha256) for f in manifest.all_files()} for manifest in (old, new))
    if differs := sorted({name for name, _ in before ^ now}):
        raise RunError(
            f"{folder}: its files were damaged, and made again they came out different: {', '.join(differs[:5])}. "
            f"Run it and all stages after it again with --force {folder.partition('-')[2]}."
        )
