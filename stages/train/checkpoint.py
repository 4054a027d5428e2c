"""Checkpoints that resume to the same bits: safetensors for tensors, JSON for the rest, whole or absent; nothing is
unpickled.

Writes `checkpoints/step-NNNNNN/` under a temporary name and renames it; the newest whole one is where a run goes on
from.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from stages.train.model import Model


class OtherDataError(Exception):
    """A checkpoint that was made with other shards or settings."""


def save(folder: Path, model: Model, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep: int) -> None:
    """Writes the checkpoint of state["step"] and removes all but the newest `keep`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    path = folder / f"step-{state['step']:06}"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / "tensors.safetensors")
    (temporary / "state.json").write_text(json.dumps(state, sort_keys=True))
    for file in temporary.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def restore(folder: Path, model: Model, optimizer: torch.optim.Optimizer, fingerprint: str) -> int:
    """Loads the newest checkpoint into model and optimiser; the step to go on from, 0 where there is none.

    Raises OtherDataError where it was made with other data.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return 0
    state = json.loads((found[-1] / "state.json").read_text())
    if state["fingerprint"] != fingerprint:
        raise OtherDataError(f"{found[-1]} was made with other shards or settings; remove it to start anew")
    tensors = load_file(found[-1] / "tensors.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    own = optimizer.state_dict()
    own["state"] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            own["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(own)
    return int(state["step"])
