"""Commands that need a model where torch or safetensors is missing: one line with what installs it, and exit code 2."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.train.export import export
from stages.train.model import Model, Shape
from tests.oracles_train import pack_meta, tiny_tokenizer

Call = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[1]
COMMANDS = {
    "generate": ["generate", "run", "the mill"],
    "train --plan": ["train", "run", "--plan"],
    "train": ["train", "run", "--out", "again"],
    "ablate": ["ablate", str(ROOT / "configs/ablate_raw.yaml")],
    "evaluate": ["evaluate", "run", "questions.jsonl"],
    "bench-inference": ["bench-inference", "run"],
}


@pytest.fixture
def without(tmp_path: Path) -> Call:
    """Runs `gristmill` beside a model, in a Python where a library is missing or does not load."""
    file = tiny_tokenizer(tmp_path / "tokenizer")
    meta = pack_meta(file)
    model = Model(Shape(int(str(meta["vocab_size"])), 1, 32, 2, 1, 32))
    export(model.shape, model.state_dict(), tmp_path / "run/model", file, meta)
    (tmp_path / "questions.jsonl").write_text(json.dumps({"text": "the", "target": "mill"}))

    def call(library: str, fault: str, *words: str) -> "subprocess.CompletedProcess[str]":
        hidden = tmp_path / "hidden" / library
        hidden.mkdir(parents=True)
        (hidden / "__init__.py").write_text(f"raise {fault}\n")
        environment = {**os.environ, "PYTHONPATH": f"{hidden.parent}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "pipeline.cli", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return call


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_missing_library_is_told_in_one_line(without: Call, library: str, name: str) -> None:
    done = without(library, f"ModuleNotFoundError('No module named {library}', name='{library}')", *COMMANDS[name])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"{library} is not installed: pip install 'gristmill[train]'\n"


def test_a_library_that_does_not_load_is_told_with_its_reason(without: Call) -> None:
    done = without("torch", "OSError('libgomp.so.1: cannot open shared object file')", *COMMANDS["generate"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "torch is installed but does not load (libgomp.so.1" in done.stderr
    assert "pip install 'gristmill[train]'" in done.stderr


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_a_model_is_copied_without_any_of_them(without: Call, tmp_path: Path, library: str) -> None:
    done = without(library, "ModuleNotFoundError", "export", "run", "copy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (tmp_path / "run/model/model.safetensors").read_bytes()
