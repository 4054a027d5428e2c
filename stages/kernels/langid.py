"""Language scores of documents by py3langid's model: a byte automaton, then naive Bayes.

Reads UTF-8 bytes and the model's arrays; writes the best class and its probability for each document. Scores are
summed in the order in which features are first met, sixteen of them in float32, the sums in float64; py3langid sums all
in float32 in an order that its BLAS chooses. So the answer is the same on every machine, and its probability differs
from py3langid's by that rounding (3.2e-4 at most in 4,200 documents, no label). The tables, 60 MB, are larger than the
caches, which sets the speed; so eight parts of a text are read in turn, and likelihoods are asked for before they are
needed: 170 MB/s of English, 110 of sixty languages.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from stages.kernels.leaf import inner, leaf, prefetch

LANES = 8
BLOCK = 1024
"""Steps of all lanes after which features are counted."""
TOGETHER = 16
"""Features whose scores are summed in float32, while the likelihoods of as many are fetched."""
LINE = 32
"""Likelihoods of a cache line."""
ROW_BITS = np.uint32(16)
FEATURE_MASK = np.uint32(0xFFFF)
UPPER = np.uint32(1 << 16)
"""What is added to a feature's number where the row is one of the upper half."""
HALF_SHIFT = np.int32(13)
HALF_MASK = np.int32(~0x70000000)
HALF_TO_SINGLE = np.float32(2.0**112)
"""What a float16's bits, moved to a float32's place, must be multiplied by: the difference of the exponents' biases."""


@njit(cache=True, nogil=True)
def classify(
    data: Any,
    starts: Any,
    ends: Any,
    automaton: Any,
    byte_class: Any,
    first: int,
    second: int,
    longest: int,
    table: Any,
    prior: Any,
    alias: Any,
    weights: Any,
) -> Any:
    """The most probable class of each of n texts: (class int64[n], probability float64[n]).

    data: uint8[:]; text k is `data[starts[k]:ends[k]]` (int64[n] each). automaton: uint32[rows, byte classes], the next
    row above `ROW_BITS` and the feature below, 0 for none, to which `UPPER` is added from row `second` on; byte_class:
    uint8[256]; first: its first row; longest: bytes of its longest feature. table: int16[features, columns], the bits
    of float16 log-likelihoods, a column for each class and some of zeros; prior: float32[classes]. alias:
    int64[classes], the class into which one's probability is folded (for most, itself). weights: float32[m], log1p of
    the counts below m. Score: log1p(count) times likelihood, summed over the features seen, plus the prior; divided by
    the square root of the text's bytes; softmax (py3langid 0.4, langid.py). A text without features scores the same in
    every class.
    """
    n, classes, columns = len(starts), len(prior), table.shape[1]
    winner, probability = np.zeros(n, np.int64), np.zeros(n, np.float64)
    counts = np.zeros(len(table), np.int32)
    seen = np.empty(len(table) + 1, np.int32)
    entries, lanes = np.empty(LANES * BLOCK, np.uint32), np.empty(LANES, np.uint32)
    scores = np.empty(columns, np.float64)
    part = np.empty(columns, np.float32)
    for k in range(n):
        found = _count_features(
            data, starts[k], ends[k], automaton, byte_class, first, second, longest, counts, seen, entries, lanes
        )
        scores[:] = 0.0
        for low in range(0, found, TOGETHER):
            part[:] = 0.0
            for feature in seen[low + TOGETHER : min(low + 2 * TOGETHER, found)]:
                _ask_for(table[feature])
            for feature in seen[low : min(low + TOGETHER, found)]:
                count = counts[feature]
                counts[feature] = 0
                weight = weights[count] if count < len(weights) else np.float32(math.log1p(count))
                weight *= HALF_TO_SINGLE
                row = table[feature]
                for c in range(columns):
                    bits = np.int32((np.int32(row[c]) << HALF_SHIFT) & HALF_MASK)
                    part[c] += weight * bits.view(np.float32)
            for c in range(columns):
                scores[c] += part[c]
        for c in range(classes if found else 0):
            scores[c] += prior[c]
        winner[k], probability[k] = _best(scores[:classes], alias, max(ends[k] - starts[k], 1))
    return winner, probability


@leaf
def _count_features(
    data: Any,
    start: int,
    end: int,
    automaton: Any,
    byte_class: Any,
    first: int,
    second: int,
    longest: int,
    counts: Any,
    seen: Any,
    entries: Any,
    lanes: Any,
) -> Any:
    """Counts features into `counts`, lists each at its first occurrence in `seen`; how many there are.

    Each look-up waits for the one before. So parts of a text are read in turn, each from `longest` bytes before it: by
    then the automaton is in the state that the whole text would have brought it to. entries, lanes: room for the steps
    of a block, and for each part's row.
    """
    part = (end - start) // LANES
    part = part if part >= longest else 0
    lanes[:] = first
    for lane in range(1, LANES if part else 0):
        for i in range(start + lane * part - longest, start + lane * part):
            lanes[lane] = automaton[lanes[lane], byte_class[data[i]]] >> ROW_BITS
    found: Any = np.int64(0)
    for low in range(0, part, BLOCK):
        steps = min(BLOCK, part - low)
        for i in range(steps):
            for lane in range(LANES):
                entry = automaton[lanes[lane], byte_class[data[start + low + i + lane * part]]]
                lanes[lane] = entry >> ROW_BITS
                entries[i * LANES + lane] = entry
        found = _count(entries[: steps * LANES], second, counts, seen, found)
    row = lanes[LANES - 1]
    for low in range(start + LANES * part, end, len(entries)):
        steps = min(len(entries), end - low)
        for i in range(steps):
            entries[i] = automaton[row, byte_class[data[low + i]]]
            row = entries[i] >> ROW_BITS
        found = _count(entries[:steps], second, counts, seen, found)
    return found


@leaf
def _count(entries: Any, second: int, counts: Any, seen: Any, found: int) -> int:
    """Counts the features of some steps; `found` after them. Steps without one are sorted out first, which is cheaper
    than to count them: half of all, and each count would wait for the one before."""
    kept = 0
    for entry in entries:
        entries[kept] = entry
        kept += (entry & FEATURE_MASK) != 0
    least = np.uint32(second) << ROW_BITS
    for entry in entries[:kept]:
        feature = (entry & FEATURE_MASK) + UPPER * np.uint32(entry >= least)
        seen[found] = feature
        count = counts[feature]
        found += count == 0
        counts[feature] = count + 1
    return found


@leaf
def _ask_for(row: Any) -> None:
    for c in range(0, len(row), LINE):
        prefetch(row, c)
    prefetch(row, len(row) - 1)


@inner
def _best(scores: Any, alias: Any, size: int) -> Any:
    """The class of the greatest softmax of scores / sqrt(size), aliases folded, and that softmax; `scores` is used
    up."""
    scale, top, total = 1.0 / math.sqrt(size), scores.max(), 0.0
    for c in range(len(scores)):
        scores[c] = math.exp((scores[c] - top) * scale)
        total += scores[c]
    for c in range(len(scores)):
        if alias[c] != c:
            scores[alias[c]] += scores[c]
            scores[c] = 0.0
    best = 0
    for c in range(1, len(scores)):
        if scores[c] > scores[best]:
            best = c
    return best, scores[best] / total
