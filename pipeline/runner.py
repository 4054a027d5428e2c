"""Walks the plan: skip what is done, run what is not, check the books, commit, and take up again after a crash.

Writes the folder of a run: one per stage (`stage_run`), `events.jsonl` and `run.json`. The folder is locked meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import RecipeError
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
from pipeline.identity import library_version
from pipeline.locks import LockedError, alone
from pipeline.plan import Plan, Planned, place_of
from pipeline.shards import GONE, MANIFEST, RUN, Manifest, discard, read_manifest, sha256_file, write_json
from pipeline.stage_run import WORK, RunError, StageRun

LIBRARIES = ("numpy", "numba", "pyarrow", "ftfy", "tokenizers", "torch", "resiliparse")


def execute(plan: Plan, engine: Engine, listener: Listener, *, replace: bool = False) -> list[Manifest]:
    """Runs every stage that is not done; the manifests of all.

    replace: remove finished stages of another recipe that stand in the way. Raises RunError, RecipeError where that
    would have to be asked for, or TaskError from the engine.
    """
    began = time.perf_counter()
    if plan.removes and not replace:
        raise RecipeError([_refusal(plan)])
    plan.out.mkdir(parents=True, exist_ok=True)
    with _locked(plan.out) as note:
        _refuse_links(plan.out)
        write_json(plan.out / RUN, _summary(plan, []))
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
            write_json(plan.out / RUN, _summary(plan, manifests))
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


def _refusal(plan: Plan) -> str:
    names = ", ".join(plan.removes)
    return (
        f"{plan.out} holds finished stages that are not this recipe's: {names}. Nothing was done. Give this run "
        "a folder of its own with --out (or a `name` in the recipe), or remove those stages with --replace."
    )


def _refuse_links(out: Path) -> None:
    """Stops where something in the run's folder is a link: writing would follow it out of the folder."""
    for folder, folders, files in os.walk(out):
        for name in (*folders, *files):
            if (path := Path(folder, name)).is_symlink():
                raise RunError(f"{path} is a link. A run's folder holds its own files: remove the link, and run again.")


def _forget(plan: Plan) -> None:
    """Removes folders of stages that this recipe does not have, and what a killed run was removing or had begun to
    write beside them. Finished ones are among them only where the user asked for it."""
    shutil.rmtree(plan.out / GONE, ignore_errors=True)
    for stray in plan.out.glob(f".{RUN}.*.tmp"):
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
    """What `run.json` holds: the recipe as resolved, versions, the stages, and once the run is finished, of each rows,
    bytes, counters, seconds and the digest of its manifest."""
    costs = stage_costs(plan.out) if manifests else {}
    done = {
        m.stage: {
            "rows": m.rows.model_dump(),
            "rules": m.rules,
            "counters": m.counters,
            "bytes": m.kept_bytes,
            "manifest": sha256_file(plan.out / m.stage / MANIFEST),
            **costs.get(m.stage, {}),
        }
        for m in manifests
    }
    return {
        "finished": bool(manifests),
        "recipe": {
            **plan.recipe.settings.model_dump(),
            "name": plan.recipe.name,
            "path": str(plan.recipe.path),
            "file": place_of(plan.recipe, plan.out),
            "limit": plan.limit,
            "stages": [{"use": p.use.ref, **p.settings} for p in plan.stages],
        },
        "versions": {name: version for name in ("gristmill", *LIBRARIES) if (version := library_version(name))},
        "stages": [{"stage": p.folder, "fingerprint": p.fingerprint, **done.get(p.folder, {})} for p in plan.stages],
    }


def stage_costs(out: Path) -> dict[str, dict[str, float]]:
    """Seconds, bytes in and peak memory of each stage's last run, from the events; a line that is none is left out."""
    names = ("seconds", "cpu_seconds", "bytes_in", "peak")
    costs: dict[str, dict[str, float]] = {}
    path = out / "events.jsonl"
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            event = json.loads(line)
            if event["event"] == "StageDone":
                costs[str(event["stage"])] = {name: float(event[name]) for name in names}
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return costs
