"""Checkpoints that resume to the same bits: tensors in safetensors, the rest in JSON, whole or absent.

Writes `checkpoints/step-NNNNNN/`, reads the newest. A folder is written under a temporary name, synced and renamed, so
one that can be seen is complete; nothing is unpickled. The price is three times the model's bytes each (weights and
AdamW's two moments). Tensors are whole whatever the number of processes, so another number may go on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.shards import discard, sync

TENSORS, STATE = "tensors.safetensors", "state.json"


class OtherDataError(ValueError):
    """A checkpoint that was made with other shards or settings, or by another version of the trainer."""


def save(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], keep: int) -> None:
    """Writes the checkpoint of state["step"]; all but the newest `keep` and the best go.

    The best is the one with the least "bits_per_byte" in its state, where there are any.
    """
    path = folder / f"step-{state['step']:06}"
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary / TENSORS)
    (temporary / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    for each in (*temporary.iterdir(), temporary):
        sync(each)
    discard(path)
    temporary.rename(path)
    sync(folder)
    found = complete(folder)
    for old in set(found[:-keep]) - {best(found)}:
        discard(old)


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def best(found: list[Path]) -> Path | None:
    """The checkpoint with the least bits per byte on the validation rows; None where none was measured."""
    scores = {path: read_state(path).get("bits_per_byte") for path in found}
    measured = {path: score for path, score in scores.items() if score is not None}
    return min(measured, key=lambda path: measured[path]) if measured else None


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors."""
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def newest(folder: Path, same: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint; None where there is none.

    same: what must be as it was when the checkpoint was made; OtherDataError names what is not.
    """
    found = complete(folder)
    if not found:
        return None
    state = read_state(found[-1])
    other = [name for name, value in same.items() if state.get(name) != value]
    if other:
        raise OtherDataError(
            f"{found[-1]} was made with other shards, settings or version ({', '.join(other)}): remove {folder} to "
            "start anew"
        )
    return load_file(found[-1] / TENSORS), state
