"""A repeatable sample of a corpus, by bytes, evenly or as it is.

Reads document batches, writes nothing itself: `tokenizer` calls it. Documents are ranked by a seeded hash of their ids
and each group gives those of the lowest rank up to its budget, so that the sample is the same however the corpus is cut
into shards. The trade-off: the corpus is read twice, since a group's share cannot be known before its size; between the
readings, and of the sample, only 30 bytes for each document are held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.draws import Draws

GROUPED = pa.schema([("group", pa.string()), ("bytes", pa.int64()), ("repeated_ids", pa.int64())])
"""Bytes that a shard could give, by group; and, in one row, its documents whose id an earlier one has."""
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
RANKED = pa.schema([("rank", pa.uint64()), ("lang", pa.string()), ("group", pa.string()), ("bytes", pa.int64())])
"""Candidates without their text: what decides which are chosen."""
CLIP = 100_000
"""Characters of one document that the sample takes at most, from its start: a book must not be a language."""
HELD = 16
"""One in so many documents of a language is kept from training, for the statistics."""
HELD_BYTES = 64 << 20
"""No more are kept once they come to so many bytes."""

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


def over_clip(texts: Any) -> int:
    """How many of the texts have more than `CLIP` characters."""
    if not len(texts) or pc.max(pc.binary_length(texts)).as_py() <= CLIP:
        return 0
    return int(pc.sum(pc.greater(pc.utf8_length(texts), CLIP)).as_py())


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


def candidates(batch: pa.RecordBatch, balance: Balance, limit: Mapping[str, int], draws: Draws) -> pa.RecordBatch:
    """The batch's documents of a rank under their group's limit: a batch of `SAMPLE`. draws: the shard's, of one
    seed."""
    groups = groups_of(batch, balance)
    (ranks,) = draws.of(batch)
    codes = groups.dictionary_encode()
    bounds = np.array([limit[group] for group in codes.dictionary.to_pylist()], np.uint64)
    low = pa.array(ranks < bounds[codes.indices.to_numpy()], pa.bool_())
    columns = [pa.array(ranks), batch["id"], batch["lang"], groups, batch["text"]]
    rows = pa.RecordBatch.from_arrays(columns, schema=SAMPLE).filter(low)
    return rows.set_column(4, SAMPLE.field("text"), clipped(rows["text"]))


@dataclass(frozen=True)
class Choice:
    """Which candidates are of the sample. cuts: the highest rank of each group that is; a group without one has none
    chosen. held: ranks of the documents that are kept from training. documents, bytes: how much is learnt from."""

    cuts: Mapping[str, int]
    held: Sequence[int]
    documents: int
    bytes: int

    def chosen(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which rows of a batch of `SAMPLE` are of the sample: bool[n]."""
        codes = rows["group"].dictionary_encode()
        bounds = [self.cuts.get(group) for group in codes.dictionary.to_pylist()]
        given: NDArray[np.bool_] = np.array([bound is not None for bound in bounds], np.bool_)
        cuts: NDArray[np.uint64] = np.array([bound or 0 for bound in bounds], np.uint64)
        which = codes.indices.to_numpy()
        ranks = rows["rank"].to_numpy()
        return np.asarray(given[which] & (ranks <= cuts[which]))

    def learnt(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which of them are learnt from: bool[n]; all of the sample where none is held."""
        return self.chosen(rows) & ~self._is_held(rows)

    def tested(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Which of them are for the statistics: bool[n]; all of the sample where none is held."""
        return self.chosen(rows) & self._is_held(rows) if self.held else self.chosen(rows)

    def _is_held(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        return np.isin(rows["rank"].to_numpy(), np.array(self.held, np.uint64))


def choose(rows: pa.Table, total: int, weights: Mapping[str, float]) -> Choice:
    """Of all candidates, each group's of lowest rank up to the one that reaches its budget; of those, of each language
    the first and every 16th after it are held, none where it has one document only, none after the first 64 MB.

    rows: `RANKED`. Documents of one rank (one id) are chosen and held together.
    """
    rows = rows.sort_by([(name, "ascending") for name in RANKED.names])
    ranks, langs, groups, lengths = (rows[name].to_pylist() for name in RANKED.names)
    sizes: Counter[str] = Counter()
    for group, length in zip(groups, lengths, strict=True):
        sizes[group] += length
    left = budgets(sizes, total, weights)
    cuts: dict[str, int] = {}
    chosen = []
    for k, (rank, group, length) in enumerate(zip(ranks, groups, lengths, strict=True)):
        if left[group] > 0 or cuts.get(group) == rank:
            cuts[group] = rank
            chosen.append(k)
        left[group] -= length
    held = dict.fromkeys(_held(chosen, ranks, langs, lengths))
    learnt = [lengths[k] for k in chosen if ranks[k] not in held]
    return Choice(cuts, list(held), len(learnt), sum(learnt))


def _held(chosen: Sequence[int], ranks: Sequence[int], langs: Sequence[str], lengths: Sequence[int]) -> Iterator[int]:
    total, seen, size = Counter(langs[k] for k in chosen), Counter[str](), 0
    for k in chosen:
        if total[langs[k]] > 1 and seen[langs[k]] % HELD == 0 and size < HELD_BYTES:
            size += lengths[k]
            yield ranks[k]
        seen[langs[k]] += 1


def ranked(rows: pa.RecordBatch) -> pa.RecordBatch:
    """What `choose` must know of a batch of `SAMPLE`: a batch of `RANKED`."""
    sizes = pc.binary_length(rows["text"]).cast(pa.int64())
    columns = [rows["rank"], pc.fill_null(rows["lang"], ""), pc.fill_null(rows["group"], ""), sizes]
    return pa.RecordBatch.from_arrays(columns, schema=RANKED)
