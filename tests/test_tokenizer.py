"""Tokenizer and packing: three libraries agree, text comes back, no token is lost."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Task
from stages.encoder import Encoder, byte_lengths
from stages.kernels.arrow import read_only
from stages.kernels.pack import best_fit
from stages.pack import Pack, special_ids
from stages.tokenizer import PATTERNS, SAMPLE, Tokenizer, load_tiktoken
from tests import oracles

TEXTS = [
    "The mill grinds slowly, but it's exceedingly fine: 12,345 grains don't lie.\n\n\tSee also <|eos|>.",
    "敏捷的棕色狐狸跳过了懒狗。繁體字也在這裡，１２３！",
    "Быстрая лиса — ёж; ñandú, Straße, भारत, العربية, ไทย 👩‍👩‍👧 \r\n  x = [1, 2]\u0301",
] * 40


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    rows = [{"rank": k, "id": str(k), "lang": "en", "text": text + str(k)} for k, text in enumerate(TEXTS)]
    stage = Tokenizer(vocab_size=400, pattern=request.param, compare_gpt2=request.param == "o200k")
    task = Task(stage="01-tokenizer", seed=0, index=0, count=1, folder=folder, scratch=folder)
    stage._finish(iter([pa.RecordBatch.from_pylist(rows, schema=SAMPLE)]), task)
    return folder


def agree(folder: Path, text: str) -> None:
    from transformers import PreTrainedTokenizerFast

    encoder = Encoder(folder)
    ids, _ = encoder.encode([text])
    fast = _loaded.setdefault(folder, (load_tiktoken(folder), PreTrainedTokenizerFast.from_pretrained(folder)))
    assert fast[0].encode_ordinary(text) == ids.tolist()
    assert fast[1](text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids.tolist()
    assert encoder.exact.decode(ids.tolist(), skip_special_tokens=False) == text
    assert byte_lengths(encoder.exact)[ids].sum() == len(text.encode())


_loaded: dict[Path, tuple[object, object]] = {}


def test_three_libraries_agree_and_text_comes_back(trained: Path) -> None:
    for text in TEXTS[:3]:
        agree(trained, text)


@given(text=st.text(st.sampled_from("a'S 1\n\r\t中é\u0301\u200d👩<|eos>") | st.characters(codec="utf-8"), max_size=40))
@settings(deadline=None, max_examples=40)
def test_hostile_text_comes_back(trained: Path, text: str) -> None:
    agree(trained, text)


def test_training_is_repeatable_and_tells_its_statistics(trained: Path, tmp_path: Path) -> None:
    rows = [{"rank": k, "id": str(k), "lang": "en", "text": text + str(k)} for k, text in enumerate(TEXTS)]
    pattern = json.loads((trained / "stats.json").read_text())["pattern"]
    task = Task(stage="01-tokenizer", seed=0, index=0, count=1, folder=tmp_path, scratch=tmp_path)
    stage = Tokenizer(vocab_size=400, pattern=pattern, compare_gpt2=pattern == "o200k")
    stage._finish(iter([pa.RecordBatch.from_pylist(rows, schema=SAMPLE)]), task)
    for path in trained.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    stats = json.loads((trained / "stats.json").read_text())
    assert stats["held_out"]["bytes_per_token"] > 1
    assert ("gpt2_pattern_bytes_per_token" in stats) == (pattern == "o200k")
    assert special_ids(trained) == {"bos_id": 397, "eos_id": 398, "pad_id": 399, "vocab_size": 400}


@given(st.lists(st.integers(1, 16), max_size=60))
@settings(deadline=None)
def test_best_fit_fills_bins_as_its_slow_twin_does(lengths: list[int]) -> None:
    lengths = sorted(lengths, reverse=True)
    bins = best_fit(read_only(np.array(lengths, np.int64)), 16)
    room = np.full(bins.max() + 1 if lengths else 0, 16)
    np.subtract.at(room, bins, lengths)
    assert sorted(room.tolist()) == oracles.best_fit(lengths, 16)


@pytest.mark.parametrize("algorithm", ["best_fit", "concat"])
@pytest.mark.parametrize("trained", ["gpt2"], indirect=True)
def test_every_token_is_packed_once_in_its_place(trained: Path, tmp_path: Path, algorithm: str) -> None:
    batch = oracles.documents([text * (k % 5) + str(k) for k, text in enumerate(TEXTS)])
    stage = Pack(sequence_length=64, algorithm=algorithm, validation=0.1)
    task = Task("01-pack", 0, 0, 1, tmp_path, tmp_path, artifacts={"tokenizer": trained})
    emits = list(stage._encode(iter([batch.slice(0, 7), batch.slice(7)]), task))
    rows = pa.Table.from_batches([e.rows for e in emits]).sort_by([("key", "ascending"), ("ref", "ascending")])
    expected = dict(zip(rows["id"].to_pylist(), rows["tokens"].to_pylist(), strict=True))
    held = dict(zip(rows["id"].to_pylist(), rows["held"].to_pylist(), strict=True))
    assert 0 < sum(held.values()) < len(held) / 2
    outputs = [
        [(e.rows, e.aside) for e in stage._pack(iter(rows.to_batches(max_chunksize=size)), task)] for size in (3, 1000)
    ]
    assert str(outputs[0]) == str(outputs[1])
    found: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for main, aside in outputs[0]:
        packed = aside["validation"] if main is None else main
        for row in packed.to_pylist():
            assert len(row["input_ids"]) == 64
            at = 0
            for name, start, length in zip(row["doc_ids"], row["doc_offsets"], row["seq_lengths"], strict=True):
                assert held[name] == (main is None)
                found[name][start] = row["input_ids"][at : at + length]
                at += length
            assert row["input_ids"][at:] == [399] * (64 - at)
    joined = {name: [t for _, part in sorted(parts.items()) for t in part] for name, parts in found.items()}
    assert joined == expected
    if algorithm == "best_fit":
        assert all(len(parts) == -(-len(expected[name]) // 64) for name, parts in found.items()), "no needless cut"
    assert expected["d0"][0] == 397
    assert expected["d0"][-1] == 398
