"""`gristmill train` and its plan start from the settings of the run's own `train` stage, as a real run leaves them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from stages.train import Train
from stages.train.estimate import parameters
from stages.train.loop import shape_of
from tests.conftest import Cli

RECIPE = """\
stages:
  - use: ingest
    inputs: [in.jsonl]
    id_field: id
  - use: tokenizer
    vocab_size: 300
    compare_gpt2: false
  - use: pack
    sequence_length: 32
    validation: 0.2
"""
TRAIN = """\
  - use: train
    depth: 3
    width: 96
    heads: 3
    kv_heads: 3
    ffn: 64
    tied: false
    batch: 3
    max_steps: 2
    sample_tokens: 2
    prompts: [a]
"""


def plan(cli: Cli, *words: str) -> str:
    done = cli("train", "run", "--plan", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def packed_run(cli: Cli, tmp_path: Path) -> Path:
    """A run up to its packed rows."""
    lines = [json.dumps({"id": f"d{k}", "text": f"the mill grinds sack {k * k} slowly"}) for k in range(40)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = cli("run", "r.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_run_without_a_train_stage_gets_the_defaults_and_is_told_so(cli: Cli, packed_run: Path) -> None:
    told = plan(cli, "--set", "max_steps=7")
    assert "the defaults, since no `train` stage of the run is finished, max_steps=7\n" in told
    vocabulary = Tokenizer.from_file(str(packed_run / "02-tokenizer/tokenizer.json")).get_vocab_size()
    assert f"{parameters(shape_of(Train(), vocabulary)):,}\n" in told
    assert "in 7 steps" in told


def test_a_run_with_a_train_stage_is_planned_and_trained_again_by_its_own_settings(
    cli: Cli, packed_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE + TRAIN)
    done = cli("run", "r.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    trained = json.loads((packed_run / "04-train/summary.json").read_text())
    found = json.loads(plan(cli, "--json"))
    assert (found["parameters"], found["steps"], found["tokens"]) == (trained["parameters"], 2, 2 * 3 * 32)
    told = plan(cli, "--set", "width=48")
    assert "those of 04-train, width=48\n" in told
    assert f"{trained['parameters']:,}" not in told
    again = cli("train", "run", "--out", "again")
    assert again.returncode == 0, again.stderr
    assert "settings: those of 04-train\n" in again.stderr
    assert json.loads(again.stdout) == trained
