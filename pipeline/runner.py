"""Walks the plan: skip what is done, run what is not, check the books, commit, and take up again after a crash.

Writes the folder of a run: one per stage (`stage_run`), `events.jsonl` and `run.json`. The folder is locked meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.engines import Engine
from pipeline.engines.ahead import compile_ahead
from pipeline.events import (
    Event,
    EventLog,
    Listener,
    Notice,
    RunDone,
    RunStarted,
    StageSkipped,
)
from pipeline.locks import LockedError, alone
from pipeline.plan import Plan, Planned
from pipeline.shards import GONE, MANIFEST, Manifest, discard, read_manifest, write_json
from pipeline.stage_run import WORK, RunError, StageRun

LIBRARIES = ("numpy", "numba", "pyarrow", "ftfy", "tokenizers", "torch", "resiliparse")


def execute(plan: Plan, engine: Engine, listener: Listener) -> list[Manifest]:
    """Runs every stage that is not done; the manifests of all. Raises RunError, or TaskError from the engine."""
    began = time.perf_counter()
    plan.out.mkdir(parents=True, exist_ok=True)
    with _locked(plan.out) as note:
        log = EventLog(plan.out / "events.jsonl")

        def tell(event: Event) -> None:
            log(event)
            listener(event)

        try:
            if note:
                tell(Notice(note))
            tell(RunStarted(str(plan.out), sum(p.why is not None for p in plan.stages), len(plan.stages)))
            _forget(plan)
            todo = [planned for planned in plan.stages if planned.why is not None]
            modules = (module for planned in todo for module in planned.stage.kernels())
            compile_ahead(modules, tell, plan.recipe.folders)
            before: list[Planned] = []
            for planned in plan.stages:
                if planned.why is None:
                    discard(plan.out / planned.folder / WORK)
                    tell(StageSkipped(planned.folder))
                elif planned.fused:
                    before.append(planned)
                else:
                    StageRun(plan, planned, before, engine, tell).run()
                    before = []
            manifests = [_manifest(plan, planned) for planned in plan.stages]
            write_json(plan.out / "run.json", _summary(plan, manifests))
            tell(RunDone(str(plan.out), time.perf_counter() - began))
        finally:
            log.close()
    return manifests


@contextmanager
def _locked(out: Path) -> Iterator[str]:
    """Holds the run's folder: two runs in one folder would take each other's files for their own. Gives a note for
    people, or ""."""
    with ExitStack() as held:
        try:
            note = held.enter_context(alone(out))
        except LockedError as error:
            raise RunError(str(error)) from None
        yield note


def _forget(plan: Plan) -> None:
    """Removes folders of stages that this recipe does not have, left by an earlier one of the same run, and what a
    killed run was removing or had begun to write beside them."""
    shutil.rmtree(plan.out / GONE, ignore_errors=True)
    for stray in plan.out.glob(".run.json.*.tmp"):
        stray.unlink(missing_ok=True)
    mine = {planned.folder for planned in plan.stages}
    for path in sorted(plan.out.iterdir()):
        known = path.is_dir() and ((path / MANIFEST).exists() or (path / WORK).exists())
        if known and path.name not in mine:
            discard(path)


def _manifest(plan: Plan, planned: Planned) -> Manifest:
    manifest = read_manifest(plan.out / planned.folder)
    if manifest is None:
        raise RunError(f"{planned.folder} has no manifest")
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
                "bytes": m.kept_bytes,
                **costs.get(m.stage, {}),
            }
            for m in manifests
        ],
    }


def stage_costs(out: Path) -> dict[str, dict[str, float]]:
    """Seconds, bytes in and peak memory of each stage's last run, from the events."""
    costs = {}
    path = out / "events.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for event in map(json.loads, lines[:-1]):  # what follows the last newline is a line that was cut short, or none
        if event["event"] == "StageDone":
            names = ("seconds", "cpu_seconds", "bytes_in", "peak")
            costs[event["stage"]] = {name: event[name] for name in names}
    return costs


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
