"""Draws by id: equal for unique ids whatever the batches; ids that repeat are spread out, and told."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from pipeline.rows import DOCUMENT
from pipeline.stage import Task
from stages.draws import Draws
from stages.pack import Pack
from stages.tokenizer import Tokenizer
from tests.test_pack import folder, packed, totals
from tests.test_pack import run as packing
from tests.test_tokenizer import run as training

__all__ = ["folder"]


def documents(count: int, ids: int, shard: str = "a") -> pa.RecordBatch:
    """Documents of which only so many have ids of their own; the others take them again."""
    rows = [
        {"id": f"id{k % ids}", "text": f"the mill {k} grinds {k * 7} grains", "source": f"{shard}:{k}", "lang": "en"}
        for k in range(count)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def test_unique_ids_are_hashed_as_they_are() -> None:
    batch = documents(50, 50)
    expected = [[xxhash.xxh3_64_intdigest(one.encode(), seed) for one in batch["id"].to_pylist()] for seed in (3, 9)]
    draws = Draws(3, 9)
    parts = [draws.of(batch.slice(0, 20)), draws.of(batch.slice(20, 0)), draws.of(batch.slice(20))]
    assert [np.concatenate(column).tolist() for column in zip(*parts, strict=True)] == expected
    assert draws.repeated == 0


def test_ids_that_repeat_get_numbers_of_their_own() -> None:
    batch = documents(1000, 10)
    draws, again = Draws(0), Draws(0)
    (numbers,) = draws.of(batch)
    assert len(set(numbers.tolist())) == 1000
    assert 400 < (numbers < np.uint64(1 << 63)).sum() < 600
    assert draws.repeated == 990
    assert np.concatenate([again.of(batch.slice(0, 7))[0], again.of(batch.slice(7))[0]]).tolist() == numbers.tolist()
    same = pa.RecordBatch.from_pylist(batch.slice(0, 1).to_pylist() * 3, schema=DOCUMENT)
    assert len(set(Draws(0).of(same)[0].tolist())) == 3, "even where sources are the same"


def test_a_tokenizer_learns_from_documents_of_one_id_and_tells(tmp_path: Path) -> None:
    batch = documents(600, 1)
    size = sum(len(text) for text in batch["text"].to_pylist())
    counters = training(Tokenizer(vocab_size=300, sample_bytes=size // 3), [[batch]], tmp_path)
    assert 0.3 * size < counters["sample_bytes"] < 0.4 * size
    assert (counters["vocabulary"], counters["words"] > 10) == (300, True)
    notes = json.loads((tmp_path / "tokenizer/highlights.json").read_text(encoding="utf-8"))
    assert notes["repeated ids"].startswith("599 documents have the id of an earlier one")
    assert "599 documents" in (tmp_path / "tokenizer/stats.md").read_text(encoding="utf-8")


def test_a_vocabulary_smaller_than_asked_for_is_told(tmp_path: Path) -> None:
    counters = training(Tokenizer(vocab_size=5000, compare_gpt2=False), [[documents(40, 40)]], tmp_path)
    notes = json.loads((tmp_path / "tokenizer/highlights.json").read_text(encoding="utf-8"))
    assert notes["vocabulary"].startswith(f"{counters['vocabulary']:,} of the 5,000 tokens asked for")
    assert "repeated ids" not in notes


def test_pack_holds_out_a_share_of_documents_of_one_id_and_counts_them(folder: Path) -> None:
    emits = packing(Pack(sequence_length=64, validation=0.3), [documents(400, 1)], folder)
    counted = totals(emits)
    assert counted["repeated_ids"] == 399
    assert 80 < counted["documents_validation"] < 160
    assert sum(len(row["doc_ids"]) for held in (False, True) for row in packed(emits, held=held)) >= 400


def test_pack_counts_an_id_that_comes_again_in_another_shard(folder: Path) -> None:
    emits = packing(Pack(sequence_length=64, validation=0), [documents(40, 40)], folder)
    assert totals(emits)["repeated_ids"] == 0
    step = Pack(sequence_length=64, validation=0).steps()[-1]
    rows = [
        {"key": k // 2, "ref": k, "id": f"id{k // 2}", "source": "a", "held": False, "tokens": [1]} for k in range(6)
    ]
    table = pa.Table.from_pylist(rows, step.scattered)
    emits = list(step.gather(iter(table.to_batches(max_chunksize=2)), task_in(folder)))
    assert totals(emits)["repeated_ids"] == 3


def task_in(folder: Path) -> Task:
    """A gathering task."""
    return Task("10-pack", 0, 0, 1, folder, folder, artifacts={"tokenizer": folder})
