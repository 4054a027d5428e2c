"""Questions asked of a run: what is there, what went, and why.

Reads manifests and shards, writes nothing. `explain` reads the id, source and url columns of every stage: about 50 MB
of text a millisecond's worth of ids, no index kept. Text is hostile: what goes to a terminal passes through
`printable`.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline.config import find_stage, stage_refs
from pipeline.names import printable, shown_name, utf8
from pipeline.plan import Plan
from pipeline.runner import stage_costs
from pipeline.shards import MANIFEST, Damaged, Manifest, read_batches, read_manifest

SHOWN = 600


class QueryError(Exception):
    """A question that cannot be answered: what is wrong with it."""


def manifests(out: Path) -> dict[str, Manifest]:
    """A run's finished stages, in order, by folder name. Raises QueryError where a manifest is damaged."""
    folders = sorted(p.parent for p in out.glob(f"*/{MANIFEST}"))
    try:
        return {folder.name: manifest for folder in folders if (manifest := read_manifest(folder)) is not None}
    except Damaged as damaged:
        raise QueryError(f"{out}/{damaged}: run the recipe again to make that stage again") from None


def _stage_folder(out: Path, stage: str) -> tuple[str, Manifest]:
    found = manifests(out)
    if not found:
        raise QueryError(f"{out}: no finished stage here; is it a run's folder?")
    which = [name for name in found if stage in (name, name.partition("-")[2])]
    if len(which) != 1:
        raise QueryError(f"no single stage {stage!r} in {out}; its stages are {', '.join(found)}")
    return which[0], found[which[0]]


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with Gristmill, by name."""
    here = Path(__file__).resolve().parent
    folders = [here / "configs", here.parent / "configs"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def named(recipe: str, name: str) -> str:
    """A recipe's text with another `name`, its comment gone with the old one."""
    return re.sub(r"(?m)^name:.*$", lambda _: f"name: {json.dumps(name, ensure_ascii=False)}", recipe, count=1)


def model_folder(run: Path) -> Path:
    """Where the model of a run, or of a training's own folder, is. Raises QueryError where there is none."""
    for folder in (*(run / name for name in reversed(manifests(run))), run):
        if (folder / "model" / "config.json").exists():
            return folder / "model"
    raise QueryError(f"{run}: no trained model here; a recipe needs a `train` stage for it")


def plan_table(plan: Plan) -> tuple[list[dict[str, Any]], str]:
    """The plan as rows and as text: each stage, whether it is done, or why it must run."""
    rows: list[dict[str, Any]] = [
        {
            "stage": p.folder,
            "reads": p.parent or f"{len(p.sources)} source{'' if len(p.sources) == 1 else 's'}",
            "run": p.why is not None,
            "why": p.why or "done",
            "fused": p.fused and p.why is not None,
            "remarks": p.stage.remarks(plan.recipe.folders),
        }
        for p in plan.stages
    ]
    size = sum(s.size for p in plan.stages for s in p.sources if s.start == 0)
    lines = [
        f"{r['stage']:<18} reads {r['reads']:<16} {'run: ' if r['run'] else ''}{r['why']}"
        f"{', in one pass with the next' if r['fused'] else ''}"
        for r in rows
    ]
    if plan.removes:
        lines.append(f"in the way: {', '.join(plan.removes)}, finished by another recipe; only --replace removes them")
    lines += [remark for row in rows for remark in row["remarks"]]
    lines.append(f"input {size / 1e6:,.1f} MB as stored; output to {shown_name(plan.out)}")
    return rows, "\n".join(lines)


def funnel(out: Path) -> tuple[list[dict[str, Any]], str]:
    """Per stage: rows read, kept, dropped, quarantined, text bytes and seconds; as rows and as a table."""
    found, costs = manifests(out), stage_costs(out)
    if not found:
        raise QueryError(f"{out}: no finished stage here; is it a run's folder?")
    rows = []
    for name, manifest in found.items():
        size = manifest.kept_bytes
        cost = costs.get(name, {})
        rows.append(
            {
                "stage": name,
                **manifest.rows.model_dump(),
                "bytes": size,
                "seconds": cost.get("seconds"),
                "rules": manifest.rules,
                "remarks": manifest.remarks,
            }
        )
    head = f"{'stage':<18}{'read':>10}{'kept':>10}{'dropped':>9}{'bad':>6}{'MB out':>9}{'MB/s in':>9}{'s':>8}"
    lines = [head]
    for row in rows:
        seconds = row["seconds"] or 0.0
        speed = costs.get(row["stage"], {}).get("bytes_in", 0) / max(seconds, 1e-3) / 1e6
        lines.append(
            f"{row['stage']:<18}{row['read']:>10,}{row['kept']:>10,}{row['dropped']:>9,}{row['quarantined']:>6,}"
            f"{row['bytes'] / 1e6:>9.2f}{speed:>9.2f}{seconds:>8.2f}"
        )
    lines += [f"{row['stage']}: {printable(remark)}" for row in rows for remark in row["remarks"]]
    return rows, "\n".join(lines)


