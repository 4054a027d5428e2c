"""Ablation: the same bytes for every recipe, nothing measured that is trained on, nothing trained twice."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT
from stages.ablate.ablate import interval, measure, windows
from stages.ablate.held_out import Arm, HeldOut, known
from stages.encoder import Encoder
from stages.train.model import Model, Shape
from tests.conftest import Cli
from tests.oracles_train import tiny_tokenizer

RECIPE = """\
stages:
  - use: ingest
    inputs: [in.jsonl]
    id_field: id
  {clean}
  - use: tokenizer
    vocab_size: {vocab}
    compare_gpt2: false
  - use: pack
    sequence_length: 64
    validation: 0.3
    algorithm: {algorithm}
  - use: train
    depth: 1
    width: 32
    batch: 2
"""
WORDS = "mill grain wheel stone river sack flour bread miller dam water axle cog hopper bran sieve".split()


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(2, 11))
def test_windows_foretell_each_token_once_and_keep_half_of_what_was_before(ids: list[int], longest: int) -> None:
    found = windows(ids, 0, longest)
    assert [token for tokens, asked in found for token in tokens[len(tokens) - asked :]] == ids
    assert all(len(tokens) <= longest for tokens, _ in found)
    assert all(len(tokens) - asked >= longest - longest // 2 for tokens, asked in found[1:])


def test_every_byte_of_a_text_is_foretold(tmp_path: Path) -> None:
    file = tiny_tokenizer(tmp_path / "tokenizer")
    model = Model(Shape(vocab=1024, depth=1, width=32, heads=2, kv_heads=1, ffn=32))
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()  # all tokens alike: 10 bits each
    texts = ["the mill grinds " * 9, "磨", "x"]
    held = HeldOut(pa.array(texts, pa.large_string()), ["", "", ""], 0)
    _, offsets = Encoder(file).encode(held.texts)
    bits = measure(model, Encoder(file), held, 267, 8)
    assert bits == pytest.approx(10 * np.diff(offsets), rel=1e-5)
    assert held.sizes.tolist() == [144, 3, 1]


def arm(folder: Path, texts: dict[str, str], held: list[str]) -> Arm:
    folder.mkdir()
    rows = [{"id": name, "text": text, "source": ""} for name, text in texts.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENT), folder / "part.parquet")
    return Arm(folder.name, folder, folder, [folder / "part.parquet"], pa.array(held, pa.string()))


def test_what_a_recipe_trains_on_is_known_also_in_pieces(tmp_path: Path) -> None:
    long = " ".join(f"w{k}" for k in range(40))
    two = arm(tmp_path / "two", {"a": long[: len(long) // 2], "b": long[len(long) // 2 :], "c": "other"}, [])
    held = arm(tmp_path / "held", {"a": long, "b": "and this one is quite another text"}, ["a"])
    little = arm(tmp_path / "little", {"a": " ".join(f"w{k}" for k in range(20)) + " and so on"}, [])
    texts = pa.array([long, "and this one is quite another text", "short", ""], pa.large_string())
    assert known(texts, [two]).tolist() == [True, False, False, False]
    assert known(texts, [held]).tolist() == [False, True, False, False]
    assert known(texts, [little]).tolist() == [False, False, False, False]
    assert known(texts, [held, two]).tolist() == [True, True, False, False]
    assert known(texts.slice(0, 0), [two]).tolist() == []


def test_the_interval_by_hand() -> None:
    values = [2.1, 2.4, 2.0, 2.2]
    found = interval(np.array(values))
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["half"] == pytest.approx(3.182446 * statistics.stdev(values) / 2, rel=1e-5)
    assert interval(np.array([2.0])) == {"mean": 2.0, "half": None}


@pytest.fixture
def recipes(tmp_path: Path) -> list[str]:
    """Two recipes on one input: as it is in a stream, and without duplicates in best fit with a larger vocabulary."""
    chance = np.random.default_rng(1)
    texts = [" ".join(chance.choice(WORDS, 60)) for _ in range(60)]
    texts[40:50] = texts[:10]
    rows = [json.dumps({"id": f"d{k}", "text": text}) for k, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    (tmp_path / "raw.yaml").write_text(RECIPE.format(clean="", vocab=300, algorithm="concat"))
    (tmp_path / "clean.yaml").write_text(
        RECIPE.format(clean="- use: exact_dedup", vocab=340, algorithm="best_fit").replace("width: 32", "width: 64")
    )
    return ["raw.yaml", "clean.yaml"]


def test_recipes_are_compared_on_the_same_bytes_and_nothing_is_done_twice(
    cli: Cli, tmp_path: Path, recipes: list[str]
) -> None:
    def ablate(*more: object) -> tuple[dict[str, Any], str]:
        done = cli("ablate", *recipes, "--out", "out", "--seeds", 2, "--json", *more)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told, done.stderr

    few = ("--set", "max_steps=2")
    first, told = ablate(*few)
    assert told.count("training on") == 4
    raw, clean = first["recipes"]
    assert (raw["recipe"], clean["recipe"]) == ("raw", "clean")
    assert (raw["documents"], clean["documents"]) == (60, 50)
    assert first["tokens"] == 2 * 2 * 64
    assert "difference" not in raw
    paired = [b - a for a, b in zip(raw["bits_per_byte"], clean["bits_per_byte"], strict=True)]
    assert clean["difference"]["mean"] == pytest.approx(statistics.mean(paired))
    # of the documents that both hold out, those are measured that no recipe has a copy of
    held = [
        set(
            pq.read_table(tmp_path / f"out/{name}", columns=["doc_ids"])["doc_ids"]
            .combine_chunks()
            .flatten()
            .to_pylist()
        )
        for name in ("raw/03-pack/validation", "clean/04-pack/validation")
    ]
    common = held[0] & held[1]
    copies = {f"d{k}" for k in (*range(10), *range(40, 50))}
    assert first["held_out"]["documents"] + first["held_out"]["left_out"] == len(common)
    assert len(common - copies) <= first["held_out"]["documents"] < len(common)
    again, told = ablate(*few)
    assert again == first
    assert "training on" not in told
    more, told = ablate(*few, "--seeds", 3)
    assert told.count("training on") == 2
    assert more["recipes"][0]["bits_per_byte"][:2] == raw["bits_per_byte"]
    other, told = ablate("--set", "max_steps=3")
    assert told.count("training on") == 4
    assert other["recipes"][0]["bits_per_byte"] != raw["bits_per_byte"]


def test_what_cannot_be_compared_is_told(cli: Cli, tmp_path: Path, recipes: list[str]) -> None:
    text = (tmp_path / "clean.yaml").read_text()
    (tmp_path / "longer.yaml").write_text(text.replace("sequence_length: 64", "sequence_length: 128"))
    wrong = cli("ablate", "raw.yaml", "longer.yaml")
    assert wrong.returncode == 2
    assert "sequence_length" in wrong.stderr
    (tmp_path / "no_pack.yaml").write_text("stages:\n  - use: ingest\n    inputs: [in.jsonl]\n")
    wrong = cli("ablate", "raw.yaml", "no_pack.yaml")
    assert wrong.returncode == 2
    assert "no_pack.yaml: no stage packs rows" in wrong.stderr
    assert cli("ablate", "raw.yaml", "./raw.yaml").returncode == 2


def test_a_held_out_set_of_ones_own_is_measured_but_for_what_is_trained_on(
    cli: Cli, tmp_path: Path, recipes: list[str]
) -> None:
    texts = [json.loads(line)["text"] for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    rows = [{"text": text, "lang": "en"} for text in texts] + [{"text": "of the river and the dam", "lang": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "held.parquet")
    few = ("--held-out", "held.parquet", "--set", "max_steps=1", "--seeds", 1, "--json")
    done = cli("ablate", "raw.yaml", *few)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    validation = tmp_path / "runs/ablate/raw/03-pack/validation"
    held = pq.read_table(validation, columns=["doc_ids"])["doc_ids"].combine_chunks().flatten().unique().to_pylist()
    trained = {text for k, text in enumerate(texts) if f"d{k}" not in held}
    assert told["held_out"]["left_out"] == sum(text in trained for text in texts)
    assert told["held_out"]["documents"] == 61 - told["held_out"]["left_out"]
    assert told["recipes"][0]["by_language"].keys() == {"", "en"}
    assert told["recipes"][0]["half"] is None
