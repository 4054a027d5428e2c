"""Language scores of documents by py3langid's model: a byte automaton, then naive Bayes.

Reads UTF-8 bytes and the model's arrays; writes the best class and its probability for each document. Scores are
summed in the order in which features are first met, sixteen of them in float32, the sums in float64; py3langid sums all
in float32 in an order that its BLAS chooses. So the answer is the same on every machine, and its probability differs
from py3langid's by that rounding (3.2e-4 at most in 4,200 documents, no label). The tables, 60 MB, are larger than the
caches, which sets the speed; so eight parts of a text are read in turn, likelihoods are asked for before they are
needed, and of a longer text all classes are scored roughly first, by a byte for each likelihood, and exactly only those
that can have a part in the answer, mostly two. What is so made of the model is kept: 41 MB more at most.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stages.kernels.leaf import empty_array, inner, kernel, leaf, prefetch, zero_array

LANES = 8
BLOCK = 1024
"""Steps of all lanes after which features are counted."""
TOGETHER = 16
"""Features whose scores are summed in float32, while the likelihoods of as many are fetched."""
LINE = 64
"""Bytes of a cache line."""
SLOTS = 2 * LINE
"""Classes that are told apart in a rough score: those above share a slot, so that a row takes two lines."""
GROUP = 1 << 17
"""Features of texts that are counted one after the other, then scored: so the caches hold the tables of one of the two
at a time."""
ENOUGH = 640
"""Features from which on classes are scored roughly first: with fewer, too many of them cannot be told apart."""
FEW = 16
"""Classes that are scored one by one; if there are more, all are scored row by row."""
STEPS = np.float32(17)
"""Steps of a rough likelihood in one of its logarithm: those of 0.03 to 15, 1 to 255."""
PAYS = 64
"""Texts that ask for a class before a column of its own is made, which takes as long as this many without."""
BEYOND = 22.0
"""Classes less probable than the best one by more than exp(BEYOND) have no part in the answer: all 142 together would
change a probability by 4e-8 at most."""
ROW_BITS = np.uint32(16)
FEATURE_MASK = np.uint32(0xFFFF)
UPPER = np.uint32(1 << 16)
"""What is added to a feature's number where the row is one of the upper half."""
HALF_SHIFT = np.int32(13)
HALF_MASK = np.int32(~0x70000000)
HALF_TO_SINGLE = np.float32(2.0**112)
"""What a float16's bits, moved to a float32's place, must be multiplied by: the difference of the exponents' biases."""


@kernel
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
    rough: Any,
    columns: Any,
) -> Any:
    """The most probable class of each of n texts: (class int64[n], probability float64[n]).

    data: uint8[:]; text k is `data[starts[k]:ends[k]]` (int64[n] each). automaton: uint32[rows, byte classes], the next
    row above `ROW_BITS` and the feature below, 0 for none, to which `UPPER` is added from row `second` on; byte_class:
    uint8[256]; first: its first row; longest: bytes of its longest feature. table: int16[features, classes and more],
    the bits of float16 log-likelihoods, of -15 to -0.03 or 0; prior: float32[classes]. alias: int64[classes], the class
    into which one's probability is folded (for most, itself). weights: float32[m], log1p of the counts below m. rough,
    columns: uint8[features, `SLOTS`] that begins a cache line, int16[classes, features + 1]: room for what is made of
    the table's rows and columns when it pays, 0 until then, to be given again. Score: log1p(count) times
    likelihood, summed over the features seen, plus the prior; divided by the square root of the text's bytes; softmax
    (py3langid 0.4, langid.py). A text without features scores the same in every class.
    """
    n, classes, k = len(starts), len(prior), 0
    winner, probability = zero_array(n, np.int64), zero_array(n, np.float64)
    counts, edges = zero_array(len(table), np.int32), zero_array(n + 1, np.int64)
    seen, shares = empty_array(GROUP + len(table) + 1, np.int32), empty_array(GROUP + len(table) + 1, np.float32)
    entries, lanes = empty_array(LANES * BLOCK, np.uint32), empty_array(LANES, np.uint32)
    scores, part = empty_array(table.shape[1], np.float64), empty_array(table.shape[1], np.float32)
    near = empty_array(classes, np.int64)
    while k < n:
        low, used = k, 0
        while k < n and used < GROUP:
            steps = (automaton, byte_class, first, second, longest)
            found = _count_features(data, starts[k], ends[k], *steps, counts, seen[used:], entries, lanes)
            _weigh(seen[used : used + found], counts, weights, shares[used:])
            k, used = k + 1, used + found
            edges[k] = used
        edges[low] = 0
        for text in range(low, k):
            own, share = seen[edges[text] : edges[text + 1]], shares[edges[text] : edges[text + 1]]
            size = max(ends[text] - starts[text], 1)
            _score(own, share, size, table, prior, rough, columns, part, near, scores)
            winner[text], probability[text] = _best(scores[:classes], alias, size)
    return winner, probability


