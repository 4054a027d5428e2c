"""Seeds: no two choices share a stream, and what is packed and trained on comes in an order without a pattern."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import seeds
from pipeline.rows import DOCUMENT
from pipeline.stage import Exchange, Task
from stages.pack import Pack
from stages.train.data import Rows
from tests.oracles_train import tiny_tokenizer

ROOT = Path(__file__).parents[1]
LENGTH = 8
ROWS_OF_LONG = (1900, 1500, 1300, 900)
"""Rows of the long documents: few and long, so that many neighbours share one by chance and the count has little noise
(a standard deviation of 2 %)."""


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("pipeline", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.startswith("make_") and path.name != "seeds.py":
                yield path.name, path.read_text("utf-8")


def domains() -> set[str]:
    return {name for _, text in sources() for name in re.findall(r'\b(?:generator|number)\("([a-z_.]+)"', text)}


def test_the_table_of_domains_is_what_the_code_uses() -> None:
    told = re.findall(r"^\| `([a-z_.]+)` \|", seeds.__doc__ or "", re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == domains()


def test_nothing_seeds_a_generator_by_itself() -> None:
    wild = (
        r"PCG64|SeedSequence|default_rng|RandomState|np\.random\.seed|random\.Random|manual_seed\((?!seeds\.number\()"
    )
    assert [(name, found) for name, text in sources() for found in re.findall(wild, text)] == []


def test_no_two_domains_or_parts_share_a_stream() -> None:
    values = (0, 1, 2, 23, 1 << 32, -1)
    parts = [one for size in range(4) for one in product(values, repeat=size)]
    every = [(domain, *one) for domain in domains() for one in parts]
    numbers = {seeds.number(*one) for one in every}
    low = {number & 0xFFFFFFFF for number in numbers}
    streams = {tuple(seeds.generator(*one).integers(0, 1 << 63, 2).tolist()) for one in every}
    assert len(numbers) == len(low) == len(streams) == len(every)


def test_a_stream_is_the_same_for_any_kind_of_integer_and_stays_so() -> None:
    assert seeds.number("a", 3) == seeds.number("a", np.int64(3)) == 0xA598F3AB31D8D52F
    assert seeds.generator("a", 3).permutation(8).tolist() == [3, 0, 6, 1, 4, 2, 5, 7]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.RecordBatch]:
    """A tokenizer, and a few long documents among many short ones, all of random letters."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny_tokenizer(folder)
    chance = np.random.default_rng(0)
    sizes = [*(LENGTH * rows for rows in ROWS_OF_LONG), *chance.integers(1, LENGTH, 600).tolist()]
    texts = [bytes(chance.integers(ord("A"), ord("Z"), size).astype(np.uint8)).decode() for size in sizes]
    rows = [{"id": f"d{k}", "text": text, "source": f"in:{k}"} for k, text in enumerate(texts)]
    return folder, pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def packed(folder: Path, corpus: tuple[Path, pa.RecordBatch], stage: Pack, seed: int, partitions: int) -> list[Path]:
    """Shards as a run packs them in so many partitions, of several row groups each."""
    tokenizer, batch = corpus
    (step,) = stage.steps()
    assert isinstance(step, Exchange)
    assert step.gather is not None
    tasks = [
        Task("p", seed, k, partitions, folder, folder, artifacts={"tokenizer": tokenizer}) for k in range(partitions)
    ]
    scattered = pa.Table.from_batches([emit.rows for emit in step.scatter(iter([batch]), tasks[0])])
    scattered = scattered.sort_by([("key", "ascending"), ("ref", "ascending")])
    places = [key * partitions >> 64 for key in scattered["key"].to_pylist()]
    for task in tasks:
        part = scattered.filter(pa.array([place == task.index for place in places]))
        rows = [emit.rows for emit in step.gather(iter(part.to_batches()), task) if emit.rows is not None]
        pq.write_table(pa.Table.from_batches(rows), folder / f"part-{task.index:05}.parquet", row_group_size=2000)
    return sorted(folder.glob("part-*.parquet"))


def in_order(shards: list[Path], seed: int, epoch: int = 0) -> list[dict[str, int]]:
    """The rows of an epoch in the order in which the trainer reads them: document → its first token in the row."""
    stored = [row for path in shards for row in pq.read_table(path).to_pylist()]
    by_tokens: dict[tuple[int, ...], list[dict[str, int]]] = {}
    for row in stored:
        segments = dict(zip(row["doc_ids"], row["doc_offsets"], strict=True))
        by_tokens.setdefault(tuple(row["input_ids"]), []).append(segments)
    rows = Rows(shards, seed)
    ids = rows.batch(epoch, rows.total).ids.view(-1, LENGTH)
    found = [by_tokens[tuple(row)].pop() for row in ids.tolist()]
    assert not any(by_tokens.values())
    return found


def assert_shuffled(rows: list[dict[str, int]]) -> None:
    """Two rows of n meet in an ideal shuffle with probability 2 / n."""
    pieces = Counter(name for row in rows for name in row)
    pairs = sum(count * (count - 1) // 2 for count in pieces.values())
    met = [(one[name], other[name]) for one, other in pairwise(rows) for name in one.keys() & other.keys()]
    assert len(met) == pytest.approx(2 * pairs / len(rows), rel=0.1)
    assert sum(abs(first - second) <= LENGTH for first, second in met) < 20, "two are to be expected"


@pytest.mark.parametrize("partitions", [1, 2, 8])
@pytest.mark.parametrize("seed", range(10))
def test_neighbours_share_a_document_as_often_as_in_an_ideal_shuffle(
    corpus: tuple[Path, pa.RecordBatch], tmp_path: Path, seed: int, partitions: int
) -> None:
    shards = packed(tmp_path, corpus, Pack(sequence_length=LENGTH, validation=0), seed, partitions)
    assert_shuffled(in_order(shards, seed))


def test_streams_cut_into_rows_and_later_epochs_are_shuffled_too(
    corpus: tuple[Path, pa.RecordBatch], tmp_path: Path
) -> None:
    shards = packed(tmp_path, corpus, Pack(sequence_length=LENGTH, validation=0, algorithm="concat"), 0, 2)
    first, second = in_order(shards, 0), in_order(shards, 0, epoch=1)
    assert_shuffled(first)
    assert_shuffled(second)
    assert first != second


def test_more_row_groups_than_a_window_are_each_read_once(
    corpus: tuple[Path, pa.RecordBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.train.data.WINDOW", 3)
    shards = packed(tmp_path, corpus, Pack(sequence_length=LENGTH, validation=0), 3, 2)
    assert sum(pq.ParquetFile(path).num_row_groups for path in shards) == 4
    whole = in_order(shards, 3)
    rows = Rows(shards, 3)
    again = [rows.batch(number, 1).ids.tolist() for number in (5, rows.total - 1, 4500, 5)]
    ordered = rows.batch(0, rows.total).ids.view(-1, LENGTH).tolist()
    assert again == [ordered[number] for number in (5, rows.total - 1, 4500, 5)]
    assert len(whole) == rows.total
