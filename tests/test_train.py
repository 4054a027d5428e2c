"""The trainer: documents do not see each other, resumes are bitwise, any number of processes computes the same."""

import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import nn

from pipeline.stage import Once, Task
from stages.encoder import spelling
from stages.train import Train
from stages.train import attention as attention_module
from stages.train import loss as loss_module
from stages.train import ngram as ngram_module
from stages.train.attention import layout
from stages.train.checkpoint import OtherDataError
from stages.train.data import IGNORED, Batch, Rows, ahead, collate
from stages.train.evaluate import HeldOut
from stages.train.export import load_model
from stages.train.loop import Loop, Part, shape_of
from stages.train.loss import nats, summed_loss
from stages.train.model import Model
from stages.train.ngram import Ngrams, training_batches
from stages.train.optim import PATIENCE, WINDOW, Guard, Muon, orthogonal, rate_at
from stages.train.parallel import World
from tests.oracles_train import (
    LENGTH,
    SHAPE,
    pack_meta,
    plain_attention,
    plain_loss,
    plain_ngram_nats,
    tiny_tokenizer,
    write_rows,
)

STAGE = Train(
    depth=2, width=32, heads=2, batch=4, max_steps=9, checkpoint_every=3, warmup=0.2, sample_tokens=5, precision="fp32"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, the more so where a machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, two packed shards of five row groups, and a validation shard."""
    folder = tmp_path_factory.mktemp("data")
    meta = pack_meta(tiny_tokenizer(folder / "tokenizer"))
    for seed, (name, count) in enumerate({"part-00000": 40, "part-00001": 25, "validation/gather-00000": 12}.items()):
        write_rows(folder / f"{name}.parquet", count, meta, seed)
    return folder


def task_in(data: Path, folder: Path) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task("07-train", 0, 0, 1, folder, folder, artifacts={"tokenizer": data / "tokenizer"})


def shards(data: Path) -> list[Path]:
    return sorted(data.glob("part-*.parquet"))


def run(stage: Train, paths: list[Path], task: Task) -> dict[str, int]:
    (step,) = stage.steps()
    assert isinstance(step, Once)
    return dict(step.run(paths, task))


@pytest.fixture(scope="module")
def calm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    counters = run(STAGE, shards(data), task_in(data, folder))
    assert counters["steps"] == 9
    assert counters["parameters"] == sum(w.numel() for w in load_model(folder / "model")[0].parameters())
    return folder


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def some_batch(*lengths: int, padding: int = 0) -> Batch:
    ids = (np.arange(sum(lengths) + padding) * 7 % 97).astype(np.int32)
    return collate([(ids, np.array(lengths, np.int32))])


def loss_of(model: Model, batch: Batch, z: float = 0.0) -> torch.Tensor:
    where = layout(batch.lengths.tolist(), model.shape.heads, model.shape.kv_heads)
    loss: torch.Tensor = model(batch.ids, batch.positions, where, batch.labels, z)
    return loss / batch.known()


def test_settings_need_no_torch() -> None:
    code = "import sys, stages.train as t; t.Train().steps(); assert not {'torch', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_attention_is_the_plain_one_within_each_document_forward_and_backward(
    kv_heads: int, lengths: list[int]
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), n, 8, requires_grad=True) for n in (4, kv_heads, kv_heads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "TILE", 8)
        patch.setattr(attention_module, "KEPT", 16)
        ours = layout(lengths, 4, kv_heads)(q, k, v)
        slope = torch.randn_like(ours)
        gradients = torch.autograd.grad(ours, (q, k, v), slope)
    plain = plain_attention(q, k, v, lengths)
    for mine, theirs in zip((ours, *gradients), (plain, *torch.autograd.grad(plain, (q, k, v), slope)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_attention_over_several_tiles_passes_the_gradient_check() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(11, n, 4, dtype=torch.float64, requires_grad=True) for n in (2, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "TILE", 4)
        where = layout([6, 5], 2, 1)
        # the sums over tiles are kept in float32
        assert torch.autograd.gradcheck(where, (q, k, v), eps=1e-4, atol=1e-4)


@pytest.mark.parametrize("z", [0.0, 0.1])
def test_the_loss_is_the_plain_one_forward_and_backward(z: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(23, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (23,))
    monkeypatch.setattr(loss_module, "CHUNK", 50 * 5)
    ours, plain = summed_loss(hidden, head, labels, z) / 3, plain_loss(hidden, head, labels, z) / 3
    assert torch.allclose(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, head)), torch.autograd.grad(plain, (hidden, head)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.allclose(nats(hidden, head, labels).sum(), plain_loss(hidden, head, labels, 0.0))


@torch.no_grad()
def test_a_packed_document_reads_as_if_alone() -> None:
    model, parts = Model(SHAPE), (5, 1, 10)
    batch = some_batch(*parts, padding=3)
    packed = model.logits(model(batch.ids, batch.positions, layout(batch.lengths.tolist(), 4, 2)))
    at = 0
    for size in parts:
        ids = batch.ids[at : at + size]
        alone = model.logits(model(ids, torch.arange(size), layout([size], 4, 2)))
        assert torch.allclose(packed[at : at + size], alone, atol=1e-5)
        assert batch.labels[at : at + size].tolist() == [*ids[1:].tolist(), IGNORED]
        at += size
    assert batch.labels[at:].tolist() == [IGNORED] * 3
    assert batch.positions.tolist() == [*range(5), 0, *range(10), *range(3)]


def test_one_batch_is_learnt_by_heart() -> None:
    model, batch = Model(SHAPE), some_batch(24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert math.isclose(loss_of(model, batch).item(), math.log(97), rel_tol=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.05


def test_half_precision_is_near_the_whole() -> None:
    batch = some_batch(20, padding=4)
    whole, half = Model(SHAPE), Model(SHAPE, dtype=torch.bfloat16)
    losses = [loss_of(model, batch) for model in (whole, half)]
    assert abs(losses[0].item() - losses[1].item()) < 0.02
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    for one, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert other.grad.dtype == torch.float32
        assert torch.linalg.norm(one.grad - other.grad) < 0.05 * torch.linalg.norm(one.grad) + 1e-4


def deterministic(folder: Path) -> dict[str, bytes]:
    """Everything that must be the same bytes: all but the metrics, which hold times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kills", [[4], [2, 7]])
def test_an_interrupted_run_ends_with_the_same_bits(data: Path, calm: Path, tmp_path: Path, kills: list[int]) -> None:
    task, real = task_in(data, tmp_path), Loop.advance
    for kill in kills:

        def advance(self: Loop, parts: list[Part], kill: int = kill) -> tuple[float, bool]:
            if self.step == kill:
                raise KeyboardInterrupt
            return real(self, parts)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "advance", advance)
            with pytest.raises(KeyboardInterrupt):
                run(STAGE, shards(data), task)
    run(STAGE, shards(data), task)
    assert deterministic(tmp_path) == deterministic(calm)
    told, expected = metrics(tmp_path), metrics(calm)
    assert [line["step"] for line in told] == list(range(1, 10))
    assert [line["loss"] for line in told] == [line["loss"] for line in expected]


