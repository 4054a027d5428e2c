"""Questions asked of a run: what is there, what went, and why.

Reads manifests and shards, writes nothing; of a stage that was stopped, the files that it has committed so far. Text is
hostile: what goes to a terminal passes through `printable`. The one trade-off: a sample reads a stage's whole stream.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from pipeline import given_up
from pipeline.config import find_stage
from pipeline.loading import stage_refs
from pipeline.names import shown_name
from pipeline.plan import Plan
from pipeline.quarantine import faults
from pipeline.runner import stage_costs
from pipeline.seeds import number
from pipeline.shards import MANIFEST, Damaged, Manifest, read_batches, read_manifest
from pipeline.terminal import printable

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


@dataclass(frozen=True)
class Found:
    """A stage's files, as its manifest says or, where it was stopped and has none, as they lie there. files: names
    below the folder, by stream."""

    folder: str
    files: Mapping[str, Sequence[str]]
    manifest: Manifest | None = None

    @property
    def fused(self) -> bool:
        """Whether it wrote no rows of its own."""
        return self.manifest is not None and self.manifest.fused_bytes is not None

    @property
    def stopped(self) -> bool:
        """Whether it is not finished."""
        return self.manifest is None


def stages_found(out: Path) -> dict[str, Found]:
    """All stages of a run that have written anything, by folder name. Raises QueryError where a manifest is damaged."""
    done = {
        name: Found(name, {k: [f.name for f in v] for k, v in m.files.items()}, m) for name, m in manifests(out).items()
    }
    for folder in sorted(path for path in out.glob("[0-9]*-*") if path.is_dir() and path.name not in done):
        streams = {"rows": folder.glob("part-*.parquet")}
        streams |= {name: folder.glob(f"{name}/*.parquet") for name in ("drops", "quarantine")}
        files = {name: sorted(p.relative_to(folder).as_posix() for p in paths) for name, paths in streams.items()}
        if any(files.values()):
            done[folder.name] = Found(folder.name, files)
    return dict(sorted(done.items()))


def _stage(out: Path, stage: str) -> Found:
    found = stages_found(out)
    if not found:
        raise QueryError(f"{out}: no stage has written anything here; is it a run's folder?")
    which = [name for name in found if stage in (name, name.partition("-")[2])]
    if len(which) != 1:
        raise QueryError(f"no single stage {stage!r} in {out}; its stages are {', '.join(found)}")
    return found[which[0]]


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
    """Per stage: rows read, kept, dropped, quarantined, text bytes, tokens of packed rows, wall and CPU seconds; as
    rows and as a table, with what is in quarantine and the files that could not be read to their end. Raises QueryError
    where no stage has written anything."""
    seen, costs = stages_found(out), stage_costs(out)
    if not seen:
        raise QueryError(f"{out}: no stage has written anything here; is it a run's folder?")
    found = {name: stage.manifest for name, stage in seen.items() if stage.manifest is not None}
    rows: list[dict[str, Any]] = []
    for name, manifest in found.items():
        cost = costs.get(name, {})
        rows.append(
            {
                "stage": name,
                **manifest.rows.model_dump(),
                "bytes": manifest.kept_bytes,
                "seconds": cost.get("seconds"),
                "cpu_seconds": cost.get("cpu_seconds"),
                "megabytes_per_second": cost.get("bytes_in", 0) / max(cost.get("seconds", 0), 1e-3) / 1e6,
                "rules": manifest.rules,
                "counters": manifest.counters,
                "remarks": manifest.remarks,
            }
        )
    columns = {"read": 10, "kept": 10, "dropped": 9, "bad": 6, "MB out": 9, "MB/s in": 9, "wall s": 8, "CPU s": 8}
    lines = [f"{'stage':<18}" + "".join(f"{name:>{width}}" for name, width in columns.items())]
    lines += [*(_funnel_line(row) for row in rows)]
    lines += [f"{row['stage']}: {text}" for row in rows if (text := tokens_line(row["counters"]))]
    lines += [f"{row['stage']}: {remark}" for row in rows for remark in row["remarks"]]
    for name, stage in seen.items():
        bad = faults(out / name, stage.files.get("quarantine", ()))
        if stage.stopped or bad.count:
            lines.append(f"{name}: {'stopped, ' if stage.stopped else ''}{bad.line()}")
    for name in (name for name, manifest in found.items() if manifest.parent is None):
        lost = given_up.given_up(out / name, seen[name].files.get("quarantine", ()))
        next(row for row in rows if row["stage"] == name)["given_up"] = [file._asdict() for file in lost]
        lines += given_up.told(lost)
    return rows, printable("\n".join(lines))


def _funnel_line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['stage']:<18}{row['read']:>10,}{row['kept']:>10,}{row['dropped']:>9,}{row['quarantined']:>6,}"
        f"{row['bytes'] / 1e6:>9.2f}{row['megabytes_per_second']:>9.2f}{row['seconds'] or 0:>8.2f}"
        f"{row['cpu_seconds'] or 0:>8.2f}"
    )


def tokens_line(counters: Mapping[str, int]) -> str:
    """Tokens, rows and padding of packed rows in words, by their counters; empty for another stage's counters."""
    if "tokens_packed" not in counters:
        return ""
    names = ("tokens_packed", "rows", "padding_tokens")
    tokens, rows, padding = (counters.get(n, 0) + counters.get(f"{n}_validation", 0) for n in names)
    held = counters.get("tokens_packed_validation", 0)
    return (
        f"{tokens:,} tokens in {rows:,} rows, {held:,} of them held out; "
        f"padding {padding:,} ({padding / max(tokens + padding, 1):.2%})"
    )


