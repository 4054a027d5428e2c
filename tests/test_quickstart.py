"""The whole chain on the sample dump: the shipped quickstart recipe, its training cut to two steps."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.dataset as ds
import pytest
import tiktoken
import tiktoken.load
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import Cli, digest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/quickstart.yaml"
SHORT = ("--set", "stages.train.max_steps=2", "--set", "stages.train.sample_tokens=8", "--quiet", "--json")
DOCUMENTS = ["01-ingest", "02-extract", "03-clean", "04-language", "05-quality", "06-exact_dedup", "07-near_dedup"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the run `two` by two workers."""
    folder = tmp_path_factory.mktemp("quickstart")
    assert quickstart(folder / "two", 2)["idle"] is False
    yield folder
    shutil.rmtree(folder)


def quickstart(out: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline.cli", "run", RECIPE, "--out", out, "--workers", workers, *SHORT]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def ids(folder: Path) -> list[str]:
    found: list[str] = ds.dataset(sorted(map(str, folder.glob("*.parquet")))).to_table(["id"])["id"].to_pylist()
    return found


def test_one_worker_gives_the_same_bytes_as_two(runs: Path) -> None:
    quickstart(runs / "one", 1)
    one, two = digest(runs / "one"), digest(runs / "two")
    logs = {name for name in two if name.endswith("metrics.jsonl")}
    assert {k: v for k, v in one.items() if k not in logs} == {k: v for k, v in two.items() if k not in logs}


def test_a_second_run_does_nothing(runs: Path) -> None:
    before = digest(runs / "two")
    assert quickstart(runs / "two", 2)["idle"] is True
    assert digest(runs / "two") == before


def test_explain_tells_of_each_fate_every_stage_and_why(runs: Path, cli: Cli) -> None:
    run = runs / "two"

    def way(document: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(cli("explain", run, document, "--json").stdout)
        return told

    kept = way(ids(run / "07-near_dedup")[0])
    assert [step["stage"] for step in kept if step["outcome"] == "kept"] == DOCUMENTS
    assert {step["outcome"] for step in kept if step["stage"] == "09-pack"} <= {"packed", "validation"}
    assert kept[-1]["stage"] == "09-pack"
    dropped = way(ids(run / "05-quality/drops")[0])
    assert [step["stage"] for step in dropped] == DOCUMENTS[:5]
    assert dropped[-1]["outcome"] == "dropped"
    assert all({"rule", "score", "limit"} <= broken.keys() for broken in dropped[-1]["broken"])
    assert len(dropped[-1]["broken"]) >= 1
    duplicate = way(ids(run / "07-near_dedup/drops")[0])
    assert duplicate[-1]["rule"] == "near_duplicate"
    assert duplicate[-1]["similarity"] >= 0.8
    assert duplicate[-1]["duplicate_of"] in ids(run / "07-near_dedup")
    bad = way(ids(run / "01-ingest/quarantine")[0])
    assert [(step["stage"], step["outcome"]) for step in bad] == [("01-ingest", "quarantined")]
    assert bad[0]["reason"]
    assert bad[0]["source"]


def test_verify_proves_the_run_and_finds_a_changed_shard(runs: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("verify", runs / "two").returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(runs / "two", copy)
    shard = next((copy / "05-quality").glob("part-*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    found = cli("verify", copy)
    assert found.returncode == 3
    assert shard.name in found.stdout


@pytest.mark.parametrize("stage", [*DOCUMENTS, "09-pack"])
def test_datasets_reads_every_stage(runs: Path, stage: str, tmp_path: Path) -> None:
    folder = runs / "two" / stage
    read = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", cache_dir=str(tmp_path), split="train")
    rows = json.loads((folder / "_manifest.json").read_text())["files"]["rows"]
    assert read.num_rows == sum(file["rows"] for file in rows) > 0


def test_transformers_and_tiktoken_read_the_tokenizer_and_transformers_the_model(runs: Path) -> None:
    folder = runs / "two/08-tokenizer"
    theirs = AutoTokenizer.from_pretrained(folder)
    about = json.loads((folder / "tiktoken.json").read_text())
    ranks = tiktoken.load.load_tiktoken_bpe(str(folder / "tokenizer.tiktoken"))
    other = tiktoken.Encoding("own", pat_str=about["pattern"], mergeable_ranks=ranks, special_tokens={})
    texts = ds.dataset(runs / "two/07-near_dedup/part-00000.parquet").to_table(["text"])["text"].to_pylist()[:50]
    for text in texts:
        found = theirs.encode(text, add_special_tokens=False)
        assert found == other.encode_ordinary(text)
        assert theirs.decode(found) == text
    model = AutoModelForCausalLM.from_pretrained(runs / "two/10-train/model")
    assert model.config.vocab_size >= len(ranks)