def highlights(out: Path) -> dict[str, str]:
    """What stages have to say for themselves: the `highlights.json` of their folders, label → text, escaped."""
    told: dict[str, str] = {}
    for name in manifests(out):
        path = out / name / "highlights.json"
        if path.exists():
            told |= {f"{name}: {label}": printable(text) for label, text in json.loads(path.read_text("utf-8")).items()}
    return told


def _kept_rows(out: Path, stage: str) -> tuple[str, Manifest]:
    """A stage's folder and manifest. Raises QueryError where it was fused and has no rows to show."""
    folder, manifest = _stage_folder(out, stage)
    if manifest.fused_bytes is not None:
        raise QueryError(
            f"{folder} was fused into the stage after it and wrote no rows; its drops are there (sample --dropped), "
            "and a run with --set intermediates=keep writes its rows too"
        )
    return folder, manifest


def first_rows(out: Path, stage: str, n: int) -> list[dict[str, Any]]:
    """The first n rows of a stage's shards; of an artifact, its files and their sizes."""
    folder, manifest = _kept_rows(out, stage)
    rows: list[dict[str, Any]] = []
    for name in manifest.shards:
        for batch in read_batches(out / folder / name):
            rows += batch.slice(0, n - len(rows)).to_pylist()
            if len(rows) >= n:
                return rows
    return rows or [{"file": f.name, "bytes": f.bytes} for f in manifest.files.get("artifact", [])]