def highlights(out: Path) -> dict[str, str]:
    """What stages have to say for themselves: the `highlights.json` of their folders and of the steps that they keep,
    label → text, escaped. Raises QueryError where such a file is damaged."""
    told: dict[str, str] = {}
    paths = [(name, p) for name in manifests(out) for p in sorted((out / name).rglob("highlights.json"))]
    for name, path in paths:
        try:
            notes = json.loads(path.read_text("utf-8"))
            told |= {f"{name}: {label}": printable(str(text)) for label, text in notes.items()}
        except (OSError, ValueError, RecursionError, AttributeError):
            raise QueryError(f"{path} is damaged: remove it, and run the recipe again to make it again") from None
    return told


def first_rows(out: Path, stage: str, n: int) -> list[dict[str, Any]]:
    """The first n rows of a stage's shards; of an artifact, its files and their sizes; of a stage that kept nothing,
    what is in its quarantine."""
    found = _with_rows(_stage(out, stage))
    rows: list[dict[str, Any]] = []
    for name in (*found.files.get("rows", ()), *(found.files.get("quarantine", ()) if found.stopped else ())):
        for batch in read_batches(out / found.folder / name):
            rows += batch.slice(0, n - len(rows)).to_pylist()
            if len(rows) >= n:
                return rows
    artifact = found.files.get("artifact", ())
    return rows or [{"file": name, "bytes": (out / found.folder / name).stat().st_size} for name in artifact]


def _with_rows(found: Found) -> Found:
    """The same. Raises QueryError where the stage was fused and has no rows to show."""
    if found.fused:
        raise QueryError(
            f"{found.folder} was fused into the stage after it and wrote no rows; its drops are there (sample "
            "--dropped), and a run with --set intermediates=keep writes its rows too"
        )
    return found


def sample_rows(
    out: Path, stage: str, n: int, *, stream: str = "rows", rule: str | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """n rows chosen by the hash of their id and the seed, of a stage's `rows`, `drops` or `quarantine`; memory is n
    rows. rule: only drops that broke it, or bad records of that reason."""
    found = _stage(out, stage) if stream != "rows" else _with_rows(_stage(out, stage))
    best: list[tuple[int, int, dict[str, Any]]] = []
    seen: set[str] = set()
    count, order = 0, number("sample.rows", seed)
    for name in found.files.get(stream, ()):
        for batch in read_batches(out / found.folder / name):
            for row in batch.to_pylist():
                rules = {row["rule"], *(b["rule"] for b in row["broken"])} if stream == "drops" else {row.get("reason")}
                seen |= rules - {None}
                if rule is not None and rule not in rules:
                    continue
                count += 1
                key = xxhash.xxh3_64_intdigest(str(row.get("id", count)).encode(), order)
                heapq.heappush(best, (-key, count, row))
                if len(best) > n:
                    heapq.heappop(best)
    if rule is not None and not best:
        raise QueryError(f"{found.folder} has no {stream} by {rule!r}; there are: {', '.join(sorted(seen)) or 'none'}")
    return [row for *_, row in sorted(best, key=lambda item: -item[0])]


def broken_rule(broken: Mapping[str, Any]) -> str:
    """A broken rule in words: its name, and its score and limit where they are known."""
    numbers = {"": broken["score"], "limit ": broken["limit"]}
    told = ", ".join(f"{name}{value:.4g}" for name, value in numbers.items() if value is not None)
    return printable(f"{broken['rule']}: {told}" if told else broken["rule"])


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
