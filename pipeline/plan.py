"""A recipe → ordered, fingerprinted stages: each done already, or why not.

Reads the recipe, the inputs (names, sizes, sha256) and the manifests in the run's folder; writes only `inputs.json`, a
cache of digests by path, size and time of change. A file that changes and keeps all three is not seen to have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, RecipeError, Use
from pipeline.loading import is_own
from pipeline.shards import Manifest, read_manifest, sha256_file, write_json
from pipeline.stage import Each, Source, Stage, resolve

FORMAT = 1
ALONE_BYTES = 128 << 20


@dataclass(frozen=True)
class Planned:
    """A stage in its place: its folder, fingerprint, the folder it reads, its artifacts, and why it must run (None:
    done). fused: it runs within the next stage's tasks and writes no shards."""

    use: Use
    folder: str
    fingerprint: str
    parent: str | None
    artifacts: Mapping[str, str]
    artifact_prints: Mapping[str, str]
    why: str | None
    sources: Sequence[Source] = field(default_factory=list)
    fused: bool = False

    @property
    def stage(self) -> Stage:
        """The stage object."""
        return self.use.stage

    @property
    def settings(self) -> dict[str, Any]:
        """The stage's settings as plain data, defaults too."""
        return self.stage.model_dump(mode="json")

    @property
    def given(self) -> dict[str, Any]:
        """The settings that the recipe gives: what a worker makes the same stage of, unset fields still unset."""
        return self.stage.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    recipe: Recipe
    out: Path
    limit: int | None
    stages: tuple[Planned, ...]


def make_plan(recipe: Recipe, out: Path, limit: int | None = None, force: str | None = None) -> Plan:
    """Plans a run into `out`. Raises RecipeError where a stage's input has nothing in it or `force` names no stage."""
    names = [use.name for use in recipe.uses]
    if force is not None and force not in names:
        raise RecipeError([f"--force {force}: no such stage in this recipe; its stages are {', '.join(names)}"])
    stages: list[Planned] = []
    for k, use in enumerate(recipe.uses):
        stages.append(_planned(recipe, out, limit, force, stages, k, use))
    if recipe.settings.intermediates == "fuse":
        stages = [
            replace(p, fused=q is not None and q.parent == p.folder and _fusable(p) and _fusable(q))
            for p, q in zip(stages, [*stages[1:], None], strict=True)
        ]
    return Plan(recipe, out, limit, tuple(_with_shards(out, stages)))


def plan_rows(recipe: Recipe, out: Path) -> Plan:
    """Plans a run as far as its packed rows, every stage's shards kept. Raises RecipeError where it packs none."""
    uses = tuple(use for use in recipe.uses if use.stage.reads != "rows")
    if not any(use.stage.gives == "rows" for use in uses):
        raise RecipeError([f"{recipe.path}: no stage packs rows; it needs a `pack` stage"])
    settings = recipe.settings.model_copy(update={"intermediates": "keep"})
    return make_plan(replace(recipe, uses=uses, settings=settings), out)


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
        old = read_manifest(out / p.folder)
        if p.why is None and old is not None and old.fused_bytes is not None and (not p.fused or p.folder in wanted):
            p = planned[k] = replace(p, why="its shards were not kept")
        if p.why is not None:
            wanted.add(p.parent)
    return planned


def _planned(
    recipe: Recipe, out: Path, limit: int | None, force: str | None, before: list[Planned], k: int, use: Use
) -> Planned:
    stage, folder = use.stage, f"{k + 1:02}-{use.name}"
    parent = next((p for p in reversed(before) if p.stage.gives == stage.reads), None)
    sources = stage.sources(recipe.folders) if stage.reads == "sources" else []
    if stage.reads == "sources" and not sources:
        raise RecipeError([f"{recipe.path}: `{use.name}` found nothing to read in its inputs"])
    paths, prints = _artifacts(recipe, before, stage)
    identity = {
        "format": FORMAT,
        "use": use.ref,
        "code": _code(use),
        "version": stage.version,
        "settings": stage.model_dump(mode="json"),
        "seed": recipe.settings.seed,
        "parent": parent.fingerprint if parent else None,
        "artifacts": prints,
        "sources": _identities(sources, out),
        "limit": limit if sources else None,
    }
    print_ = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    why = _why(read_manifest(out / folder), identity, print_, parent, forced=force == use.name)
    return Planned(use, folder, print_, parent.folder if parent else None, paths, prints, why, sources)


def _artifacts(recipe: Recipe, before: list[Planned], stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """Where each needed artifact is (a stage's folder in this run, or a path of the recipe) and its identity."""
    paths, prints = {}, {}
    for name in stage.needs:
        given = getattr(stage, name, None)
        if given is None:
            maker = next(p for p in reversed(before) if p.use.name == name)
            paths[name], prints[name] = maker.folder, maker.fingerprint
            continue
        path = resolve(str(given), recipe.folders)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        if not files:
            raise RecipeError([f"{recipe.path}: `{name}: {given}`: no such file or folder"])
        paths[name] = str(path.resolve())
        digests = [(f.name, sha256_file(f)) for f in files if f.suffix in (".json", ".tiktoken")] or str(path)
        prints[name] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return paths, prints


def _code(use: Use) -> str | None:
    """The digest of a user's own module, so that an edit of it is seen; ours carry a version."""
    if is_own(use.ref):
        return None
    import inspect

    return sha256_file(Path(inspect.getfile(type(use.stage))))


def _identities(sources: Sequence[Source], out: Path) -> list[dict[str, Any]]:
    """Sources without where they lie: name, range, size, digest."""
    cache = _Digests(out / "inputs.json")
    found = []
    for source in sources:
        item = asdict(source) | {"digest": source.digest or cache.of(Path(source.path))}
        item.pop("path")
        found.append(item)
    cache.save()
    return found


class _Digests:
    """sha256 of input files, remembered by path, size and time of change."""

    def __init__(self, path: Path) -> None:
        self.path, self.changed = path, False
        self.known: dict[str, list[Any]] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, path: Path) -> str:
        """Hex sha256 of the file."""
        stat = path.stat()
        key, mark = str(path), [stat.st_size, stat.st_mtime_ns]
        if self.known.get(key, [])[:2] != mark:
            self.known[key] = [*mark, sha256_file(path)]
            self.changed = True
        return str(self.known[key][2])

    def save(self) -> None:
        """Keeps what is new."""
        if self.changed:
            write_json(self.path, self.known)


def _why(
    old: Manifest | None, identity: Mapping[str, Any], print_: str, parent: Planned | None, *, forced: bool
) -> str | None:
    """Why a stage has to run, in a few words; None where its manifest carries this fingerprint."""
    if forced:
        return "forced"
    if old is None:
        return "not done yet"
    if parent is not None and parent.why is not None:
        return f"{parent.folder} runs again"
    if old.fingerprint == print_:
        return None
    if old.use != identity["use"]:
        return f"was {old.use}"
    new = identity["settings"]
    changed = [f"{k} {old.settings.get(k)!r} → {new.get(k)!r}" for k in new if old.settings.get(k) != new[k]]
    return "; ".join(changed)[:200] if changed else "its input, seed or version changed"