def test_the_newest_checkpoints_and_the_best_are_kept(calm: Path) -> None:
    names = [path.name for path in sorted((calm / "checkpoints").iterdir())]
    scores = {line["step"]: line["bits_per_byte"][""] for line in metrics(calm) if "bits_per_byte" in line}
    best = min(scores, key=lambda step: scores[step])
    assert names == sorted({f"step-{step:06}" for step in (6, 9, best)})
    assert list(scores) == [3, 6, 9]


def test_a_best_checkpoint_outlives_newer_ones(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(HeldOut, "measure", lambda *_: {"": next(scores)})
    stage = STAGE.model_copy(update={"checkpoint_every": 2, "keep_checkpoints": 1})
    run(stage, shards(data), task_in(data, tmp_path))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000002", "step-000009"]


def test_a_finished_run_that_is_run_again_takes_no_step(
    data: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(calm, tmp_path / "copy")
    monkeypatch.setattr(Loop, "advance", None)
    run(STAGE, shards(data), task_in(data, tmp_path / "copy"))
    assert deterministic(tmp_path / "copy") == deterministic(calm)


def test_sigterm_saves_and_exits_and_a_rerun_goes_on(
    data: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = Loop.advance, signal.getsignal(signal.SIGTERM)

    def advance(self: Loop, parts: list[Part]) -> tuple[float, bool]:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, parts)

    monkeypatch.setattr(Loop, "advance", advance)
    with pytest.raises(SystemExit, match="143"):
        run(STAGE, shards(data), task_in(data, tmp_path))
    assert json.loads((tmp_path / "checkpoints/step-000005/state.json").read_text())["position"] == 20
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(Loop, "advance", real)
    run(STAGE, shards(data), task_in(data, tmp_path))
    assert (tmp_path / "model/model.safetensors").read_bytes() == (calm / "model/model.safetensors").read_bytes()


def test_half_a_checkpoint_is_not_seen(data: Path, calm: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints/.step-000008.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints/.step-000008.tmp/state.json").write_text("{")
    run(STAGE, shards(data), task_in(data, tmp_path))
    assert (tmp_path / "model/model.safetensors").read_bytes() == (calm / "model/model.safetensors").read_bytes()


def test_killed_while_it_removes_an_old_checkpoint_it_goes_on_from_the_newest(
    data: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(folder: Path, **_: object) -> None:
        for state in folder.rglob("state.json"):
            state.unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(STAGE.model_copy(update={"keep_checkpoints": 1}), shards(data), task_in(data, tmp_path))
    run(STAGE, shards(data), task_in(data, tmp_path))
    assert (tmp_path / "model/model.safetensors").read_bytes() == (calm / "model/model.safetensors").read_bytes()


def test_other_shards_settings_and_tokenizers_are_refused(data: Path, calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm, tmp_path / "copy")
    task = task_in(data, tmp_path / "copy")
    with pytest.raises(OtherDataError, match=r"\(shards\)"):
        run(STAGE, shards(data)[::-1], task)
    with pytest.raises(OtherDataError, match=r"\(settings\)"):
        run(STAGE.model_copy(update={"lr": 1e-4}), shards(data), task)
    with pytest.raises(OtherDataError, match=r"\(steps\)"):
        run(STAGE.model_copy(update={"max_steps": 12}), shards(data), task)
    other = tiny_tokenizer(tmp_path / "tokenizer")
    other.write_bytes(other.read_bytes() + b" ")
    with pytest.raises(ValueError, match="another tokenizer"):
        run(STAGE, shards(data), Task("07-train", 0, 0, 1, tmp_path, tmp_path, {"tokenizer": tmp_path / "tokenizer"}))


def test_a_checkpoint_of_another_version_is_refused(
    data: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(calm, tmp_path / "copy")
    monkeypatch.setattr(Train, "version", Train.version + 1)
    with pytest.raises(OtherDataError, match=r"\(version\)"):
        run(STAGE, shards(data), task_in(data, tmp_path / "copy"))


def test_no_rows_and_shards_of_several_packings_are_told(data: Path, tmp_path: Path) -> None:
    meta = pack_meta(data / "tokenizer/tokenizer.json")
    write_rows(tmp_path / "empty.parquet", 0, meta, 0)
    write_rows(tmp_path / "other.parquet", 3, {**meta, "seed": 1}, 0)
    for paths in ([], [tmp_path / "empty.parquet"]):
        with pytest.raises(ValueError, match="no packed rows"):
            run(STAGE, paths, task_in(data, tmp_path / "run"))
    with pytest.raises(ValueError, match="not packed together"):
        Rows([*shards(data), tmp_path / "other.parquet"], 0)


def test_an_epoch_reads_each_row_once_and_any_batch_alone(data: Path) -> None:
    rows = Rows(shards(data), 5)
    assert rows.total == 65

    def ids(number: int, source: Rows = rows) -> torch.Tensor:
        return source.batch(number, 13).ids.view(13, LENGTH)

    first, second = (torch.cat([ids(k) for k in range(e, e + 5)]) for e in (0, 5))
    stored = np.concatenate([np.array(pq.read_table(path)["input_ids"].to_pylist()) for path in shards(data)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(stored.tolist())
    assert not torch.equal(first, second)
    for number in (4, 0, 7):
        alone = ids(number, Rows(shards(data), 5))
        assert torch.equal(alone, torch.cat([first, second])[number * 13 : (number + 1) * 13])
    assert not torch.equal(ids(3, Rows(shards(data), 6)), ids(3))
    in_order = torch.cat([batch.ids for batch, _ in rows.in_order(45, 8)])
    assert in_order.view(-1, LENGTH).tolist() == stored[:45].tolist()


def test_parts_of_a_batch_make_the_batch(data: Path) -> None:
    rows = Rows(shards(data), 5)
    whole = rows.batch(3, 12)
    for parts in (2, 3, 6):
        split = [rows.batch(3, 12, part, parts) for part in range(parts)]
        for name in ("ids", "positions", "labels"):
            assert torch.equal(torch.cat([getattr(one, name) for one in split]), getattr(whole, name))
        assert np.concatenate([one.lengths for one in split]).tolist() == whole.lengths.tolist()


def test_decoding_runs_ahead_in_order_and_tells_what_went_wrong() -> None:
    made: list[int] = []
    told = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 2:
            told.set()
        if number == 7:
            raise ValueError("seven")
        return number * number

    stream = ahead(make, range(9))
    assert next(stream) == 0
    assert told.wait(5)
    assert made[:3] == [0, 1, 2]
    with pytest.raises(ValueError, match="seven"):
        list(stream)
    assert list(ahead(make, range(5))) == [0, 1, 4, 9, 16]


def test_accumulated_gradients_are_those_of_the_whole_batch(data: Path, tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        stage = STAGE.model_copy(update={"accumulate": parts})
        rows = Rows(shards(data), 0)
        loop = Loop(stage, task_in(data, tmp_path / str(parts)), Model(shape_of(STAGE, rows.meta["vocab_size"])), rows)
        made = loop._parts(0)
        loss = loop.gradients(made, sum(batch.known() for batch, _ in made))
        found.append([loss.detach(), *(weight.grad for weight in loop.model.parameters())])
    assert len({int(batch.known()) for batch, _ in made}) > 1
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=1e-6)


def test_bits_per_byte_by_hand() -> None:
    model = Model(SHAPE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    batch = collate([(np.arange(8, dtype=np.int32), np.array([5, 2], np.int32))])
    spelt = [b"", b"ab", b"c", b"d", b"", b"ef", b"ghi"] + [b""] * 90
    held = HeldOut.of([(batch, [("web/a.jsonl", "en"), ("books", ""), ("", "")])], spelt)
    # labels 1 2 3 4 of the first segment and 6 of the second: 2 + 1 + 1 + 0 and 3 bytes
    bits = math.log2(97)
    found = held.measure(model, World())
    expected = {
        "": 5 * bits / 7,
        "source web": bits,
        "language en": bits,
        "source books": bits / 3,
        "language ": bits / 3,
    }
    assert {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()} == found
    xz = 8 * len(lzma.compress(b"abcdghi", preset=9 | lzma.PRESET_EXTREME)) / 7
    counted = Ngrams([batch], 97)
    assert held.baselines(counted) == {
        "bytes": 7,
        "trigram_bits_per_byte": round(plain_ngram_nats([batch], batch, 97).sum() / math.log(2) / 7, 4),
        "xz_bits_per_byte": round(xz, 4),
        "unigram_bits_per_byte": round(5 * math.log2(5) / 7, 4),
        "uniform_bits_per_byte": round(5 * bits / 7, 4),
    }


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=2, max_size=5),
    st.integers(2, 6),
    st.randoms(),
)
def test_trigrams_are_the_plain_ones(lengths: list[list[int]], vocab: int, chance: Random) -> None:
    batches = [
        collate([(np.array([chance.randrange(vocab) for _ in range(sum(row))], np.int32), np.array(row, np.int32))])
        for row in lengths
    ]
    found = Ngrams(batches[1:], vocab).nats(batches[0]) if any(b.known() for b in batches[1:]) else None
    if found is not None:
        assert found == pytest.approx(plain_ngram_nats(batches[1:], batches[0], vocab))


def test_trigrams_are_counted_on_the_first_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(shards(data), 0)
    counted = [batch.ids.view(-1, LENGTH) for batch in training_batches(rows)]
    stored = [row for group in range(len(rows.groups)) for row in rows.group(group).ids.tolist()]
    assert torch.cat(counted).tolist() == stored
    monkeypatch.setattr(ngram_module, "MOST", 20 * LENGTH - 1)
    assert torch.cat([batch.ids.view(-1, LENGTH) for batch in training_batches(rows)]).tolist() == stored[:20]


def test_spelling_is_the_tokenizers_own(data: Path) -> None:
    tokenizer = Tokenizer.from_file(str(data / "tokenizer/tokenizer.json"))
    spelt, text = spelling(tokenizer), "the mill 磨坊 é 🏠"
    assert b"".join(spelt[number] for number in tokenizer.encode(text).ids).decode() == text


def test_the_books_of_a_run(calm: Path, data: Path) -> None:
    summary = json.loads((calm / "summary.json").read_text())
    rows = Rows(shards(data), 0)
    assert summary["tokens"] == sum(rows.batch(k, 4).known() for k in range(9))
    scores = summary["validation"]
    assert scores["bits_per_byte_after"] < scores["bits_per_byte_before"]
    assert set(scores["bits_per_byte"]) == {"source web", "source books", "language en", "language "}
    assert [one["prompt"] for one in json.loads((calm / "samples.json").read_text())] == list(STAGE.prompts)
    assert all(0 < line["mfu"] < 1 and line["seconds_left"] >= 0 for line in metrics(calm))


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False, "tied": False, "heads": 4}])
def test_transformers_loads_the_model_and_agrees(
    data: Path, calm: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    from transformers import AutoModelForCausalLM

    if changes:
        run(STAGE.model_copy(update=changes), shards(data), task_in(data, tmp_path))
    folder = tmp_path / "model" if changes else calm / "model"
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, _ = load_model(folder)
    ids = torch.arange(100, 120)
    with torch.no_grad():
        where = layout([20], ours.shape.heads, ours.shape.kv_heads)
        logits = ours.logits(ours(ids, torch.arange(20), where))
        assert torch.allclose(theirs(ids[None]).logits[0], logits, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"optimizer": "adamw"}, {"precision": "bf16"}, {"schedule": "wsd", "z_loss": 1e-4, "accumulate": 2}]
)
def test_every_way_of_training_learns_and_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    stage = STAGE.model_copy(update=changes)
    run(stage, shards(data), task_in(data, tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoints/step-000009")
    run(stage, shards(data), task_in(data, tmp_path / "b"))
    assert deterministic(tmp_path / "a") == deterministic(tmp_path / "b")
    scores = json.loads((tmp_path / "a/summary.json").read_text())["validation"]
    assert scores["bits_per_byte_after"] < scores["bits_per_byte_before"] - 0.1


WORKER = """
import sys, torch
from pathlib import Path
from pipeline.stage import Task
from stages.train import Train
torch.set_num_threads(1)
data, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
stage = Train.model_validate_json(settings)
task = Task("t", 0, 0, 1, out, out, artifacts={"tokenizer": data / "tokenizer"})
stage._run(sorted(data.glob("part-*.parquet")), task)
"""


def torchrun(data: Path, folder: Path, stage: Train) -> None:
    """Trains in two processes over gloo."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "worker.py").write_text(WORKER)
    code = [sys.executable, "-W", "ignore", str(folder / "worker.py"), str(data), str(folder), stage.model_dump_json()]
    root = str(Path(__file__).parents[1])
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(29500 + os.getpid() % 999),
    }
    started = [
        subprocess.Popen(code, env={**common, "RANK": str(k), "LOCAL_RANK": str(k), "PYTHONPATH": root}) for k in (0, 1)
    ]
    assert [one.wait(120) for one in started] == [0, 0]


@pytest.mark.parametrize(
    ("spread", "accumulate", "start", "optimizer"),
    [("ddp", 2, 0, "adamw"), ("fsdp", 1, 6, "adamw"), ("ddp", 2, 0, "muon"), ("fsdp", 1, 6, "muon")],
)
def test_two_processes_compute_what_one_does_also_going_on_from_its_checkpoint(
    data: Path, calm: Path, tmp_path: Path, spread: str, accumulate: int, start: int, optimizer: str
) -> None:
    stage, alone, folder = STAGE.model_copy(update={"optimizer": optimizer}), calm, tmp_path / "two"
    if optimizer != STAGE.optimizer:
        alone = tmp_path / "alone"
        run(stage, shards(data), task_in(data, alone))
    if start:
        shutil.copytree(alone / "checkpoints/step-000006", folder / "checkpoints/step-000006")
    torchrun(data, folder, stage.model_copy(update={"spread": spread, "accumulate": accumulate}))
    for line, expected in zip(metrics(folder), metrics(alone)[start:], strict=True):
        assert math.isclose(line["loss"], expected["loss"], rel_tol=0, abs_tol=2e-6)
    ours, theirs = (load_model(one / "model")[0].parameters() for one in (folder, alone))
    assert all(torch.allclose(one, other, atol=2e-6) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_muon_in_bf16_is_torchs_and_in_fp32_the_same_but_for_rounding(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    for weight in weights[1:]:
        weight.data.copy_(weights[0])
    optimizers = [
        torch.optim.Muon([weights[0]], 0.02, 0.1, adjust_lr_fn="match_rms_adamw"),
        Muon([weights[1]], 0.02, 0.1, torch.bfloat16),
        Muon([weights[2]], 0.02, 0.1, torch.float32),
    ]
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(weights[0], weights[1])
    assert torch.allclose(weights[0], weights[2], atol=2e-3)
    assert not torch.equal(weights[0], weights[2])
    found = torch.linalg.svdvals(orthogonal(torch.randn(shape), torch.float32))
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_the_rate_rises_and_falls_as_said() -> None:
    cosine = [rate_at(step, 100, 0.1, 0.1, None) for step in range(100)]
    assert cosine[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.55)
    assert 0.1 < cosine[99] < 0.102
    wsd = [rate_at(step, 100, 0.1, 0.1, 0.2) for step in range(100)]
    assert wsd[9:81] == [1.0] * 72
    assert wsd[90] == pytest.approx(0.55)
    assert wsd[99] == pytest.approx(0.1 + 0.9 / 20)


def test_the_guard_refuses_what_is_not_finite_and_spikes_and_gives_up() -> None:
    guard = Guard(10.0)
    assert not guard.refuses(1.0, 1e9)  # no window yet
    assert not any(guard.refuses(1.0, 1.0) for _ in range(WINDOW))
    assert guard.refuses(1.0, 11.0)
    assert guard.refuses(math.nan, 1.0)
    assert guard.refuses(1.0, math.inf)
    again = Guard(10.0, **json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.refused == 3
    assert not again.refuses(1.0, 9.0)
    assert not Guard(0.0, [1.0] * WINDOW).refuses(1.0, 1e9)
    with pytest.raises(FloatingPointError, match="lower the rate"):
        [again.refuses(math.nan, 1.0) for _ in range(PATIENCE)]


def test_a_refused_step_leaves_the_weights(data: Path, tmp_path: Path) -> None:
    rows = Rows(shards(data), 0)
    loop = Loop(STAGE, task_in(data, tmp_path), Model(shape_of(STAGE, rows.meta["vocab_size"])), rows)
    with torch.no_grad():
        loop.model.model.norm.weight[0] = math.nan
    before = [weight.detach().clone() for weight in loop.model.parameters()]
    loop.advance(loop._parts(0))
    assert loop.guard.refused == 1
    for one, other in zip(before, loop.model.parameters(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_shapes_and_batches_that_cannot_be_are_told() -> None:
    assert not Train().check([])
    assert [problem.loc for problem in Train(width=100, heads=3).check([])] == [("heads",)]
    assert [problem.loc for problem in Train(batch=8, accumulate=3).check([])] == [("accumulate",)]
    for depth in range(1, 20):
        width, heads, kv_heads, _ = Train(depth=depth).shape()
        assert width % (2 * heads) == heads % kv_heads == 0
