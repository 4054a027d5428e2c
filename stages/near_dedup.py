"""Near-duplicates: MinHash bands find candidates, exact Jaccard decides.

Reads documents; writes those that stay, with the size of the group each stands for, drops that name survivor and
similarity, and the cluster
table `clusters/` (one row per candidate). Most tools remove on a hash collision, and a third of what they remove is
no duplicate; here a document goes only
if the exact Jaccard with its survivor reaches the limit, for one more read of the text. Memory: 16 bytes per candidate
document in clustering, `block_bytes` of shingles in verification.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.stage import Each, Emit, Exchange, Fold, Stage, Step, Task, drop_rows, with_column, with_field
from stages.kernels.arrow import read_only, text_buffers

EDGE = pa.schema([("low", pa.uint64()), ("high", pa.uint64())])
BAND = pa.schema([("key", pa.uint64()), ("ref", pa.uint64())])
CANDIDATE = pa.schema(
    [
        ("key", pa.uint64()),
        ("rank", pa.uint64()),
        ("ref", pa.uint64()),
        ("cluster", pa.uint64()),
        ("id", pa.string()),
        ("shingles", pa.list_(pa.uint64())),
    ]
)
DECISION = pa.schema(
    [
        ("shard", pa.uint64()),
        ("row", pa.uint64()),
        ("id", pa.string()),
        ("cluster", pa.uint64()),
        ("survivor", pa.string()),
        ("similarity", pa.float32()),
        ("kept", pa.bool_()),
        ("group_size", pa.int32()),
    ]
)
GROUP = pa.field("near_dedup", pa.struct([("group_size", pa.int32())]))
PRESETS = {"14x8": (14, 8), "20x13": (20, 13), "26x11": (26, 11)}


class NearDedup(Stage):
    """Drop documents whose shingles' exact Jaccard with a kept document reaches `similarity`.

    Bands and rows: datasketch's optimum for `similarity`, missed pairs weighing most, since a false candidate costs
    only time.
    """

    similarity: float = Field(0.8, gt=0, le=1, description="The Jaccard similarity at which a document is a duplicate.")
    shingle: int = Field(5, ge=1, description="Words in a shingle (characters in scripts without spaces).")
    hashes: int = Field(128, ge=2, le=1024, description="Hashes of a signature, where bands and rows are not given.")
    preset: Literal["14x8", "20x13", "26x11"] | None = Field(None, description="Bands × rows of FineWeb, NeMo, Olmo 3.")
    bands: int | None = Field(None, ge=1, description="Bands; give rows too.")
    rows: int | None = Field(None, ge=1, description="Rows of a band; give bands too.")
    verify: bool = Field(True, description="false: drop on candidacy alone, as other tools do.")
    keep: Literal["first", "longest"] = Field("first", description="Which of a group survives; ties: the first.")
    block_bytes: int = Field(
        256 << 20, ge=1 << 20, description="A cluster with more bytes of shingles is cut, and counted."
    )

    @model_validator(mode="after")
    def _one_banding(self) -> NearDedup:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give both bands and rows, or neither")
        if self.bands and self.preset:
            raise ValueError("give a preset or bands and rows, not both")
        return self

    def banding(self) -> tuple[int, int]:
        """(bands, rows) in force."""
        if self.bands and self.rows:
            return self.bands, self.rows
        return PRESETS[self.preset] if self.preset else optimal_banding(self.similarity, self.hashes)

    def steps(self) -> tuple[Step, ...]:
        """Bands → edges → clusters → exact decisions → one pass that drops."""
        return (
            Exchange("bands", self._sign, BAND, "key", ("ref",), EDGE, gather=_edges),
            Fold("components", _cluster, EDGE, reads="bands"),
            Exchange(
                "clusters",
                self._candidates,
                CANDIDATE,
                "key",
                ("rank", "ref"),
                DECISION,
                gather=self._decide,
                keep=True,
            ),
            Exchange("decisions", _as_decisions, DECISION, "shard", ("row",), DECISION, reads="clusters", by="shard"),
            Each("drop", self._drop, lambda schema: with_field(schema, GROUP), beside="decisions"),
        )

    def _shingles(self, batch: pa.RecordBatch) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        from stages.kernels.minhash import distinct, folding, shingles

        data, offsets = text_buffers(batch["text"])
        return distinct(*shingles(data, offsets, folding(), self.shingle))  # type: ignore[no-any-return]

    def _sign(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        from stages.kernels.minhash import bands

        count, rows = self.banding()
        random = np.random.Generator(np.random.PCG64(task.seed))
        factors = read_only(random.integers(0, 1 << 32, count * rows, np.uint32) | np.uint32(1))
        addends = read_only(random.integers(0, 1 << 32, count * rows, np.uint32))
        seen = 0
        for batch in batches:
            keys = bands(*self._shingles(batch), factors, addends, count, rows)
            refs = np.repeat(_refs(task.index, seen, len(batch)), count)
            seen += len(batch)
            yield Emit(rows=pa.record_batch([pa.array(keys.reshape(-1)), pa.array(refs)], schema=BAND))

    def _candidates(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        refs, roots = _components(task)
        start = 0
        for batch in batches:
            mine = _refs(task.index, start, len(batch))
            start += len(batch)
            where = np.searchsorted(refs, mine)
            where[where == len(refs)] = 0
            hits = np.flatnonzero(refs[where] == mine) if len(refs) else np.empty(0, np.int64)
            if len(hits):
                yield Emit(rows=self._candidate_rows(batch.take(pa.array(hits)), mine[hits], roots[where[hits]]))

    def _candidate_rows(
        self, batch: pa.RecordBatch, refs: NDArray[np.uint64], roots: NDArray[np.uint64]
    ) -> pa.RecordBatch:
        values, ends = self._shingles(batch)
        sizes = np.diff(ends).astype(np.uint64)
        rank = (np.uint64(1) << np.uint64(63)) - sizes if self.keep == "longest" else refs
        lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
        keys = roots * np.uint64(0x9E3779B97F4A7C15)
        columns = [pa.array(keys), pa.array(rank), pa.array(refs), pa.array(roots), batch["id"], lists]
        return pa.record_batch(columns, schema=CANDIDATE)

    def _decide(self, batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
        for table, was_cut in _blocks(batches, self.block_bytes):
            yield self._block(table, was_cut)

    def _block(self, table: pa.RecordBatch, was_cut: bool) -> Emit:
        """Decides whole clusters (or a part of a giant one): one row per candidate."""
        from stages.kernels.minhash import survivors

        lists, clusters = table["shingles"], table["cluster"].to_numpy()
        values = np.ascontiguousarray(lists.flatten().to_numpy())
        ends = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int64)
        if self.verify:
            chosen, scores = survivors(read_only(values), read_only(ends), read_only(clusters), self.similarity)
        else:
            _, chosen, inverse = np.unique(clusters, return_index=True, return_inverse=True)
            chosen, scores = chosen[inverse], np.full(len(clusters), np.nan)
        kept = chosen == np.arange(len(table))
        refs = table["ref"].to_numpy()
        columns = {
            "shard": pa.array(refs >> np.uint64(32)),
            "row": pa.array(refs & np.uint64(0xFFFFFFFF)),
            "id": table["id"],
            "cluster": table["cluster"],
            "survivor": table["id"].take(pa.array(chosen)),
            "similarity": pa.array(scores.astype(np.float32), from_pandas=True),
            "kept": pa.array(kept),
            "group_size": pa.array(np.bincount(chosen, minlength=len(chosen))[chosen].astype(np.int32)),
        }
        counters = {"candidates": len(table), "removed": int((~kept).sum()), "clusters_cut": int(was_cut)}
        return Emit(rows=pa.record_batch(list(columns.values()), schema=DECISION), counters=counters)

    def _drop(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        decisions = task.beside if task.beside is not None else DECISION.empty_table()
        rows, kept = decisions["row"].to_numpy(), decisions["kept"].to_numpy(zero_copy_only=False)
        start = 0
        for batch in batches:
            low, high = np.searchsorted(rows, [start, start + len(batch)])
            here = decisions.slice(low, high - low)
            yield self._split(batch, here, rows[low:high].astype(np.int64) - start, kept[low:high], task)
            start += len(batch)

    def _split(
        self, batch: pa.RecordBatch, here: pa.Table, places: NDArray[np.int64], kept: NDArray[Any], task: Task
    ) -> Emit:
        sizes = np.ones(len(batch), np.int32)
        sizes[places] = here["group_size"].to_numpy()
        group = pa.StructArray.from_arrays([pa.array(sizes)], fields=list(GROUP.type))
        batch_ = with_column(batch, GROUP, group)
        gone = places[~kept]
        if not len(gone):
            return Emit(rows=batch_)
        mask = np.ones(len(batch), np.bool_)
        mask[gone] = False
        lost = here.filter(pa.array(~kept))
        similarity = lost["similarity"].to_pylist()
        broken = [[{"rule": "near_duplicate", "score": s, "limit": self.similarity}] for s in similarity]
        names = ["near_duplicate"] * len(gone)
        survivors_ = lost["survivor"].to_pylist()
        drops = drop_rows(batch.take(pa.array(gone)), task, names, broken, survivors_, similarity)
        return Emit(rows=batch_.filter(pa.array(mask)), drops=drops)


@cache
def optimal_banding(similarity: float, hashes: int) -> tuple[int, int]:
    """datasketch's (bands, rows) for a threshold, a missed pair weighing nineteen times a false candidate."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=hashes, weights=(0.05, 0.95))
    return index.b, index.r


