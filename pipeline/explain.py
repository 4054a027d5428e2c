"""A document's whole way: every stage that it met, and why it ended.

Reads the shards and side streams of a run, finished or stopped; writes nothing. The one trade-off: no index is kept, so
the id, source and url columns of every stage are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.names import utf8
from pipeline.queries import Found, QueryError, broken_rule, stages_found
from pipeline.terminal import printable


def explain_document(out: Path, wanted: str) -> list[dict[str, Any]]:
    """Every stage that a document met, in order: kept, dropped (with every rule, score and limit), quarantined or
    packed.

    wanted: its id, its source or its url. Raises QueryError where no stage has seen it.
    """
    wanted = utf8(wanted)
    found = [(stage, list(_met(out, stage, wanted))) for stage in stages_found(out).values()]
    last = max((k for k, (_, met) in enumerate(found) if met), default=-1)
    steps: list[dict[str, Any]] = []
    for stage, met in found[: last + 1]:
        passed = {"stage": stage.folder, "outcome": "passed", "fused": True}
        steps += met or ([passed] if stage.fused else [])
    if not steps:
        thin = [stage.folder for stage, _ in found if stage.fused]
        hint = f"; {', '.join(thin)} fused: what they dropped has no url to be found by" if thin else ""
        raise QueryError(f"no document {wanted!r} in {out}: give its id, source or url{hint}")
    return steps


def _met(out: Path, stage: Found, wanted: str) -> Iterable[dict[str, Any]]:
    for stream, files in stage.files.items():
        for file in files if stream != "artifact" else ():
            path = out / stage.folder / file
            names = pq.read_schema(path).names
            if "doc_ids" in names:
                yield from _packed(path, stage.folder, stream, wanted)
            elif stream in ("rows", "drops", "quarantine"):
                for row in _rows_of(path, names, wanted):
                    yield {"stage": stage.folder, **_told(stream, row)}
            elif "id" in names:
                for row in _rows_of(path, names, wanted):
                    yield {"stage": stage.folder, "outcome": stream, **{k: v for k, v in row.items() if k != "text"}}


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


def _inline(value: Any) -> str:
    """A value on one line: four digits of a float, `name value` of a struct's fields that are known."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(one)}" for key, one in value.items() if one is not None)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return printable(" ".join(text.splitlines()))
