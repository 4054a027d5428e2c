"""A recipe → ordered, fingerprinted stages: each done already, or why not.

Reads the recipe, the inputs (names, sizes, sha256), the manifests in the run's folder and the sizes of the files that
they name; writes only `inputs.json`, a cache of digests. The one trade-off: a changed output of the same size is found
by `verify`, which reads it, and not by a plan, which does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, RecipeError, Use
from pipeline.digests import Digests
from pipeline.identity import Identity, code_of, libraries_of, settings_of
from pipeline.shards import MANIFEST, RUN, Damaged, Manifest, read_manifest
from pipeline.stage import Each, Source, Stage, resolve

ALONE_BYTES = 128 << 20


@dataclass(frozen=True)
class Planned:
    """A stage in its place: its folder, its identity, the folder it reads, where its artifacts are, and why it must
    run (None: done). forced: it, or a stage that it depends on, is run again on demand. repairs: the manifest of the
    same identity whose files are damaged, to be made again. fused: it runs within the next stage's tasks and writes no
    shards."""

    use: Use
    folder: str
    identity: Identity
    parent: str | None
    artifacts: Mapping[str, str]
    why: str | None
    forced: bool = False
    repairs: Manifest | None = None
    sources: Sequence[Source] = field(default_factory=list)
    fused: bool = False

    @property
    def stage(self) -> Stage:
        """The stage object."""
        return self.use.stage

    @property
    def settings(self) -> dict[str, Any]:
        """The stage's settings as plain data, defaults too: what a worker makes the same stage of."""
        return self.identity.settings

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the stage's identity."""
        return self.identity.fingerprint


@dataclass(frozen=True)
class Plan:
    """What a run will do. removes: finished stages of another recipe, by folder, that stand in its way."""

    recipe: Recipe
    out: Path
    limit: int | None
    stages: tuple[Planned, ...]
    removes: tuple[str, ...] = ()


def make_plan(recipe: Recipe, out: Path, limit: int | None = None, force: str | None = None) -> Plan:
    """Plans a run into `out`. Raises RecipeError where a stage's input has nothing in it or `force` names no stage."""
    names = [use.name for use in recipe.uses]
    if force is not None and force not in names:
        raise RecipeError([f"--force {force}: no such stage in this recipe; its stages are {', '.join(names)}"])
    stages: list[Planned] = []
    digests = Digests(out / "inputs.json")
    try:
        for k, use in enumerate(recipe.uses):
            stages.append(_planned(recipe, out, limit, force, stages, k, use, digests))
    finally:
        digests.save()
    if recipe.settings.intermediates == "fuse":
        stages = _with_fused(out, stages)
    planned = tuple(_with_shards(out, stages))
    return Plan(recipe, out, limit, planned, _removes(recipe, out, planned))


def plan_rows(recipe: Recipe, out: Path) -> Plan:
    """Plans a run as far as its packed rows, every stage's shards kept. Raises RecipeError where it packs none."""
    uses = tuple(use for use in recipe.uses if use.stage.reads != "rows")
    if not any(use.stage.gives == "rows" for use in uses):
        raise RecipeError([f"{recipe.path}: no stage packs rows; it needs a `pack` stage"])
    settings = recipe.settings.model_copy(update={"intermediates": "keep"})
    return make_plan(replace(recipe, uses=uses, settings=settings), out)


def _removes(recipe: Recipe, out: Path, stages: Sequence[Planned]) -> tuple[str, ...]:
    """Finished stages in the folder that the run would remove, and not make again for the recipe that made them."""
    planned = {p.folder: p for p in stages}
    foreign = _owner(out) not in (None, place_of(recipe, out))
    found = []
    for path in sorted(out.glob(f"*/{MANIFEST}")):
        p = planned.get(path.parent.name)
        if p is None or (foreign and p.why is not None and p.repairs is None):
            found.append(path.parent.name)
    return tuple(found)


def place_of(recipe: Recipe, out: Path) -> str:
    """Where the recipe lies, seen from the run's folder: the same when both are moved together."""
    return os.path.relpath(recipe.path.resolve(), out.resolve())


