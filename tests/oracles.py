"""Slow, plainly right twins of the kernels, and the in-memory engine that tests run a stage's steps with."""

import re
from collections.abc import Sequence

import pyarrow as pa

SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def words(text: str) -> list[str]:
    """Runs of word characters, lower-cased by code point; characters of scripts without spaces stand alone."""
    lower = "".join(c.lower()[0] if c.isalnum() or c == "_" else " " for c in text)
    return [w for run in re.findall(r"\w+", SPACELESS.sub(lambda m: f" {m[0]} ", lower)) for w in [run]]


def shingle_set(text: str, n: int) -> set[tuple[str, ...]]:
    """The set of n-word shingles; all the words where there are fewer; the bytes that are not blank where there are
    none."""
    found = words(text)
    if not found:
        return {("", *(chr(b) for b in text.encode() if b > 32))}
    width = min(n, len(found))
    return {tuple(found[k : k + width]) for k in range(len(found) - width + 1)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """|a ∩ b| / |a ∪ b|."""
    return len(a & b) / len(a | b)


def greedy(sets: Sequence[set[tuple[str, ...]]], clusters: Sequence[int], similarity: float) -> list[int]:
    """Each document's survivor: the earlier survivor of its cluster with the highest Jaccard ≥ similarity, or
    itself."""
    chosen: list[int] = []
    for k, own in enumerate(sets):
        scores = [(jaccard(own, sets[j]), -j) for j in range(k) if chosen[j] == j and clusters[j] == clusters[k]]
        best = max((s for s in scores if s[0] >= similarity), default=(0.0, -k))
        chosen.append(-best[1])
    return chosen


def components(n: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The smallest node of each node's component, by flooding."""
    root = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(root[a], root[b])
            changed |= root[a] != low or root[b] != low
            root[a] = root[b] = low
    return root


def best_fit(lengths: Sequence[int], room: int) -> list[int]:
    """The room left in each bin, sorted, after best-fit of lengths in the order given."""
    bins: list[int] = []
    for need in lengths:
        fits = [k for k, left in enumerate(bins) if left >= need]
        if fits:
            bins[min(fits, key=lambda k: bins[k])] -= need
        else:
            bins.append(room - need)
    return sorted(bins)


def documents(texts: Sequence[str], prefix: str = "d") -> pa.RecordBatch:
    """Documents of the given texts."""
    from pipeline.stage import DOCUMENT

    rows = [{"id": f"{prefix}{k}", "text": text, "source": f"{prefix}:{k}"} for k, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
