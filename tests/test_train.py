"""The trainer: documents do not see each other, resumes are bitwise, the model is what transformers loads."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.stage import Task
from stages.pack import PACKED
from stages.tokenizer_bpe import train_bpe
from stages.tokenizer_files import save
from stages.train import Train
from stages.train.checkpoint import OtherDataError
from stages.train.data import Rows, collate
from stages.train.evaluate import bits_per_byte
from stages.train.generate import choose, generate, load_model, sample_ids
from stages.train.loop import _Loop, batch_loss, train
from stages.train.model import Model, Shape, document_mask

SHAPE = Shape(vocab=97, depth=2, width=32, heads=4, kv_heads=2, ffn=64, qk_norm=True, rope_theta=10_000.0)
STAGE = Train(depth=2, width=32, heads=2, batch=2, max_steps=9, checkpoint_every=3, warmup=0.2, sample_tokens=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and packed shards of random, repetitive rows, some padded."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tokenizer").mkdir()
    texts = pa.chunked_array([pa.array([f"the mill grinds {k} 磨坊" for k in range(64)], pa.large_string())])
    specials = ("<|bos|>", "<|eos|>", "<|pad|>")
    tokenizer = train_bpe(texts, "o200k", 300, specials)
    save(tokenizer, folder / "tokenizer", "o200k", specials)
    vocab = tokenizer.get_vocab_size()
    meta = {"sequence_length": 24, "vocab_size": vocab, "bos_id": vocab - 3, "eos_id": vocab - 2, "pad_id": vocab - 1}
    chance = np.random.default_rng(3)
    (folder / "validation").mkdir()
    for name, count in (("part-00000", 40), ("part-00001", 25), ("validation/part-00000", 5)):
        lists = [{"seq_lengths": [10, 14] if k % 3 else [5, 9, 6]} for k in range(count)]
        for row in lists:
            row["input_ids"] = chance.integers(0, 40, 24).tolist()
            row["doc_ids"], row["doc_offsets"] = ["d"] * len(row["seq_lengths"]), [0] * len(row["seq_lengths"])
        schema = PACKED.with_metadata({"gristmill.pack": json.dumps(meta)})
        pq.write_table(pa.Table.from_pylist(lists, schema=schema), folder / f"{name}.parquet", row_group_size=16)
    return folder


def task_in(data: Path, folder: Path) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task("07-train", 0, 0, 1, folder, folder, artifacts={"tokenizer": data / "tokenizer"})


def shards(data: Path) -> list[Path]:
    return sorted(data.glob("part-*.parquet"))


@torch.no_grad()
def test_a_packed_document_reads_as_if_alone() -> None:
    model, chance = Model(SHAPE), np.random.default_rng(0)
    parts = [chance.integers(0, 97, n).astype(np.int32) for n in (5, 1, 10)]
    batch = collate([np.concatenate(parts)], [np.array([5, 1, 10], np.int32)])
    packed = model.logits(model(batch.ids, batch.positions, document_mask(batch.documents)))[0]
    at = 0
    for part in parts:
        one = collate([part], [np.array([len(part)], np.int32)])
        alone = model.logits(model(one.ids, one.positions, document_mask(one.documents)))[0]
        assert torch.allclose(packed[at : at + len(part)], alone, atol=1e-5)
        assert batch.labels[0, at + len(part) - 1] == -100
        at += len(part)


@torch.no_grad()
def test_the_cache_gives_what_the_whole_gives() -> None:
    model, ids = Model(SHAPE), torch.arange(3, 15)[None]
    positions = torch.arange(12)[None]
    whole = model(ids, positions, document_mask(torch.zeros_like(ids)))
    cache = model.cache()
    first = model(ids[:, :5], positions[:, :5], torch.ones(5, 5, dtype=torch.bool).tril()[None, None], cache)
    rest = [
        model(ids[:, k : k + 1], positions[:, k : k + 1], torch.ones(1, 1, 1, k + 1, dtype=torch.bool), cache)
        for k in range(5, 12)
    ]
    assert torch.allclose(torch.cat([first, *rest], 1), whole, atol=1e-5)


def test_one_batch_is_learnt_by_heart() -> None:
    model = Model(SHAPE)
    batch = collate([np.arange(24, dtype=np.int32) * 7 % 97], [np.array([24], np.int32)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = batch_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.05


def weights(folder: Path) -> bytes:
    return (folder / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("kills", [[4], [2, 7]])
def test_a_run_that_is_interrupted_ends_with_the_same_bits(data: Path, tmp_path: Path, kills: list[int]) -> None:
    calm, stormy = task_in(data, tmp_path / "calm"), task_in(data, tmp_path / "stormy")
    train(STAGE, shards(data), calm)
    real = _Loop.step
    for kill in kills:

        def step(self: _Loop, number: int, kill: int = kill) -> tuple[float, float]:
            if number == kill:
                raise KeyboardInterrupt
            return real(self, number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Loop, "step", step)
            with pytest.raises(KeyboardInterrupt):
                train(STAGE, shards(data), stormy)
    train(STAGE, shards(data), stormy)
    assert weights(tmp_path / "calm") == weights(tmp_path / "stormy")
    for name in ("summary.json", "samples.json"):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "stormy" / name).read_bytes()
    assert [p.name for p in sorted((tmp_path / "stormy/checkpoints").iterdir())] == ["step-000006", "step-000009"]


def test_other_shards_are_refused(data: Path, tmp_path: Path) -> None:
    task = task_in(data, tmp_path / "run")
    train(STAGE, shards(data), task)
    shutil.copy(data / "part-00001.parquet", data / "other.parquet")
    with pytest.raises(OtherDataError, match="other shards or settings"):
        train(STAGE, [data / "other.parquet"], task)


def test_an_epoch_reads_each_row_once_and_any_batch_alone(data: Path) -> None:
    rows = Rows(shards(data), 5)
    assert rows.total == 65
    all_ids = [rows.batch(k, 13).ids for k in range(5)]
    stored = np.concatenate([np.array(pq.read_table(p)["input_ids"].to_pylist()) for p in shards(data)])
    assert sorted(map(tuple, torch.cat(all_ids).tolist())) == sorted(map(tuple, stored.tolist()))
    assert torch.equal(Rows(shards(data), 5).batch(3, 13).ids, all_ids[3])
    assert not torch.equal(Rows(shards(data), 6).batch(3, 13).ids, all_ids[3])


def test_bits_per_byte_by_hand(data: Path) -> None:
    model = Model(SHAPE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    batch = collate([np.zeros(8, np.int32)], [np.array([8], np.int32)])
    lengths = np.full(97, 2, np.int32)
    assert math.isclose(bits_per_byte(model, [batch], lengths), math.log2(97) / 2, rel_tol=1e-5)


def test_transformers_loads_the_model_and_agrees(data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, stage in (("qwen", STAGE), ("llama", STAGE.model_copy(update={"qk_norm": False}))):
        train(stage, shards(data), task_in(data, tmp_path / name))
        folder = tmp_path / name / "model"
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ours, _ = load_model(folder)
        ids = torch.arange(20)[None]
        mask = document_mask(torch.zeros_like(ids))
        with torch.no_grad():
            logits = ours.logits(ours(ids, torch.arange(20)[None], mask))
            assert torch.allclose(theirs(ids).logits, logits, atol=1e-4)
        assert AutoTokenizer.from_pretrained(folder).decode([1, 2]) == AutoTokenizer.from_pretrained(
            data / "tokenizer"
        ).decode([1, 2])
        text = "".join(generate(folder, "the mill", max_tokens=8, seed=1))
        assert text == "".join(generate(folder, "the mill", max_tokens=8, seed=1))


def test_choice_is_among_the_likeliest() -> None:
    logits = torch.tensor([0.0, 5.0, 4.0, -3.0])
    generator = torch.Generator().manual_seed(0)
    assert choose(logits, 0.0, 0, 1.0, generator) == 1
    assert {choose(logits, 1.0, 2, 1.0, generator) for _ in range(60)} == {1, 2}
    assert {choose(logits, 1.0, 0, 0.5, generator) for _ in range(20)} == {1}
    model = Model(SHAPE)
    assert list(sample_ids(model, [1, 2], 4, 0.0, 0, 1.0, 0)) == list(sample_ids(model, [1, 2], 4, 0.0, 0, 1.0, 9))