def _owner(out: Path) -> str | None:
    """The recipe that the run's folder belongs to; None where nothing says so."""
    try:
        return str(json.loads((out / RUN).read_bytes())["recipe"]["file"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def _with_fused(out: Path, stages: Sequence[Planned]) -> list[Planned]:
    """The same plan with its stages fused where they can be: one that is done runs again with those in front of it."""
    planned = list(stages)
    for k in range(len(planned) - 1):
        p, q = planned[k], planned[k + 1]
        if q.parent == p.folder and _fusable(p) and _fusable(q):
            planned[k] = replace(p, fused=True)
            if p.why is not None and q.why is None:
                again = read_manifest(out / q.folder)
                planned[k + 1] = replace(q, why=f"{p.folder} runs again", repairs=again)
    return planned


def _fusable(planned: Planned) -> bool:
    """Whether a stage looks at one document at a time: a single `Each` over documents, or over sources of which none
    is very large, which gives documents."""
    if planned.stage.reads == "rows" or planned.stage.gives != "documents" or not _even(planned.sources):
        return False
    steps = planned.stage.steps()
    return len(steps) == 1 and isinstance(steps[0], Each) and steps[0].beside is None


def _even(sources: Sequence[Source]) -> bool:
    """Whether no source is so large that the others are done long before it: the one worker that reads it would do all
    the fused stages' work on it alone, where shards that are written are shared by all."""
    most = max(ALONE_BYTES, sum(source.size for source in sources) // 16)
    return all(source.size <= most and (source.size or not source.digest) for source in sources)


def _with_shards(out: Path, stages: Sequence[Planned]) -> list[Planned]:
    """The same plan, but a stage whose shards are wanted and were fused away runs again."""
    planned, wanted = list(stages), set[str | None]()
    for k in range(len(planned) - 1, -1, -1):
        p = planned[k]
        old = read_manifest(out / p.folder) if p.why is None else None
        if old is not None and old.fused_bytes is not None and (not p.fused or p.folder in wanted):
            p = planned[k] = replace(p, why="its shards were not kept")
        if p.why is not None:
            wanted.add(p.parent)
    return planned


def _planned(
    recipe: Recipe,
    out: Path,
    limit: int | None,
    force: str | None,
    before: list[Planned],
    k: int,
    use: Use,
    digests: Digests,
) -> Planned:
    stage, folder = use.stage, f"{k + 1:02}-{use.name}"
    parent = next((p for p in reversed(before) if p.stage.gives == stage.reads), None)
    sources = stage.sources(recipe.folders) if stage.reads == "sources" else []
    if stage.reads == "sources" and not sources:
        raise RecipeError([f"{recipe.path}: `{use.name}` found nothing to read in its inputs"])
    paths, prints = _artifacts(recipe, before, stage, digests)
    identity = Identity(
        use=use.ref,
        code=code_of(stage),
        version=stage.version,
        settings=settings_of(stage),
        libraries=libraries_of(stage),
        seed=recipe.settings.seed,
        parent=parent.fingerprint if parent else None,
        artifacts=prints,
        sources=digests.of_sources(sources),
        limit=limit if sources else None,
    )
    planned = Planned(use, folder, identity, parent.folder if parent else None, paths, None, sources=sources)
    makers = [p for p in before if p is parent or p.folder in paths.values()]
    forced = next((p.folder for p in makers if p.forced), None)
    if force == use.name or forced is not None:
        return replace(planned, why=f"{forced} runs again" if forced else "forced", forced=True)
    return _judged(planned, out / folder, makers)


def _judged(planned: Planned, folder: Path, makers: Sequence[Planned]) -> Planned:
    """The same with the reason why it must run, if it must. makers: the stages that it depends on."""
    try:
        old = read_manifest(folder)
    except Damaged as damaged:
        return replace(planned, why=str(damaged))
    if old is None:
        return replace(planned, why="not done yet")
    if old.fingerprint != planned.fingerprint:
        return replace(planned, why=_changes(planned, old, makers))
    fault = next((fault for file in old.all_files() if (fault := file.fault(folder))), None)
    return planned if fault is None else replace(planned, why=fault, repairs=old)


def _changes(planned: Planned, old: Manifest, makers: Sequence[Planned]) -> str:
    """Why the manifest's fingerprint is not the planned one: a stage in front that changed, else what changed here."""
    again = next((p.folder for p in makers if p.why is not None), None)
    alone = [one.model_copy(update={"parent": None, "artifacts": {}}) for one in (planned.identity, old.identity)]
    if again is not None and not alone[0].changes(alone[1]):
        return f"{again} runs again"
    return (
        planned.identity.changes(old.identity)[:200]
        or f"{MANIFEST} does not carry the fingerprint of what it describes"
    )


def _artifacts(
    recipe: Recipe, before: list[Planned], stage: Stage, digests: Digests
) -> tuple[dict[str, str], dict[str, str]]:
    """Where each needed artifact is (a stage's folder in this run, or a path of the recipe) and its identity."""
    paths, prints = {}, {}
    for name in stage.needs:
        given = getattr(stage, name, None)
        if given is None:
            maker = next(p for p in reversed(before) if p.use.name == name)
            paths[name], prints[name] = maker.folder, maker.fingerprint
            continue
        path = resolve(str(given), recipe.folders)
        found = digests.of_artifact(path)
        if found is None:
            raise RecipeError([f"{recipe.path}: `{name}: {given}`: no such file or folder"])
        paths[name], prints[name] = str(path.resolve()), found
    return paths, prints