def sample_rows(
    out: Path, stage: str, n: int, *, dropped: bool = False, rule: str | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """n rows chosen by the hash of their id and the seed, of what a stage kept or dropped; memory is n rows."""
    folder, manifest = _stage_folder(out, stage) if dropped else _kept_rows(out, stage)
    best: list[tuple[int, int, dict[str, Any]]] = []
    count = 0
    for file in manifest.files.get("drops" if dropped else "rows", []):
        for batch in read_batches(out / folder / file.name):
            for row in batch.to_pylist():
                if rule is not None and rule not in {row["rule"], *(b["rule"] for b in row["broken"])}:
                    continue
                count += 1
                key = xxhash.xxh3_64_intdigest(str(row.get("id", count)).encode(), seed=seed)
                heapq.heappush(best, (-key, count, row))
                if len(best) > n:
                    heapq.heappop(best)
    if rule is not None and not best:
        raise QueryError(f"{folder} dropped nothing by {rule!r}; its rules: {', '.join(manifest.rules) or 'none'}")
    return [row for *_, row in sorted(best, key=lambda item: -item[0])]


def render_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as text for a terminal, long values cut."""
    blocks = []
    for row in rows:
        lines = [f"{name}: {_short(value)}" for name, value in row.items() if value is not None]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text):,} characters)")


def explain_document(out: Path, wanted: str) -> list[dict[str, Any]]:
    """Every stage that a document met, in order: kept, dropped (with every rule, score and limit), quarantined or
    packed.

    wanted: its id, its source or its url. Raises QueryError where no stage has seen it.
    """
    wanted = utf8(wanted)
    found = [(name, m, list(_met(out / name, name, m, wanted))) for name, m in manifests(out).items()]
    last = max((k for k, (_, _, met) in enumerate(found) if met), default=-1)
    steps: list[dict[str, Any]] = []
    for name, manifest, met in found[: last + 1]:
        passed = {"stage": name, "outcome": "passed", "fused": True}
        steps += met or ([passed] if manifest.fused_bytes is not None else [])
    if not steps:
        thin = [name for name, manifest, _ in found if manifest.fused_bytes is not None]
        hint = f"; {', '.join(thin)} fused: what they dropped has no url to be found by" if thin else ""
        raise QueryError(f"no document {wanted!r} in {out}: give its id, source or url{hint}")
    return steps


def _met(folder: Path, name: str, manifest: Manifest, wanted: str) -> Iterable[dict[str, Any]]:
    for stream, files in manifest.files.items():
        for file in files if stream != "artifact" else []:
            path = folder / file.name
            names = pq.read_schema(path).names
            if "doc_ids" in names:
                yield from _packed(path, name, stream, wanted)
            elif stream in ("rows", "drops", "quarantine"):
                for row in _rows_of(path, names, wanted):
                    yield {"stage": name, **_told(stream, row)}
            elif "id" in names:
                for row in _rows_of(path, names, wanted):
                    yield {"stage": name, "outcome": stream, **{k: v for k, v in row.items() if k != "text"}}


def _rows_of(path: Path, names: Sequence[str], wanted: str) -> list[dict[str, Any]]:
    keys = [key for key in ("id", "source", "url") if key in names]
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=keys)
            mask = pa.array([False] * len(table))
            for key in keys:
                mask = pc.or_(mask, pc.fill_null(pc.equal(table[key], wanted), False))
            where = pc.indices_nonzero(mask)
            if len(where):
                found += file.read_row_group(group).take(where).to_pylist()
    return found


def _told(stream: str, row: dict[str, Any]) -> dict[str, Any]:
    if stream == "rows":
        scores = {key: value for key, value in row.items() if isinstance(value, dict)}
        return {"outcome": "kept", "id": row["id"], "source": row["source"], "lang": row.get("lang"), "scores": scores}
    if stream == "drops":
        told = {"outcome": "dropped", "id": row["id"], "rule": row["rule"], "broken": row["broken"]}
        if row["duplicate_of"] is not None:
            told |= {"duplicate_of": row["duplicate_of"], "similarity": row["similarity"]}
        return told
    head = (row["head"] or b"")[:80].decode("utf-8", "backslashreplace")
    return {
        "outcome": "quarantined",
        "id": row["id"],
        "source": row["source"],
        "reason": row["reason"],
        "detail": row["detail"],
        "head": head,
    }


def _packed(path: Path, stage: str, stream: str, wanted: str) -> Iterable[dict[str, Any]]:
    """The packed rows that hold tokens of a document."""
    row = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=["doc_ids", "doc_offsets", "seq_lengths"]):
        parents = pc.list_parent_indices(batch["doc_ids"])
        hits = pc.indices_nonzero(pc.equal(batch["doc_ids"].flatten(), wanted))
        for k in hits.to_pylist():
            yield {
                "stage": stage,
                "outcome": "packed" if stream == "rows" else stream,
                "file": path.name,
                "row": row + parents[k].as_py(),
                "offset": batch["doc_offsets"].flatten()[k].as_py(),
                "tokens": batch["seq_lengths"].flatten()[k].as_py(),
            }
        row += len(batch)


def render_explanation(wanted: str, steps: Sequence[dict[str, Any]]) -> str:
    """The steps of `explain_document` as text: a line a stage with what is new there, and one a broken rule."""
    lines = [printable(wanted)]
    known: dict[str, Any] = {}
    for step in steps:
        facts = {k: v for k, v in step.items() if k not in ("stage", "outcome", "broken", "scores") and v is not None}
        new = {k: v for k, v in facts.items() if known.get(k) != v}
        known |= facts
        told = ", ".join(f"{key} {_inline(value)}" for key, value in new.items())
        lines.append(f"  {step['stage']:<18} {step['outcome']}{': ' if told else ''}{told}")
        broken = [b for b in step.get("broken", []) if b["rule"]]
        lines += [f"    broke {broken_rule(b)}" for b in broken]
        for column, scores in step.get("scores", {}).items():
            if known.get(column) != scores:
                known[column] = scores
                lines.append(f"    {column}: {_inline(scores)}")
    return "\n".join(lines)


def broken_rule(broken: Mapping[str, Any]) -> str:
    """A broken rule in words: its name, and its score and limit where they are known."""
    numbers = {"": broken["score"], "limit ": broken["limit"]}
    told = ", ".join(f"{name}{value:.4g}" for name, value in numbers.items() if value is not None)
    return printable(f"{broken['rule']}: {told}" if told else broken["rule"])


def _inline(value: Any) -> str:
    """A value on one line: four digits of a float, `name value` of a struct's fields that are known."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(one)}" for key, one in value.items() if one is not None)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return printable(" ".join(text.splitlines()))


def list_stages() -> tuple[list[dict[str, Any]], str]:
    """Every stage with the first line of its docstring."""
    rows = [{"use": name, "summary": (find_stage(name)[1].__doc__ or "").partition("\n")[0]} for name in stage_refs()]
    return rows, "\n".join(f"{row['use']:<14} {row['summary']}" for row in rows)


def describe_stage(name: str) -> tuple[dict[str, Any], str]:
    """A stage's settings: name, type, default and meaning."""
    try:
        _, kind = find_stage(name, [Path.cwd()])
    except LookupError as error:
        raise QueryError(str(error.args[0])) from None
    lines = [kind.__doc__ or name, ""]
    rows = {}
    for field, info in kind.model_fields.items():
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        type_ = str(info.annotation).replace("typing.", "")
        rows[field] = {"default": default, "description": info.description or ""}
        lines.append(f"  {field}: {info.description or ''} [{default}] ({type_.removeprefix('<class ').strip('>')})")
    return {"use": name, "settings": rows}, "\n".join(lines)
