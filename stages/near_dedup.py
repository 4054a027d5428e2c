"""Near-duplicates: MinHash bands find candidates, exact Jaccard decides.

Reads documents; writes those that stay, with the size of the group each stands for, drops that name survivor and
similarity, and the cluster table `clusters/`, one row per candidate. Most tools remove on a hash collision; here a
document goes only if the exact Jaccard with its survivor reaches the limit, at the price of reading the candidates'
text twice: 48 MB/s a core, shards read and written, and no false removal among 20,000 documents with known pairs, nor
among 20,000 in Hindi, Thai, Arabic and Chinese (benchmarks/near_dedup.py, near_dedup_truth.py, near_dedup_scripts.py).

What it takes for each document: 16 bytes on disk for each band (272 by default) and, for a candidate, 20 for each band
that it shares and 8 for each shingle. In memory, clustering takes 80 to 100 bytes a candidate, whatever the sizes of
bands and clusters; verification some 450 MB, and more only for a single giant document, since a cluster with more
survivors than that is cut. Counters tell of `largest_band`, `largest_cluster` and `clusters_cut`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline import seeds
from pipeline.rows import drop_rows, with_column, with_field
from pipeline.stage import UNICODE, Each, Emit, Exchange, Fold, Stage, Step, Task
from stages.kernels.arrow import read_only, text_buffers
from stages.near_dedup_verify import CANDIDATE, DECISION, decide
from stages.normalisation import composed

BAND = pa.schema([("key", pa.uint64()), ("ref", pa.uint64())])
EDGE = pa.schema([("low", pa.uint64()), ("high", pa.uint64()), ("place", pa.uint32())])
"""Two documents of one band: its first, and the one at `place` (1, 2, …) after it."""
GROUP = pa.field("near_dedup", pa.struct([("group_size", pa.int32())]))
PRESETS = {"14x8": (14, 8), "20x13": (20, 13), "26x11": (26, 11)}
WEIGHTS = (0.02, 0.98)
"""What a false candidate and a missed pair cost in the choice of bands: a false one is found out, and costs time."""


class NearDedup(Stage):
    """Drop documents whose shingles' exact Jaccard with a kept document reaches `similarity`.

    Text is compared by words: case, blanks, punctuation and characters that show nothing (joiners, direction marks,
    variation selectors) do not count; vowel signs, tone marks and accents do, whether composed or not (NFC and NFD are
    one text). A document of fewer words than a shingle is compared whole. Bands and rows: datasketch's optimum for
    `similarity` and `hashes`, unless given.
    """

    version: ClassVar[int] = 3
    similarity: float = Field(0.8, gt=0, le=1, description="The Jaccard similarity at which a document is a duplicate.")
    shingle: int = Field(5, ge=1, description="Words in a shingle (characters in scripts without spaces).")
    hashes: int = Field(128, ge=2, le=1024, description="Hashes of a signature, where bands and rows are not given.")
    preset: Literal["14x8", "20x13", "26x11"] | None = Field(None, description="Bands × rows of FineWeb, NeMo, Olmo 3.")
    bands: int | None = Field(None, ge=1, description="Bands; give rows too.")
    rows: int | None = Field(None, ge=1, description="Rows of a band; give bands too.")
    verify: bool = Field(True, description="false: drop on candidacy alone, as other tools do.")
    keep: Literal["first", "longest"] = Field(
        "first", description="Which of a group survives: the first in input order, or the one of most bytes."
    )
    max_survivors: int = Field(
        10_000, ge=1, description="A cluster in which more survive is cut into blocks compared apart, and counted."
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

    def libraries(self) -> tuple[str, ...]:
        """What Python knows of characters."""
        return (UNICODE,)

    def kernels(self) -> tuple[str, ...]:
        """Those that sign and cluster, and those that verify, if it does."""
        names = ("canonical", "minhash", "components", *(("jaccard",) if self.verify else ()))
        return tuple(f"stages.kernels.{name}" for name in names)

    def steps(self) -> tuple[Step, ...]:
        """Bands → edges → clusters → exact decisions → one pass that drops."""
        ordered, own = ("rank", "ref"), ("id", "text")
        return (
            Exchange("bands", self._sign, BAND, "key", ("ref",), EDGE, _edges, columns=("text",)),
            Fold("components", _cluster, EDGE, reads="bands"),
            Exchange(
                "clusters", self._candidates, CANDIDATE, "key", ordered, DECISION, self._decide, columns=own, keep=True
            ),
            Exchange("decisions", _as_they_are, DECISION, "shard", ("row",), DECISION, reads="clusters", by="shard"),
            Each("drop", self._drop, lambda schema: with_field(schema, GROUP), beside="decisions"),
        )

    def _sign(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        from stages.kernels.minhash import FEWEST, band_keys, folding, signatures

        bands, rows = self.banding()
        random, size = seeds.generator("near_dedup.hashes", task.seed), max(bands * rows, FEWEST)
        factors = read_only(random.integers(0, 1 << 32, size, np.uint32) | np.uint32(1))
        addends = read_only(random.integers(0, 1 << 32, size, np.uint32))
        for batch, refs in _numbered(batches, task):
            texts = composed(*text_buffers(batch["text"]))
            signed = signatures(*texts, folding(), self.shingle, factors, addends)
            keys = band_keys(read_only(signed), bands, rows)
            columns = [pa.array(keys.reshape(-1)), pa.array(np.repeat(refs, bands))]
            yield Emit(rows=pa.record_batch(columns, schema=BAND))

    def _candidates(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        nodes, roots = _components(task)
        for batch, refs in _numbered(batches, task):
            first = int(np.searchsorted(nodes, refs[:1])[0]) if len(refs) else 0
            last = int(np.searchsorted(nodes, refs[-1:], "right")[0]) if len(refs) else 0
            if last > first:
                rows = batch.take(
                    pa.array((nodes[first:last] & np.uint64(0xFFFFFFFF)) - (refs[0] & np.uint64(0xFFFFFFFF)))
                )
                yield Emit(rows=self._candidate_rows(rows, nodes[first:last], roots[first:last]))

    def _candidate_rows(
        self, batch: pa.RecordBatch, refs: NDArray[np.uint64], roots: NDArray[np.uint64]
    ) -> pa.RecordBatch:
        from stages.kernels.minhash import folding, shingles

        data, offsets = text_buffers(batch["text"])
        if self.verify:
            values, ends = shingles(*composed(data, offsets), folding(), self.shingle)
        else:  # one mark for all, so that every document of a cluster equals its first
            values, ends = np.zeros(len(batch), np.uint64), np.arange(len(batch) + 1)
        rank = refs if self.keep == "first" else ~np.diff(offsets).astype(np.uint64)
        lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
        keys = roots * np.uint64(0x9E3779B97F4A7C15)
        columns = [pa.array(keys), pa.array(rank), pa.array(refs), pa.array(roots), batch["id"], lists]
        return pa.record_batch(columns, schema=CANDIDATE)

    def _decide(self, batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
        return decide(batches, self.similarity if self.verify else None, self.max_survivors)

    def _drop(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        decisions = task.beside if task.beside is not None else DECISION.empty_table()
        rows = decisions["row"].to_numpy()
        start = 0
        for batch in batches:
            low, high = np.searchsorted(rows, [start, start + len(batch)])
            yield self._split(batch, decisions.slice(low, high - low), rows[low:high].astype(np.int64) - start, task)
            start += len(batch)

    def _split(self, batch: pa.RecordBatch, here: pa.Table, places: NDArray[np.int64], task: Task) -> Emit:
        """One batch by its decisions, which are for its rows at `places`."""
        kept = here["kept"].to_numpy()
        mask, sizes = np.ones(len(batch), np.bool_), np.ones(len(batch), np.int32)
        mask[places], sizes[places] = kept, here["group_size"].fill_null(1).to_numpy()
        group = pa.StructArray.from_arrays([pa.array(sizes)], fields=list(GROUP.type))
        rows = with_column(batch, GROUP, group)
        if kept.all():
            return Emit(rows=rows)
        gone = here.filter(pa.array(~kept))
        similarity = gone["similarity"].to_pylist()
        broken = [[{"rule": "near_duplicate", "score": s, "limit": self.similarity}] for s in similarity]
        names = ["near_duplicate"] * len(gone)
        lost = batch.filter(pa.array(~mask))
        drops = drop_rows(lost, task, names, broken, gone["survivor"].to_pylist(), similarity)
        return Emit(rows=rows.filter(pa.array(mask)), drops=drops)


@cache
def optimal_banding(similarity: float, hashes: int) -> tuple[int, int]:
    """datasketch's (bands, rows) for a threshold: the least area of misses and false candidates, weighted.

    The same areas as its `_optimal_param` (datasketch/lsh.py) sums, by Gauss-Legendre over 128 points instead of scipy,
    which takes half a second to load; of bandings that are equal, the one of fewest bands, then rows.
    """
    points, weights = np.polynomial.legendre.leggauss(128)
    places = (points + 1) / 2
    best = (np.inf, 0, 0)
    for bands in range(1, hashes + 1):
        rows = np.arange(1, hashes // bands + 1)[:, None]
        found = 1 - (1 - (places * similarity) ** rows) ** bands
        missed = (1 - (similarity + places * (1 - similarity)) ** rows) ** bands
        areas = ((WEIGHTS[0] * similarity * found + WEIGHTS[1] * (1 - similarity) * missed) * weights).sum(1)
        row = int(areas.argmin())
        best = min(best, (float(areas[row]), bands, row + 1))
    return best[1], best[2]


def _numbered(batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[tuple[pa.RecordBatch, NDArray[np.uint64]]]:
    """Batches of a shard with their rows' references: the shard's number in the high 32 bits, the row in the low."""
    start = 0
    for batch in batches:
        yield batch, np.arange(start, start + len(batch), dtype=np.uint64) | np.uint64(task.index << 32)
        start += len(batch)


def _edges(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    """Per band key an edge from its first document to each other one: linear, however many share the key."""
    key, first, seen = -1, np.uint64(0), 0
    for batch in batches:
        keys, refs = batch["key"].to_numpy(), batch["ref"].to_numpy()
        begins = np.concatenate([[int(keys[0]) != key], keys[1:] != keys[:-1]])
        starts = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), -1))
        low = np.where(starts >= 0, refs[starts], first)
        places = np.arange(len(keys)) - starts + np.where(starts >= 0, 0, seen - 1)
        key, first, seen = int(keys[-1]), low[-1], int(places[-1]) + 1
        columns = [pa.array(low[~begins]), pa.array(refs[~begins]), pa.array(places[~begins].astype(np.uint32))]
        yield Emit(rows=pa.record_batch(columns, schema=EDGE))


def _cluster(batches: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
    """Edges → `components.arrow`: every candidate's ref, sorted, and its component's lowest ref."""
    from stages.kernels.components import components, empty, join

    table, count, edges, largest_band = empty(), 0, 0, 0
    for batch in batches:
        if len(batch):
            table, count = join(table, count, read_only(batch["low"].to_numpy()), read_only(batch["high"].to_numpy()))
            edges, largest_band = edges + len(batch), max(largest_band, int(batch["place"].to_numpy().max()) + 1)
    nodes, roots = components(table)
    rows = pa.record_batch([pa.array(nodes), pa.array(roots)], names=["ref", "root"])
    with pa.OSFile(str(task.folder / "components.arrow"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_batch(rows)
    sizes = np.unique(roots, return_counts=True)[1]
    largest = int(sizes.max()) if len(sizes) else 0
    return {"edges": edges, "largest_band": largest_band, "candidate_clusters": len(sizes), "largest_cluster": largest}


def _components(task: Task) -> tuple[NDArray[Any], NDArray[Any]]:
    """The memory-mapped table of components: (refs sorted, roots)."""
    with pa.memory_map(str(task.artifacts["components"] / "components.arrow")) as source:
        rows = pa.ipc.open_file(source).get_batch(0)
    return rows["ref"].to_numpy(), rows["root"].to_numpy()


def _as_they_are(batches: Iterator[pa.RecordBatch], _: Task) -> Iterator[Emit]:
    for batch in batches:
        yield Emit(rows=batch)