def _refs(shard: int, start: int, n: int) -> NDArray[np.uint64]:
    """References of n rows of a shard: its number in the high 32 bits, the row in the low."""
    return np.arange(start, start + n, dtype=np.uint64) | np.uint64(shard << 32)


def _edges(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    """Per band key an edge from its first document to each other one: linear, however many share the key."""
    last_key, first = None, np.uint64(0)
    run = largest = 0
    for batch in batches:
        keys, refs = batch["key"].to_numpy(), batch["ref"].to_numpy()
        begins = np.concatenate([[last_key is None or keys[0] != last_key], keys[1:] != keys[:-1]])
        starts = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), -1))
        low = np.where(starts >= 0, refs[np.maximum(starts, 0)], first)
        sizes = np.diff(np.append(np.flatnonzero(begins), len(keys)))
        run = int(sizes[-1]) if begins.any() and len(sizes) > 0 else run + len(keys)
        largest = max(largest, run, int(sizes.max()) if len(sizes) else 0)
        last_key, first = keys[-1], low[-1]
        edges = pa.record_batch([pa.array(low[~begins]), pa.array(refs[~begins])], schema=EDGE)
        yield Emit(rows=edges)


def _cluster(batches: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
    """Edges → `components.arrow`: every candidate's ref, sorted, and its component's lowest ref."""
    from stages.kernels.components import components

    edges = [np.stack([b["low"].to_numpy(), b["high"].to_numpy()]) for b in batches]
    both = np.concatenate(edges, axis=1) if edges else np.empty((2, 0), np.uint64)
    refs, index = np.unique(both, return_inverse=True)
    left, right = index.reshape(both.shape).astype(np.int64)
    roots = refs[components(len(refs), read_only(left), read_only(right))] if len(refs) else refs
    table = pa.table({"ref": pa.array(refs), "root": pa.array(roots)})
    with pa.OSFile(str(task.folder / "components.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    sizes = Counter(np.unique(roots, return_counts=True)[1].tolist()) if len(refs) else Counter()
    return {"candidate_clusters": sizes.total(), "largest_cluster": max(sizes, default=0), "edges": both.shape[1]}


def _components(task: Task) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The memory-mapped component table: (refs sorted, roots)."""
    with pa.memory_map(str(task.artifacts["components"] / "components.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    return table["ref"].to_numpy(), table["root"].to_numpy()


def _blocks(batches: Iterator[pa.RecordBatch], limit: int) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Batches regrouped so that a cluster's rows are together, unless they pass `limit` bytes: then it is cut
    (True)."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        keys = batch["key"].to_numpy()
        last = int(np.searchsorted(keys, keys[-1]))
        if held and keys[0] != held[-1]["key"][-1].as_py():
            yield _join(held), False
            held, size = [], 0
        if last:
            yield _join([*held, batch.slice(0, last)]), False
            held, size = [], 0
        held.append(batch.slice(last))
        size += batch.slice(last).nbytes
        if size > limit:
            yield _join(held), True
            held, size = [], 0
    if held:
        yield _join(held), False


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.to_batches()[0]


def _as_decisions(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)
