"""A repeatable sample of a corpus, by bytes, evenly or as it is.

Reads document batches, writes nothing itself: `tokenizer` calls it. Documents are ranked by a seeded hash of their ids
and each group gives those of the lowest rank up to its budget, so that the sample is the same however the corpus is cut
into shards. The trade-off: the corpus is read twice, since a group's share cannot be known before its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

GROUPED = pa.schema([("group", pa.string()), ("bytes", pa.int64())])
"""Bytes that a shard could give, by group."""
SAMPLE = pa.schema(
    [
        ("rank", pa.uint64()),
        ("id", pa.string()),
        ("lang", pa.string()),
        ("group", pa.string()),
        ("text", pa.large_string()),
    ]
)
"""Documents that may be of the sample, their text clipped."""
CLIP = 100_000
"""Characters of one document that the sample takes at most, from its start: a book must not be a language."""
HELD = 16
"""One in so many documents of a language is kept from training, for the statistics."""

Balance = Literal["none", "lang", "source"]


def groups_of(batch: pa.RecordBatch, balance: Balance) -> pa.Array:
    """What each document's bytes are counted under: "", its language, or its file of origin; string[n]."""
    if balance == "lang":
        return pc.fill_null(batch["lang"], "")
    if balance == "source":
        return pc.replace_substring_regex(batch["source"], ":[^:]*$", "")
    return pa.array([""] * len(batch), pa.string())


def clipped(texts: Any) -> Any:
    """The texts, each cut after its first `CLIP` characters."""
    if not len(texts) or pc.max(pc.binary_length(texts)).as_py() <= CLIP:
        return texts
    return pc.utf8_slice_codeunits(texts, 0, CLIP)


def weigh(batch: pa.RecordBatch, balance: Balance) -> Counter[str]:
    """Bytes that the batch's documents could give to a sample, by group."""
    columns = {"group": groups_of(batch, balance), "bytes": pc.binary_length(clipped(batch["text"]))}
    sums = pa.table(columns).group_by("group", use_threads=False).aggregate([("bytes", "sum")])
    return Counter(dict(zip(sums["group"].to_pylist(), sums["bytes_sum"].to_pylist(), strict=True)))


def budgets(sizes: Mapping[str, int], total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Bytes that each group gives to a sample of `total` bytes: in proportion to the weights (1 where not named), but
    no more than it has; what one lacks is shared out among the others."""
    waiting = {group: weights.get(group, 1.0) for group in sorted(sizes)}
    given = dict.fromkeys(waiting, 0)
    left = total
    while weight := sum(waiting.values()):
        full = [group for group in waiting if sizes[group] <= left * waiting[group] / weight]
        if not full:
            return given | {group: int(left * share / weight) for group, share in waiting.items()}
        for group in full:
            given[group] = sizes[group]
            left -= sizes[group]
            del waiting[group]
    return given


def limits(sizes: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
    """The rank up to which a group's documents may be of the sample: a quarter and 2 MB more than its budget needs."""
    shares = {group: (1.25 * given[group] + 2e6) / max(size, 1) if given[group] else 0 for group, size in sizes.items()}
    return {group: min(int(share * 2.0**64), 2**64 - 1) for group, share in shares.items()}


def candidates(batch: pa.RecordBatch, balance: Balance, limit: Mapping[str, int], seed: int) -> pa.RecordBatch:
    """The batch's documents of a rank under their group's limit: a batch of `SAMPLE`."""
    groups = groups_of(batch, balance)
    ranks = np.array([xxhash.xxh3_64_intdigest(i.encode(), seed) for i in batch["id"].to_pylist()], np.uint64)
    codes = groups.dictionary_encode()
    bounds = np.array([limit[group] for group in codes.dictionary.to_pylist()], np.uint64)
    low = pa.array(ranks < bounds[codes.indices.to_numpy()], pa.bool_())
    columns = [pa.array(ranks), batch["id"], batch["lang"], groups, batch["text"]]
    rows = pa.RecordBatch.from_arrays(columns, schema=SAMPLE).filter(low)
    return rows.set_column(4, SAMPLE.field("text"), clipped(rows["text"]))


def choose(rows: pa.Table, total: int, weights: Mapping[str, float]) -> pa.Table:
    """Of all candidates, each group's of lowest rank up to the one that reaches its budget, sorted by (rank, id)."""
    rows = rows.take(pc.sort_indices(rows.select(["rank", "id"]), [("rank", "ascending"), ("id", "ascending")]))
    lengths = pc.binary_length(rows["text"]).to_pylist()
    groups = pc.fill_null(rows["group"], "").to_pylist()
    sizes: Counter[str] = Counter()
    for group, length in zip(groups, lengths, strict=True):
        sizes[group] += length
    left = budgets(sizes, total, weights)
    mask = []
    for group, length in zip(groups, lengths, strict=True):
        mask.append(left[group] > 0)
        left[group] -= length
    return rows.filter(pa.array(mask, pa.bool_()))


def held_out(rows: pa.Table) -> NDArray[np.bool_]:
    """Which of the rows, in their order, are kept from training: of each language the first and every 16th after it,
    none where it has one document only; bool[n]."""
    langs = pc.fill_null(rows["lang"], "").to_pylist()
    total, seen = Counter(langs), Counter[str]()
    mask = np.zeros(len(langs), np.bool_)
    for k, lang in enumerate(langs):
        mask[k] = total[lang] > 1 and seen[lang] % HELD == 0
        seen[lang] += 1
    return mask


def extent(rows: pa.Table) -> dict[str, int]:
    """{"sample_documents", "sample_bytes"} of sampled rows."""
    return {"sample_documents": len(rows), "sample_bytes": pc.sum(pc.binary_length(rows["text"])).as_py() or 0}
