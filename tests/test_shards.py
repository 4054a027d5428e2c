"""Shards: cut by content alone, whole or absent; sorted runs merge to one order."""

import resource
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards, shuffle
from pipeline.shards import GONE, Cuts, Piece, ShardWriter, discard, file_stem, read_batches, row_bytes
from pipeline.shuffle import RunWriter, cut, merge

TEXT = pa.schema([("id", pa.string()), ("text", pa.large_string())])
PAIR = pa.schema([("key", pa.uint64()), ("order", pa.uint64()), ("text", pa.string())])


def batches_of(rows: list[dict[str, str]], sizes: list[int]) -> list[pa.RecordBatch]:
    batch, batches = pa.RecordBatch.from_pylist(rows, schema=TEXT), []
    for size in sizes:
        batches.append(batch.slice(0, size))
        batch = batch.slice(min(size, len(batch)))
    return [*batches, batch]


@given(st.lists(st.text(max_size=40), max_size=60), st.lists(st.integers(0, 9), max_size=12))
@settings(deadline=None)
def test_a_shard_has_the_same_bytes_however_its_rows_arrive(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], sizes: list[int]
) -> None:
    rows = [{"id": str(k), "text": text} for k, text in enumerate(texts)]
    files = []
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 100)
        for name, batches in (("a", batches_of(rows, [])), ("b", batches_of(rows, sizes))):
            with ShardWriter(folder, folder, name, TEXT) as writer:
                for batch in batches:
                    writer.write(batch)
            files.append((folder / f"{name}.parquet").read_bytes())
    assert files[0] == files[1]
    assert [r for b in read_batches(folder / "a.parquet") for r in b.to_pylist()] == rows


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path, tmp_path, "x", TEXT) as writer:
            writer.write(pa.RecordBatch.from_pylist([{"id": "1", "text": "a" * (9 << 20)}], schema=TEXT))
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_rolls_at_its_limit_and_refuses_other_columns(tmp_path: Path) -> None:
    row = pa.RecordBatch.from_pylist([{"id": "1", "text": "a" * (9 << 20)}], schema=TEXT)
    with ShardWriter(tmp_path, tmp_path, "x", TEXT, roll=1) as writer:
        writer.write(row)
        writer.write(row)
        with pytest.raises(pa.ArrowInvalid, match="not those declared"):
            writer.write(row.select(["id"]))
    assert [f.name for f in writer.files] == ["x.parquet", "x_001.parquet"]
    assert [f.rows for f in writer.files] == [1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.parquet", "x_001.parquet"]


@given(st.lists(st.text(max_size=40), max_size=60), st.lists(st.integers(0, 9), max_size=12), st.integers(1, 500))
@settings(deadline=None)
def test_cuts_end_files_where_the_writer_of_shards_does(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], sizes: list[int], roll: int
) -> None:
    rows = [{"id": str(k), "text": text} for k, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("cuts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 100)
        with ShardWriter(folder, folder, "x", TEXT, roll=roll, even_empty=False) as writer:
            for batch in batches_of(rows, []):
                writer.write(batch)
        cuts = Cuts(roll)
        pieces = [piece for batch in batches_of(rows, sizes) for piece in cuts.pieces(batch)]
    files: list[list[Piece]] = [[]]
    for piece in pieces:
        files[-1].append(piece)
        files += [[]] * piece.file_ends
    names = [file_stem("x", k) for k, file in enumerate(files) if file]
    assert [file.name for file in writer.files] == [f"{name}.parquet" for name in names]
    assert [file.rows for file in writer.files] == [sum(len(p.rows) for p in file) for file in files if file]
    assert [file.text_bytes for file in writer.files] == [sum(p.bytes for p in file) for file in files if file]
    assert [row for piece in pieces for row in piece.rows.to_pylist()] == rows


def test_row_bytes_counts_text_and_lists() -> None:
    batch = pa.record_batch(
        {
            "t": pa.array(["é", None, "ab"]),
            "l": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
            "n": pa.array([1, 2, 3]),
        }
    )
    assert row_bytes(batch).tolist() == [10, 0, 2]


def test_the_key_range_is_cut_without_gaps() -> None:
    for parts in (1, 3, 7):
        ranges = cut(parts)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 1 << 64
        assert all(a[1] == b[0] for a, b in pairwise(ranges))


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 3), st.text(max_size=5)), max_size=80),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_runs_merge_to_the_sorted_whole(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, str]], tasks: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    rows = [{"key": key, "order": k, "text": text} for k, (key, text) in enumerate(pairs)]
    paths = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "RUN_BYTES", 200)
        patch.setattr(shuffle, "MERGE_ROWS", 5)
        patch.setattr(shuffle, "MERGE_BYTES", 400)
        patch.setattr(shuffle, "BATCH_BYTES", 40)
        for task in range(tasks):
            writer = RunWriter(folder, task, PAIR, "key", ["order"])
            for row in rows[task::tasks]:
                writer.write(pa.RecordBatch.from_pylist([row], schema=PAIR))
            paths += writer.close()
        merged = [
            row
            for low, high in cut(3)
            for batch in merge(paths, "key", ["order"], low, high)
            for row in batch.to_pylist()
        ]
    assert merged == sorted(rows, key=lambda row: (row["key"], row["order"]))


