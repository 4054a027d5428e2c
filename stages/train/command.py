"""The trainer's commands on a finished run: train again with other settings, foretell the cost, export.

Reads a run's packed rows, tokenizer and model; `gristmill train` and `gristmill export` call it by name. Under
`torchrun` every process calls `train`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.shards import read_manifest
from pipeline.stage import Task
from stages.encoder import digest
from stages.train import Train


def packed(run: Path, tokenizer: Path | None = None) -> tuple[Path, Path]:
    """A run's folder of packed rows, and the tokenizer that made them: the one given, or the run's own.

    Raises ValueError where there is none.
    """
    from stages.train.data import Rows

    folders = [path.parent for path in sorted(run.glob("*/_manifest.json"))]
    packs = [folder for folder in folders if (found := read_manifest(folder)) is not None and found.gives == "rows"]
    if not packs:
        raise ValueError(f"{run}: no packed rows here; a recipe needs a `pack` stage for it")
    if tokenizer is not None:
        return packs[-1], tokenizer
    wanted = Rows(sorted(packs[-1].glob("part-*.parquet")), 0).meta["tokenizer_sha256"]
    own = [file for file in sorted(run.glob("*/tokenizer.json")) if digest(file) == wanted]
    if not own:
        raise ValueError(f"{run}: the tokenizer is not in the run; name it with --tokenizer")
    return packs[-1], own[0]


def settings(run: Path, changes: Sequence[str]) -> Train:
    """The settings of the run's own `train` stage, or the defaults, with `name=value` changes; ValueError tells."""
    found = [read_manifest(path.parent) for path in sorted(run.glob("*/_manifest.json"))]
    return settings_of(next((m.settings for m in reversed(found) if m is not None and m.use == "train"), {}), changes)


def settings_of(base: Mapping[str, Any], changes: Sequence[str]) -> Train:
    """Settings with `name=value` changes; ValueError tells what cannot be."""
    stage = Train.model_validate({**base, **dict(_change(change) for change in changes)})
    if problems := stage.check([]):
        raise ValueError("; ".join(problem.message for problem in problems))
    return stage


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected NAME=VALUE, as depth=6")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def train(run: Path, out: Path, changes: Sequence[str], seed: int, tokenizer: Path | None) -> Mapping[str, Any]:
    """Trains on the run's rows into `out`, or goes on there; the summary."""
    train_into(settings(run, changes), *packed(run, tokenizer), out, seed)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def train_into(stage: Train, pack: Path, tokenizer: Path, out: Path, seed: int) -> None:
    """Trains on a folder of packed rows into `out`, or goes on there."""
    from stages.train import loop

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task("train", seed, 0, 1, out, Path(scratch), artifacts={"tokenizer": tokenizer}, report=_tell)
        loop.train(stage, sorted(pack.glob("part-*.parquet")), task)


def _tell(news: Mapping[str, Any]) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{', '.join(f'{name} {value:,.6g}' for name, value in news.items())}\n".encode())


def plan(
    run: Path, changes: Sequence[str], budget: float | None, tokenizer: Path | None
) -> tuple[Mapping[str, Any], list[str]]:
    """What `train` would cost, as numbers and as lines. budget: operations; without, those of the run itself."""
    from stages.train import estimate, loop
    from stages.train.data import Rows
    from stages.train.parallel import World

    stage, (folder, _) = settings(run, changes), packed(run, tokenizer)
    rows, device = Rows(sorted(folder.glob("part-*.parquet")), 0), World().device
    shape = loop.shape_of(stage, rows.meta["vocab_size"])
    steps = loop.steps_of(stage, rows)
    cost = estimate.estimate(shape, stage.batch, rows.length, steps, loop.dtype_of(stage, device), device)
    advice = estimate.advice(shape, budget or cost.flops, rows.total * rows.length)
    return estimate.as_dict(cost), [*cost.lines(), *advice]


def export(run: Path, folder: Path, kind: str) -> list[Path]:
    """Writes a run's model ("hf") or packed rows ("nanogpt", "megatron", "mds") into a folder; the files written."""
    if kind != "hf":
        from stages.train.formats import WRITERS, export_rows

        if kind not in WRITERS:
            raise ValueError(f"--format {kind}: known are hf, {', '.join(WRITERS)}")
        return export_rows(packed(run, Path())[0], folder, kind)
    models = sorted(run.glob("*/model/config.json")) + sorted(run.glob("model/config.json"))
    if not models:
        raise ValueError(f"{run}: no trained model here; a recipe needs a `train` stage for it")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(models[-1].parent.iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())
    return sorted(folder.iterdir())
