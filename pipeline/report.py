"""A run as one page to look at: the funnel, why documents went, what was bad, what stages tell, how training went.

Reads manifests, `highlights.json`, `metrics.jsonl`, and the first file of each stage's drops and all of its quarantine;
writes nothing. The page is self-contained: no script, nothing fetched, charts in inline SVG; whatever came from a
document is escaped. Examples are a file's first rows, not a sample: that costs one row group however large the run is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.quarantine import faults
from pipeline.queries import Found, broken_rule, funnel, highlights, stages_found, tokens_line
from pipeline.terminal import printable

EXAMPLES = 3
EXAMPLE_CHARACTERS = 400
BINS = 240
"""Points of a curve: each is the mean of the steps that fall into it."""
WIDTH, HEIGHT = 720, 200


def report(out: Path) -> str:
    """A run's page as HTML. Raises QueryError where there is no run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows, _ = funnel(out)
    found = stages_found(out)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        name=out.resolve().name,
        funnel=rows,
        widest=max((row["read"] for row in rows), default=0),
        stages=[_stage(out / name, stage) for name, stage in found.items()],
        highlights=highlights(out),
        trainings=[_training(path) for name in found if (path := out / name / "metrics.jsonl").exists()],
        width=WIDTH,
        height=HEIGHT,
    )


def _stage(folder: Path, stage: Found) -> dict[str, Any]:
    """What a stage took away and changed: rules with counts, examples of drops, what is in quarantine, counters."""
    drops = stage.files.get("drops", ())
    bad = faults(folder, stage.files.get("quarantine", ()))
    rules, counters = (stage.manifest.rules, stage.manifest.counters) if stage.manifest else ({}, {})
    return {
        "name": f"{stage.folder} (stopped)" if stage.stopped else stage.folder,
        "rules": sorted(rules.items(), key=lambda item: (-item[1], item[0])),
        "most": max(rules.values(), default=1),
        "examples": _examples(folder / drops[0]) if drops else [],
        "reasons": bad.reasons.most_common(),
        "bad": [printable(text) for text in bad.first],
        "counters": sorted(counters.items()),
        "tokens": tokens_line(counters),
    }


def _examples(path: Path) -> list[dict[str, Any]]:
    """A few dropped documents, each the first to go by its rule."""
    with pq.ParquetFile(path) as file:
        rows = file.read_row_group(0, columns=["id", "rule", "broken", "text", "duplicate_of", "similarity"])
    chosen: dict[str, dict[str, Any]] = {}
    for place, rule in enumerate(rows["rule"].to_pylist()):
        if rule not in chosen and len(chosen) < EXAMPLES:
            row = rows.slice(place, 1).to_pylist()[0]
            text = row["text"]
            cut = f"{text[:EXAMPLE_CHARACTERS]} …" if len(text) > EXAMPLE_CHARACTERS else text
            told = [broken_rule(one) for one in row["broken"] if one["rule"]]
            chosen[rule] = {**row, "id": printable(row["id"]), "text": printable(cut), "told": told}
    return list(chosen.values())


def _training(path: Path) -> dict[str, Any]:
    """The curves of one training: loss by step, and bits per byte where it was measured."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if math.isfinite(line["loss"])]
    scores = [(line["step"], line["bits_per_byte"][""]) for line in lines if "bits_per_byte" in line]
    curves = {"loss, nats per token": losses, "bits per byte of held-out text": scores}
    last = lines[-1] if lines else {}
    return {
        "stage": path.parent.name,
        "facts": {key: last[key] for key in ("steps", "tokens", "tokens_per_second", "mfu", "memory") if key in last},
        "charts": [_chart(title, points) for title, points in curves.items() if len(points) > 1],
    }


def _chart(title: str, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A curve as the points of an SVG polyline, thinned to `BINS`, and the numbers at the ends of its axes."""
    first, last = points[0][0], points[-1][0]
    bins: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        bins.setdefault(BINS * (step - first) // (last - first + 1), []).append((step, value))
    means = [tuple(sum(column) / len(part) for column in zip(*part, strict=True)) for part in bins.values()]
    low, high = min(value for _, value in means), max(value for _, value in means)
    across, up = WIDTH / max(last - first, 1), HEIGHT / ((high - low) or 1)
    line = " ".join(f"{(step - first) * across:.1f},{HEIGHT - (value - low) * up:.1f}" for step, value in means)
    return {"title": title, "line": line, "low": low, "high": high, "first": first, "last": last, "end": points[-1][1]}
