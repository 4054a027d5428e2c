"""The trainer's commands: what a run would cost, training again, and what others can read of a run."""

import itertools
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stages.formats import export_rows
from stages.inference.bench import bench_inference
from stages.train import Train
from stages.train.command import packed, settings
from stages.train.estimate import advice, estimate, flops_per_token, gemm_peak, parameters
from stages.train.export import export
from stages.train.loop import shape_of
from stages.train.model import Model, Shape
from tests.conftest import Cli
from tests.oracles_train import LENGTH, SHAPE, pack_meta, tiny_tokenizer, write_rows

MANIFEST = {"version": 1, "fingerprint": "f", "parent": None, "artifacts": {}, "rules": {}, "counters": {}, "files": {}}
ROWS = {"read": 1, "kept": 1, "dropped": 0, "quarantined": 0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run: packed rows, held-out rows, a tokenizer."""
    run = tmp_path / "run"
    meta = pack_meta(tiny_tokenizer(run / "08-tokenizer"))
    write_rows(run / "09-pack/part-00000.parquet", 40, meta, 0)
    write_rows(run / "09-pack/part-00001.parquet", 9, meta, 1)
    write_rows(run / "09-pack/validation/gather-00000.parquet", 4, meta, 2)
    for name, use, gives in (
        ("08-tokenizer", "stages.tokenizer:Tokenizer", "artifact"),
        ("09-pack", "stages.pack:Pack", "rows"),
    ):
        manifest = {**MANIFEST, "stage": name, "use": use, "gives": gives, "settings": {}, "rows": ROWS}
        (run / name / "_manifest.json").write_text(json.dumps(manifest))
    return run


def stored(run: Path) -> tuple[np.ndarray, list[list[int]]]:
    rows = [row for path in sorted(run.glob("09-pack/part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    return np.array([row["input_ids"] for row in rows]), [row["seq_lengths"] for row in rows]


def segments(run: Path) -> list[list[int]]:
    found = []
    for ids, lengths in zip(*stored(run), strict=True):
        for end, size in zip(np.cumsum(lengths), lengths, strict=True):
            found.append(ids[end - size : end].tolist())
    return found


def test_nanogpt_reads_the_tokens_without_padding(run: Path, tmp_path: Path) -> None:
    names = [path.name for path in export_rows(run / "09-pack", tmp_path / "out", "nanogpt")]
    assert names == ["train.bin", "val.bin"]
    tokens = np.memmap(tmp_path / "out/train.bin", dtype=np.uint16, mode="r")
    assert tokens.tolist() == [token for segment in segments(run) for token in segment]


def test_megatron_finds_every_segment_by_its_index(run: Path, tmp_path: Path) -> None:
    export_rows(run / "09-pack", tmp_path, "megatron")
    index = (tmp_path / "train.idx").read_bytes()
    magic, version, kind, count, documents = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, kind) == (b"MMIDIDX\x00\x00", 1, 8)
    at = struct.calcsize("<9sQBQQ")
    sizes = np.frombuffer(index, np.int32, count, at)
    starts = np.frombuffer(index, np.int64, count, at + 4 * count)
    edges = np.frombuffer(index, np.int64, documents, at + 12 * count)
    assert len(index) == at + 12 * count + 8 * documents
    assert edges.tolist() == list(range(count + 1))
    data = (tmp_path / "train.bin").read_bytes()
    found = [np.frombuffer(data, np.uint16, n, p).tolist() for n, p in zip(sizes, starts, strict=True)]
    assert found == segments(run)


def test_mds_keeps_rows_and_segments(run: Path, tmp_path: Path) -> None:
    export_rows(run / "09-pack", tmp_path, "mds")
    ids, lengths = stored(run)
    index = json.loads((tmp_path / "train/index.json").read_text())
    assert [shard["samples"] for shard in index["shards"]] == [16, 16, 8, 9]
    found = []
    for shard in index["shards"]:
        data = (tmp_path / "train" / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        offsets = np.frombuffer(data, np.uint32, shard["samples"] + 1, 4)
        found += [data[a:b] for a, b in itertools.pairwise(offsets)]
    for sample, row, several in zip(found, ids, lengths, strict=True):
        (size,) = struct.unpack_from("<I", sample)
        assert sample[4:9] == struct.pack("<BI", 6, len(several))
        assert np.frombuffer(sample[9 : 4 + size], np.int32).tolist() == several
        assert np.frombuffer(sample[4 + size :], np.uint16).tolist() == row.tolist()


def test_parameters_are_those_of_the_model() -> None:
    for shape in (SHAPE, Shape(97, 3, 48, 6, 2, 80, qk_norm=False, tied=False), shape_of(Train(depth=6), 8192)):
        assert parameters(shape) == sum(weight.numel() for weight in Model(shape).parameters())


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from stages.train.attention import layout

    shape, length = Shape(97, 2, 64, 4, 2, 128), 256
    ids = torch.randint(0, 97, (length,))
    with FlopCounterMode(display=False) as counter:
        model = Model(shape)
        model(ids, torch.arange(length), layout([length], 4, 2), ids).backward()
    counted, said = counter.get_total_flops() / length, flops_per_token(shape, (length + 1) / 2)
    # ours makes the scores of a whole tile of 128, and those a second time in the backward pass
    assert said < counted < 1.25 * said


def test_an_estimate_adds_up() -> None:
    shape, cpu = shape_of(Train(depth=4), 8192), torch.device("cpu")
    cost = estimate(shape, 8, 512, 100, torch.float32, cpu)
    assert cost.tokens == 8 * 512 * 100
    assert cost.flops == pytest.approx(cost.tokens * flops_per_token(shape, 256))
    assert cost.seconds == pytest.approx(2 * cost.flops / cost.peak_flops)
    assert gemm_peak(torch.float32, cpu, 256) > 1e8
    # 6 · 10⁸ · 2 · 10⁹ operations: 100 M parameters on 2 B tokens
    lines = advice(shape, 1.2e18, 10**9)
    assert "100.0 M parameters on 2,000 M tokens" in lines[0]
    assert len(lines) == 1
    assert "passes" in advice(shape, 1.2e18, 10**8)[1]


def test_settings_of_a_run_can_be_changed_and_mistakes_are_told(run: Path) -> None:
    stage = settings(run, ["depth=3", "optimizer=muon", 'prompts=["a"]'])
    assert (stage.depth, stage.optimizer, stage.prompts) == (3, "muon", ("a",))
    for change, told in (("depth", "expected NAME=VALUE"), ("heads=5", "evenly"), ("dpeth=2", "dpeth")):
        with pytest.raises(ValueError, match=told):
            settings(run, [change])
    pack, tokenizer = packed(run)
    assert (pack.name, tokenizer.parent.name) == ("09-pack", "08-tokenizer")
    shutil.rmtree(run / "08-tokenizer")
    with pytest.raises(ValueError, match="--tokenizer"):
        packed(run)
    with pytest.raises(ValueError, match="no packed rows"):
        packed(run / "09-pack")


def test_inference_is_measured(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    meta = pack_meta(tokenizer)
    model = Model(Shape(int(str(meta["vocab_size"])), 2, 32, 2, 1, 64))
    export(model.shape, model.state_dict(), tmp_path / "model", tokenizer, meta)
    sizes = {}
    for weights in ("fp32", "bf16", "int8"):
        found = bench_inference(tmp_path / "model", 8, 4, 2, weights)
        assert all(value > 0 for value in found.values())
        assert found["tokens_per_second"] == pytest.approx(2 / found["token_seconds"])
        sizes[weights] = found["bytes_per_token"]
    cache = 2 * 2 * 2 * 1 * 16 * 10
    assert sizes["fp32"] == 4 * (sum(weight.numel() for weight in model.parameters()) + cache)
    assert sizes["bf16"] == sizes["fp32"] / 2
    assert sizes["int8"] < 0.6 * sizes["bf16"]


def test_from_the_command_line(run: Path, cli: Cli, tmp_path: Path) -> None:
    small = [word for s in ("depth=1", "width=32", "max_steps=2", "sample_tokens=2") for word in ("--set", s)]
    done = cli("train", run, "--out", tmp_path / "m", *small)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    planned = cli("train", run, "--plan", *small)
    assert f"{2 * 8 * LENGTH:,} in 2 steps" in planned.stdout
    exported = cli("export", tmp_path / "m", tmp_path / "hf")
    assert str(tmp_path / "hf/model.safetensors") in exported.stdout
    for words in (["train", run], ["export", run, tmp_path / "x"], ["export", run, tmp_path / "x", "--format", "y"]):
        wrong = cli(*words)
        assert wrong.returncode == 2
        assert "Traceback" not in wrong.stderr