def test_more_runs_than_a_process_may_open_files_are_merged(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    paths = [folder / f"run-{k:05}-0000.arrow" for k in range(1100)]
    for k, path in enumerate(paths):
        row = pa.record_batch([pa.array([k % 7], pa.uint64()), pa.array([k], pa.uint64()), ["text"]], schema=PAIR)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, PAIR) as writer:
            writer.write_batch(row)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        merged = [row["order"] for batch in merge(paths, "key", ["order"], 0, 1 << 64) for row in batch.to_pylist()]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert merged == sorted(range(1100), key=lambda k: (k % 7, k))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_what_a_merge_has_read_of_a_run_is_given_back(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    count = 1_000_000
    numbers = pa.array(np.arange(count, dtype=np.uint64))
    (path,) = _written(tmp_path, pa.record_batch([numbers, numbers, [""] * count], schema=PAIR))
    run = shuffle._Run(path)
    before = resident()
    run.rows["order"].to_numpy().sum()
    assert resident() - before > 4 << 20
    assert run.copy(5, 7)["order"].to_pylist() == [5, 6]
    assert resident() - before < 4 << 20


def _written(folder: Path, batch: pa.RecordBatch) -> list[Path]:
    writer = RunWriter(folder, 0, PAIR, "key", ["order"])
    writer.write(batch)
    return writer.close()


@pytest.mark.parametrize("order", [pa.uint64(), pa.int64()])
def test_the_rows_of_one_key_are_merged_in_parts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: pa.DataType
) -> None:
    """By the first order column where it is uint64, so that memory does not follow the rows of a key."""
    schema = pa.schema([("key", pa.uint64()), ("order", order), ("text", pa.string())])
    for name in ("RUN_BYTES", "MERGE_BYTES", "BATCH_BYTES"):
        monkeypatch.setattr(shuffle, name, 1 << 18)
    writer, rows = RunWriter(tmp_path, 0, schema, "key", ["order"]), 4000
    for start in range(4):
        numbers = range(start, rows, 4)
        columns = [pa.array([7] * len(numbers), pa.uint64()), pa.array(numbers, order), pa.array(["x" * 1000] * 1000)]
        writer.write(pa.record_batch(columns, schema=schema))
    paths, seen, before, most = writer.close(), list[int](), pa.total_allocated_bytes(), 0
    for batch in merge(paths, "key", ["order"], *cut(1)[0]):
        seen += batch["order"].to_pylist()
        most = max(most, pa.total_allocated_bytes() - before)
    assert len(paths) == 4
    assert seen == list(range(rows))
    assert (most < 2 << 20) == (order == pa.uint64())


def test_a_key_must_be_64_bits_wide(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="uint64"):
        RunWriter(tmp_path, 0, pa.schema([("key", pa.int64())]), "key", [])


def test_text_may_pass_two_gigabytes_of_offsets(tmp_path: Path) -> None:
    batch = pa.record_batch([pa.array(["a"]), pa.array(["b"], pa.large_string())], schema=TEXT)
    with ShardWriter(tmp_path, tmp_path, "x", TEXT) as writer:
        writer.write(batch)
    assert pq.read_schema(tmp_path / "x.parquet").field("text").type == pa.large_string()
    assert np.array_equal(row_bytes(batch), [2])


def test_a_folder_is_discarded_whole_with_what_an_earlier_removal_left(tmp_path: Path) -> None:
    for folder in ("mine", "other", f"{GONE}/mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    discard(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    discard(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