@inner
def _score(
    seen: Any,
    shares: Any,
    size: int,
    table: Any,
    prior: Any,
    rough: Any,
    columns: Any,
    part: Any,
    near: Any,
    scores: Any,
) -> None:
    """Writes the score of each class, or -inf where it has no part in the answer."""
    some = classes = len(prior)
    if len(seen) >= ENOUGH:
        _sum_roughly(seen, shares, table, classes, rough, part, scores)
        some = _nearest(scores, prior, shares.sum(), size, near)
    if some > FEW:
        _sum_rows(seen, shares, table, part, scores)
        for c in range(classes if len(seen) else 0):
            scores[c] += prior[c]
    else:
        scores[:] = -np.inf
        for c in near[:some]:
            if _has_column(table, c, columns[c]):
                scores[c] = _sum_column(seen, shares, columns[c]) + prior[c]
            else:
                scores[c] = _sum_column(seen, shares, table[:, c]) + prior[c]


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
def _weigh(seen: Any, counts: Any, weights: Any, shares: Any) -> None:
    """Writes the weights of a text's features, and uncounts them."""
    for j in range(len(seen)):
        count = counts[seen[j]]
        counts[seen[j]] = 0
        shares[j] = weights[count] if count < len(weights) else np.float32(math.log1p(count))


@leaf
def _likelihood(bits: Any) -> Any:
    """float16 to float32, but for the factor `HALF_TO_SINGLE`."""
    return np.int32((np.int32(bits) << HALF_SHIFT) & HALF_MASK).view(np.float32)


@leaf
def _sum_rows(seen: Any, shares: Any, table: Any, part: Any, scores: Any) -> None:
    """Writes the sums of weight times likelihood of all classes."""
    columns = table.shape[1]
    scores[:] = 0.0
    for low in range(0, len(seen), TOGETHER):
        part[:] = 0.0
        for feature in seen[low + TOGETHER : low + 2 * TOGETHER]:
            _ask_for(table[feature])
        for j in range(low, min(low + TOGETHER, len(seen))):
            row, weight = table[seen[j]], shares[j] * HALF_TO_SINGLE
            for c in range(columns):
                part[c] += weight * _likelihood(row[c])
        for c in range(columns):
            scores[c] += part[c]


@leaf
def _sum_column(seen: Any, shares: Any, column: Any) -> Any:
    """That sum of one class, in the same order. column: the class's bits by feature."""
    score: Any = 0.0
    for low in range(0, len(seen), TOGETHER):
        part: Any = np.float32(0)
        for j in range(low, min(low + TOGETHER, len(seen))):
            part += shares[j] * HALF_TO_SINGLE * _likelihood(column[seen[j]])
        score += part
    return score


@leaf
def _has_column(table: Any, c: int, column: Any) -> bool:
    """Whether a class has a column of its own, which is made when it has been asked for often enough; its last number
    counts."""
    asked = column[len(table)]
    if asked == PAYS:
        return True
    column[len(table)] = asked + 1
    if asked + 1 == PAYS:
        for feature in range(len(table)):
            column[feature] = table[feature, c]
    return bool(asked + 1 == PAYS)


@leaf
def _sum_roughly(seen: Any, shares: Any, table: Any, classes: int, rough: Any, part: Any, scores: Any) -> None:
    """Writes about what `_sum_rows` does, by slots. Rows of slots are made where they are not yet."""
    scores[:SLOTS] = 0.0
    for low in range(0, len(seen), TOGETHER):
        part[:SLOTS] = 0.0
        high = min(low + TOGETHER, len(seen))
        for feature in seen[high : high + TOGETHER]:
            prefetch(rough[feature], 0)
            prefetch(rough[feature], LINE)
        for feature in seen[low:high]:
            if rough[feature, 0] == 0:
                _make_rough(table[feature, :classes], rough[feature])
        j = low
        while j + 4 <= high:
            _add_four(part, seen, shares, rough, j)
            j += 4
        while j < high:
            for c in range(SLOTS):
                part[c] += shares[j] * np.float32(rough[seen[j], c])
            j += 1
        for c in range(SLOTS):
            scores[c] -= part[c] / STEPS


@leaf
def _add_four(part: Any, seen: Any, shares: Any, rough: Any, j: int) -> None:
    """Adds four weighted rows: the sums are fetched and put back once for all of them."""
    a, b, c, d = rough[seen[j]], rough[seen[j + 1]], rough[seen[j + 2]], rough[seen[j + 3]]
    s, t, u, v = shares[j], shares[j + 1], shares[j + 2], shares[j + 3]
    for k in range(SLOTS):
        first = s * np.float32(a[k]) + t * np.float32(b[k])
        part[k] += first + (u * np.float32(c[k]) + v * np.float32(d[k]))


@leaf
def _make_rough(exact: Any, row: Any) -> None:
    """Writes a row of slots: the steps, none off by more than half of one, of the likelier class of each slot."""
    row[:] = 255
    for c in range(len(exact)):
        steps = np.float32(0.5) - _likelihood(exact[c]) * HALF_TO_SINGLE * STEPS
        row[_slot(c)] = min(row[_slot(c)], np.uint8(steps))


@leaf
def _slot(c: int) -> Any:
    """The slot of a class: the last ones share theirs with those before them."""
    return c if c < SLOTS else 2 * SLOTS - 1 - c


@leaf
def _nearest(slots: Any, prior: Any, total: Any, size: int, near: Any) -> Any:
    """Writes the classes that may have a part in the answer, by the scores of slots; how many.

    A slot's score is off by half a step for each of the text's weights, or less, a hundredth of it allowed for the
    rounding of sums; and it is too high for a class that shares it, which so may stay without need, but sets no limit.
    """
    best, far = -np.inf, BEYOND * math.sqrt(size) + 1.01 * total / STEPS
    for c in range(min(len(prior), 2 * SLOTS - len(prior))):
        best = max(best, slots[c] + prior[c])
    some = 0
    for c in range(len(prior)):
        near[some] = c
        some += slots[_slot(c)] + prior[c] >= best - far
    return some


@leaf
def _ask_for(row: Any) -> None:
    for c in range(0, len(row), LINE // 2):
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
