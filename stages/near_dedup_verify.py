"""Verification of candidate clusters: reads their documents' shingles in order, writes what becomes of each.

A cluster may span any number of batches: only its survivors' shingles are carried on (`SURVIVOR_BYTES` at most), and a
document is compared with those alone. Where a cluster has more survivors than the bounds it is cut into blocks, which
are not compared with each other, and each cut is counted. Costs one look-up a shingle and a merge for each pair that
shares a rare one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.stage import Emit
from stages.kernels.arrow import read_only

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
"""A document that shares a band with another: rows of one cluster are neighbours, by rank and reference."""

DECISION = pa.schema(
    [
        pa.field("shard", pa.uint64(), nullable=False),
        pa.field("row", pa.uint64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("cluster", pa.uint64(), nullable=False),
        pa.field("survivor", pa.string(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("group_size", pa.int32()),
    ]
)
"""The cluster table: a candidate's place and id, its cluster (the reference of its first document, shard << 32 | row),
the id of the document that stays for it and their Jaccard similarity. group_size: how many a survivor stands for,
itself included; null for the others."""

Sizes = NDArray[np.int64]
SURVIVOR_BYTES = 32 << 20
"""Shingles of the survivors of one block, in bytes; one document more at most. Measured: 420 MB of memory with it."""


def decide(
    batches: Iterator[pa.RecordBatch], similarity: float | None, most: int, most_bytes: int = SURVIVOR_BYTES
) -> Iterator[Emit]:
    """Rows of `CANDIDATE`, sorted → rows of `DECISION`: of each block what goes, in order, then what stays.

    similarity: the least Jaccard at which a document goes; None: all of a cluster go but the first, without looking.
    most, most_bytes: survivors of one block, and bytes of their shingles. Counts candidates, removed and
    clusters_cut. The rows do not depend on the batches.
    """
    carried = pa.RecordBatch.from_pylist([], schema=CANDIDATE)
    sizes = np.zeros(0, np.int64)
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if 4 * sum(one.nbytes for one in held) >= carried.nbytes:
            carried, sizes, emit = _advance(carried, sizes, held, similarity, most, most_bytes)
            held = []
            yield emit
    carried, sizes, emit = _advance(carried, sizes, held, similarity, most, most_bytes)
    yield emit
    every = np.arange(len(carried))
    yield Emit(rows=_rows(carried, every, every, np.ones(len(every)), sizes, similarity is not None))


def _advance(
    carried: pa.RecordBatch,
    sizes: Sizes,
    fresh: list[pa.RecordBatch],
    similarity: float | None,
    most: int,
    most_bytes: int,
) -> tuple[pa.RecordBatch, Sizes, Emit]:
    """Compares new rows with the open block's survivors, of which each stands for `sizes` documents so far.

    Gives the survivors of the block that is open then, how many each stands for, and all rows that are decided.
    """
    from stages.kernels.jaccard import survivors

    settled = len(carried)
    table = pa.Table.from_batches([carried, *fresh]).combine_chunks()
    rows = table.to_batches()[0] if len(table) else carried
    lists, clusters = rows["shingles"], rows["cluster"].to_numpy()
    values = read_only(lists.flatten().to_numpy())
    ends = read_only(np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int64))
    limit, verified = (1.0, False) if similarity is None else (similarity, True)
    most_values = most_bytes // values.itemsize
    chosen, scores, blocks = survivors(values, ends, read_only(clusters), settled, limit, most, most_values)
    every = np.arange(len(rows))
    kept = chosen == every
    counts = np.bincount(chosen, minlength=len(rows))
    counts[:settled] += sizes - 1
    open_ = kept & (blocks == blocks[-1:])
    done, still = np.flatnonzero(~open_), np.flatnonzero(open_)
    done = done[np.lexsort((kept[done], blocks[done]))]
    cuts = (blocks[1:] == every[1:]) & (clusters[1:] == clusters[:-1])
    counters = {"candidates": len(rows) - settled, "removed": int((~kept).sum()), "clusters_cut": int(cuts.sum())}
    emit = Emit(rows=_rows(rows, done, chosen, scores, counts, verified), counters=counters)
    return rows.take(pa.array(still)), counts[still], emit


def _rows(
    rows: pa.RecordBatch, places: Sizes, chosen: Sizes, scores: NDArray[np.float64], counts: Sizes, verified: bool
) -> pa.RecordBatch:
    """Candidates at `places` → rows of `DECISION`."""
    refs, kept = rows["ref"].to_numpy()[places], chosen[places] == places
    similarity = pa.array(scores[places].astype(np.float32), mask=None if verified else np.ones(len(places), np.bool_))
    columns = [
        pa.array(refs >> np.uint64(32)),
        pa.array(refs & np.uint64(0xFFFFFFFF)),
        rows["id"].take(pa.array(places)),
        rows["cluster"].take(pa.array(places)),
        rows["id"].take(pa.array(chosen[places])),
        similarity,
        pa.array(kept),
        pa.array(counts[places].astype(np.int32), mask=~kept),
    ]
    return pa.record_batch(columns, schema=DECISION)
