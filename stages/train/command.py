"""The trainer's command on a finished run: train again with other settings, or estimate what that would cost.

Reads a run's packed rows and tokenizer; `gristmill train` and `gristmill ablate` call it. Under `torchrun` every
process calls `train`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.shards import MANIFEST, Manifest, read_manifest
from pipeline.stage import Task
from stages.encoder import digest
from stages.packed_rows import PackedRows, training_shards
from stages.train import Train


def _finished(run: Path) -> dict[Path, Manifest]:
    """A run's finished stages in order, by folder."""
    folders = [path.parent for path in sorted(run.glob(f"*/{MANIFEST}"))]
    return {folder: found for folder in folders if (found := read_manifest(folder)) is not None}


def rows_folder(run: Path) -> Path:
    """A run's folder of packed rows; ValueError where there is none."""
    packs = [folder for folder, manifest in _finished(run).items() if manifest.gives == "rows"]
    if not packs:
        raise ValueError(f"{run}: no packed rows here; a recipe needs a `pack` stage for it")
    return packs[-1]


def packed(run: Path, tokenizer: Path | None = None) -> tuple[Path, Path]:
    """A run's folder of packed rows, and the tokenizer that made them: the one given, or the run's own.

    Raises ValueError where there is none.
    """
    pack = rows_folder(run)
    if tokenizer is not None:
        return pack, tokenizer
    wanted = PackedRows(training_shards(pack)).meta["tokenizer_sha256"]
    own = [file for file in sorted(run.glob("*/tokenizer.json")) if digest(file) == wanted]
    if not own:
        raise ValueError(f"{run}: the tokenizer is not in the run; name it with --tokenizer")
    return pack, own[0]


def trained(run: Path) -> Path | None:
    """The folder of the run's own `train` stage, its last one; None where none is finished."""
    use = f"{Train.__module__}:{Train.__name__}"
    folders = [folder for folder, manifest in _finished(run).items() if manifest.use == use]
    return folders[-1] if folders else None


def settings(run: Path, changes: Sequence[str]) -> Train:
    """The settings of the run's own `train` stage, or the defaults, with `name=value` changes.

    Raises ValueError for settings that are not possible.
    """
    manifest = read_manifest(folder) if (folder := trained(run)) else None
    return settings_of(manifest.settings if manifest else {}, changes)


def origin(run: Path, changes: Sequence[str]) -> str:
    """Where `settings` come from, in words."""
    folder = trained(run)
    start = f"those of {folder.name}" if folder else "the defaults, since no `train` stage of the run is finished"
    return ", ".join([start, *changes])


def settings_of(base: Mapping[str, Any], changes: Sequence[str]) -> Train:
    """Settings with `name=value` changes; raises ValueError for those that are not possible."""
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
    _tell_line(f"settings: {origin(run, changes)}")
    train_into(settings(run, changes), *packed(run, tokenizer), out, seed)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def train_into(stage: Train, pack: Path, tokenizer: Path, out: Path, seed: int) -> None:
    """Trains on a folder of packed rows into `out`, or goes on there."""
    from stages.train import run

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task("train", seed, 0, 1, out, Path(scratch), artifacts={"tokenizer": tokenizer}, report=_tell)
        run.train(stage, training_shards(pack), task)


def _tell(news: Mapping[str, Any]) -> None:
    _tell_line(", ".join(f"{name} {value:,.6g}" for name, value in news.items()))


def _tell_line(line: str) -> None:
    """To stderr, from one process of all."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())


def plan(
    run: Path, changes: Sequence[str], budget: float | None, tokenizer: Path | None
) -> tuple[Mapping[str, Any], list[str]]:
    """What `train` would cost, as numbers and as lines. budget: operations; without, those of the run itself."""
    from stages.train import estimate, loop
    from stages.train.parallel import World

    stage, device = settings(run, changes), World().device
    rows = PackedRows(training_shards(packed(run, tokenizer)[0]))
    shape = loop.shape_of(stage, rows.meta["vocab_size"])
    steps = loop.steps_of(stage, rows)
    cost = estimate.estimate(shape, stage.batch, rows.length, steps, loop.dtype_of(stage, device), device)
    advice = estimate.advice(shape, budget or cost.flops, rows.total * rows.length)
    return asdict(cost), [f"settings    {origin(run, changes)}", *cost.lines(), *advice]
