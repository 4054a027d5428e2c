"""Packing: every token once and in its place, no needless cut, the same rows for any batches."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT
from pipeline.stage import Emit, Task
from stages.encoder import Encoder, digest
from stages.kernels.arrow import read_only
from stages.kernels.pack import best_fit, fill, frame
from stages.pack import Pack
from stages.packed_rows import METADATA, PACKED
from stages.tokenizer_bpe import train_bpe
from stages.tokenizer_files import save
from tests import oracles_pack

WORDS = "the mill grinds slowly 磨坊 мельница <|eos|> but it grinds exceedingly fine 🌾".split()
ALGORITHMS = ("best_fit", "concat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, specials = tmp_path_factory.mktemp("tokenizer"), ("<|bos|>", "<|eos|>", "<|pad|>")
    texts = pa.chunked_array([pa.array([" ".join(WORDS)] * 3, pa.large_string())])
    save(train_bpe(texts, "o200k", 300, specials), path, "o200k", specials)
    return path


def documents(sizes: list[int]) -> pa.RecordBatch:
    """Documents of so many words, all different."""
    texts = [" ".join(WORDS[(k * 7 + i) % len(WORDS)] for i in range(n)) for k, n in enumerate(sizes)]
    rows = [{"id": f"{k % 3}-{k}", "text": t, "source": f"{k % 3}.txt:{k}", "lang": "en"} for k, t in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def run(stage: Pack, batches: list[pa.RecordBatch], folder: Path, seed: int = 0, size: int = 100) -> list[Emit]:
    """The stage on one shard, in one partition handed over in batches of `size` rows."""
    _, step = stage.steps()
    task = Task("10-pack", seed, 0, 1, folder, folder, artifacts={"tokenizer": folder})
    scattered = list(step.scatter(iter(batches), task))
    table = pa.Table.from_batches([e.rows for e in scattered if e.rows is not None], step.scattered)
    table = table.sort_by([(name, "ascending") for name in (step.key, *step.order)])
    return scattered + list(step.gather(iter(table.to_batches(max_chunksize=size)), task))


def totals(emits: list[Emit]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for emit in emits:
        for name, n in emit.counters.items():
            assert type(n) is int
            sums[name] = sums.get(name, 0) + n
    return sums


def packed(emits: list[Emit], *, held: bool) -> list[dict[str, object]]:
    batches = [e.aside.get("validation") if held else e.rows for e in emits]
    return [row for b in batches if b is not None and b.schema.names == PACKED.names for row in b.to_pylist()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ends", [(True, True), (False, True), (False, False)])
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=40), length=st.integers(8, 80))
@settings(deadline=None, max_examples=15)
def test_every_token_is_packed_once_in_its_place(
    folder: Path, algorithm: str, ends: tuple[bool, bool], sizes: list[int], length: int
) -> None:
    batch, (bos, eos) = documents(sizes), ends
    stage = Pack(sequence_length=length, algorithm=algorithm, validation=0.3, bos=bos, eos=eos)
    emits = run(stage, [batch], folder)
    ids, offsets = Encoder(folder).encode(batch["text"])
    own = [[297] * bos + ids[a:b].tolist() + [298] * eos for a, b in itertools.pairwise(offsets)]
    expected = {name: tokens for name, tokens in zip(batch["id"].to_pylist(), own, strict=True) if tokens}
    parts = [oracles_pack.unpack(packed(emits, held=held), length, 299) for held in (False, True)]
    assert not parts[0].keys() & parts[1].keys()
    found = parts[0] | parts[1]
    assert {name: oracles_pack.joined(segments) for name, segments in found.items()} == expected
    counted = totals(emits)
    assert (counted["documents"], counted["documents_validation"]) == (len(sizes), len(parts[1]))
    assert counted["tokens"] == sum(map(len, own))
    assert counted["tokens"] == counted.get("tokens_packed", 0) + counted.get("tokens_packed_validation", 0)
    dropped = [row for e in emits if e.drops is not None for row in e.drops.to_pylist()]
    assert {row["id"] for row in dropped} == set(batch["id"].to_pylist()) - expected.keys()
    assert all(row["rule"] == "empty" for row in dropped)
    cuts = [name for name, segments in found.items() if len(segments) > 1]
    needless = [name for name in cuts if len(expected[name]) <= length]
    for key, names in (("cut_documents", cuts), ("needless_cuts", needless)):
        assert counted.get(key, 0) + counted.get(f"{key}_validation", 0) == len(names)
    if algorithm == "best_fit":
        assert all(len(segments) == -(-len(expected[name]) // length) for name, segments in found.items())
    for suffix, held in (("", False), ("_validation", True)):
        lines = packed(emits, held=held)
        assert counted.get(f"rows{suffix}", 0) == len(lines)
        assert counted.get(f"padding_tokens{suffix}", 0) == sum(length - sum(row["seq_lengths"]) for row in lines)
        if algorithm == "concat":
            assert sum(sum(row["seq_lengths"]) < length for row in lines) <= 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_batches_change_nothing_and_seeds_change_the_rows_but_not_the_split(folder: Path, algorithm: str) -> None:
    batch = documents([k % 23 for k in range(300)])
    stage = Pack(sequence_length=32, algorithm=algorithm, validation=0.1)
    once = run(stage, [batch], folder)
    again = run(stage, [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7)], folder, size=3)
    other = run(stage, [batch], folder, seed=1)
    for held in (False, True):
        assert packed(once, held=held) == packed(again, held=held)
        assert packed(once, held=held) != packed(other, held=held)
        names = [{i for row in packed(e, held=held) for i in row["doc_ids"]} for e in (once, other)]
        assert names[0] == names[1]
    assert 10 < totals(once)["documents_validation"] < 60
    assert totals(once) == totals(again)


def test_long_and_short_pieces_are_mixed_within_and_between_rows(folder: Path) -> None:
    emits = run(Pack(sequence_length=64, validation=0), [documents([k % 19 for k in range(600)])], folder)
    rows = [row["seq_lengths"] for row in packed(emits, held=False)]
    first = [max(range(len(row)), key=row.__getitem__) for row in rows if len(row) > 1]
    assert 0 < sum(k == 0 for k in first) < 0.8 * len(first), "the longest piece is not always the first"
    longest = [max(row) for row in rows]
    assert longest != sorted(longest, reverse=True)


def test_best_fit_wastes_little_where_concat_cuts_much(folder: Path) -> None:
    batch = documents([int(k) for k in np.random.default_rng(0).lognormal(2.5, 1, 400)])
    counted = {
        a: totals(run(Pack(sequence_length=128, algorithm=a, validation=0), [batch], folder)) for a in ALGORITHMS
    }
    assert counted["concat"]["needless_cuts"] > 20
    assert counted["best_fit"]["needless_cuts"] == 0
    assert counted["best_fit"]["rows"] <= counted["concat"]["rows"] + 1


def test_the_file_says_what_is_in_it(folder: Path) -> None:
    emits = run(Pack(sequence_length=16, eos=False), [documents([5, 9])], folder, seed=3)
    schema = next(e.rows.schema for e in emits if e.rows is not None and e.rows.schema.names == PACKED.names)
    assert json.loads(schema.metadata[METADATA.encode()]) == {
        "format": 1,
        "sequence_length": 16,
        "algorithm": "best_fit",
        "seed": 3,
        "bos": True,
        "eos": False,
        "tokenizer_sha256": digest(folder),
        "bos_id": 297,
        "eos_id": None,
        "pad_id": 299,
        "roles": {
            "bos": {"token": "<|bos|>", "from": "tokenizer_config.json"},
            "eos": None,
            "pad": {"token": "<|pad|>", "from": "tokenizer_config.json"},
        },
        "vocab_size": 300,
    }


def test_a_partition_without_rows_still_says_what_it_is(folder: Path) -> None:
    task = Task("10-pack", 0, 0, 1, folder, folder, artifacts={"tokenizer": folder})
    emit, _ = Pack()._pack(iter([]), task)
    assert len(emit.rows) == 0
    assert METADATA.encode() in emit.rows.schema.metadata


def test_a_tokenizer_that_is_none_is_a_problem_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    assert Pack(tokenizer="tokenizer.json").check([folder]) == []
    for name in ("bad.json", "nothing.json"):
        (problem,) = Pack(tokenizer=name).check([tmp_path])
        assert problem.loc == ("tokenizer",)
        assert name in problem.message


@given(st.lists(st.integers(1, 70), max_size=60), st.integers(1, 70))
@settings(deadline=None)
def test_best_fit_is_its_slow_twin(lengths: list[int], room: int) -> None:
    lengths = sorted((min(n, room) for n in lengths), reverse=True)
    assert best_fit(read_only(np.array(lengths, np.int64)), room).tolist() == oracles_pack.best_fit(lengths, room)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5), st.sampled_from([-1, 10]), st.sampled_from([-1, 11])
)
@settings(deadline=None)
def test_frame_is_its_slow_twin(lists: list[list[int]], bos: int, eos: int) -> None:
    ids = np.array([t for one in lists for t in one], np.int32)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    assert frame(read_only(ids), read_only(offsets), bos, eos).tolist() == oracles_pack.frame(lists, bos, eos)


def test_a_row_too_full_shows_as_too_few_tokens() -> None:
    rows = np.full((2, 4), -1, np.int32)
    tokens, ones = np.arange(9, dtype=np.int32), np.array([0, 3, 6])
    done = fill(
        read_only(tokens), read_only(ones), read_only(np.array([3, 3, 3])), read_only(np.array([0, 0, 1])), rows
    )
    assert done == 7
    assert rows.tolist() == [[0, 1, 2, 3], [6, 7, 8, -1]]
