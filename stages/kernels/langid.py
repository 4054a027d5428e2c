"""Language scores of documents by py3langid's model: a byte automaton, then naive Bayes.

Reads UTF-8 bytes and the model's arrays; writes the best class and its probability for each document. It sums in
float64, in the order in which features first occur, where py3langid sums in float32 in an order its BLAS chooses: so
the answer is the same on every machine, and its probability differs from py3langid's by that rounding (3.2e-4 at most
in 4,200 documents, no label). The tables are larger than the caches, which sets the speed: 33 MB/s on short texts in
many languages.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

FEATURE_BITS = np.uint64(24)
FEATURE_MASK = np.uint64((1 << 24) - 1)
HALF_TO_SINGLE = 2.0**112
"""What a float16's bits, moved to a float32's place, must be multiplied by: the difference of the exponents' biases."""


def pack_automaton(
    transitions: NDArray[np.uint32], row_of: NDArray[np.uint16], feature_of: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """One entry for a step of the automaton in place of three look-ups: uint64[rows * 256].

    transitions: the next state by row and byte; row_of, feature_of: by state, feature -1 for none. An entry holds,
    above `FEATURE_BITS`, where the next state's row starts, and below, its feature plus one.
    """
    row_start = row_of.astype(np.uint64) << np.uint64(8)
    by_state = row_start << FEATURE_BITS | (feature_of + 1).astype(np.uint64)
    return by_state[transitions]


def depth(automaton: NDArray[np.uint64], first: int) -> int:
    """Bytes of the longest feature, as steps from the first state to the farthest: after so many, nothing that came
    before them matters (the automaton is that of Aho and Corasick 1975)."""
    rows = automaton.reshape(-1, 256)
    reached = np.zeros(len(rows), np.bool_)
    edge, steps = np.array([first >> 8]), -1
    while len(edge):
        reached[edge] = True
        steps += 1
        found = np.zeros(len(rows), np.bool_)
        found[(rows[edge] >> (FEATURE_BITS + np.uint64(8))).astype(np.int64)] = True
        edge = np.flatnonzero(found & ~reached)
    return steps


@njit(cache=True, nogil=True)
def classify(
    data: Any,
    starts: Any,
    ends: Any,
    automaton: Any,
    first: int,
    longest: int,
    table: Any,
    prior: Any,
    alias: Any,
    weights: Any,
) -> Any:
    """The most probable class of each of n texts: (class int64[n], probability float64[n]).

    data: uint8[:]; text k is `data[starts[k]:ends[k]]` (int64[n] each). automaton: of `pack_automaton`; first: where
    the row of its first state starts; longest: of `depth`. table: uint16[features, classes], the bits of float16
    log-likelihoods; prior: float32[classes]. alias: int64[classes], the class into which one's probability is folded
    (for most, itself). weights: float64[m], log1p of the counts below m. Score: log1p(count) times likelihood, summed
    over the features seen, plus the prior; divided by the square root of the text's bytes; softmax (py3langid 0.4,
    langid.py). A text without features scores the same in every class.
    """
    n, classes = len(starts), len(prior)
    winner, probability = np.zeros(n, np.int64), np.zeros(n, np.float64)
    counts = np.zeros(len(table) + 1, np.int32)
    seen = np.empty(len(table) + 2, np.int32)
    scores = np.empty(classes, np.float64)
    bits = np.empty(classes, np.uint32)
    likelihoods = bits.view(np.float32)
    for k in range(n):
        found = _count_features(data, starts[k], ends[k], automaton, first, longest, counts, seen)
        scores[:] = 0.0
        for f in range(found):
            feature, count = seen[f], counts[seen[f]]
            counts[feature] = 0
            weight = weights[count] if count < len(weights) else np.float64(np.float32(math.log1p(count)))
            weight *= HALF_TO_SINGLE
            row = table[feature - 1]
            for c in range(classes):
                bits[c] = (row[c] & np.uint32(0x8000)) << np.uint32(16) | (row[c] & np.uint32(0x7FFF)) << np.uint32(13)
            for c in range(classes):
                scores[c] += weight * likelihoods[c]
        for c in range(classes if found else 0):
            scores[c] += prior[c]
        winner[k], probability[k] = _best(scores, alias, max(ends[k] - starts[k], 1))
    return winner, probability


@njit(cache=True, nogil=True)
def _count_features(
    data: Any, start: int, end: int, automaton: Any, first: int, longest: int, counts: Any, seen: Any
) -> int:
    """Counts features from 1 into `counts`, lists each at its first occurrence in `seen`; how many there are.

    Each look-up waits for the one before. So four parts of a text are read in turn, each from `longest` bytes before
    it: by then the automaton is in the state that the whole text would have brought it to.
    """
    part = (end - start) // 4
    a = np.int64(first)
    b, c, d = a, a, a
    if part > longest:
        for i in range(start + part - longest, start + part):
            b = np.int64(automaton[b + data[i]] >> FEATURE_BITS)
            c = np.int64(automaton[c + data[i + part]] >> FEATURE_BITS)
            d = np.int64(automaton[d + data[i + 2 * part]] >> FEATURE_BITS)
    else:
        part = 0
    found = 0
    for i in range(start, start + part):
        one, two = automaton[a + data[i]], automaton[b + data[i + part]]
        three, four = automaton[c + data[i + 2 * part]], automaton[d + data[i + 3 * part]]
        a, b = np.int64(one >> FEATURE_BITS), np.int64(two >> FEATURE_BITS)
        c, d = np.int64(three >> FEATURE_BITS), np.int64(four >> FEATURE_BITS)
        found = _count(one, counts, seen, found)
        found = _count(two, counts, seen, found)
        found = _count(three, counts, seen, found)
        found = _count(four, counts, seen, found)
    if part:
        a = d
    for i in range(start + 4 * part, end):
        entry = automaton[a + data[i]]
        a = np.int64(entry >> FEATURE_BITS)
        found = _count(entry, counts, seen, found)
    counts[0] = 0
    return found


@njit(cache=True, nogil=True, inline="always")
def _count(entry: Any, counts: Any, seen: Any, found: int) -> int:
    """Counts the feature of one step; `found` after it."""
    feature = np.int64(entry & FEATURE_MASK)
    seen[found] = feature
    found += (counts[feature] == 0) & (feature > 0)
    counts[feature] += 1
    return found


@njit(cache=True, nogil=True)
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
