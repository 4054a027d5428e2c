"""Which texts overlap, exactly: every pair whose Jaccard similarity reaches a limit.

Takes texts, gives groups. Words are lower-cased runs of \\w, in scripts written without spaces each character; five
are a shingle. The one trade-off: exact, by prefix filtering (Chaudhuri et al. 2006), so common shingles cost time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

SPACELESS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
WORD = re.compile(rf"(?=\w)[{SPACELESS}]|[^\W{SPACELESS}]+")


def shingles(text: str) -> frozenset[str]:
    """Five words in a row; all of them where there are fewer."""
    words = WORD.findall(text.lower())
    return frozenset(" ".join(words[k : k + 5]) for k in range(max(1, len(words) - 4)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared shingles over all shingles."""
    return len(a & b) / len(a | b)


def groups(texts: Sequence[str], limit: float) -> dict[int, tuple[int, float]]:
    """For each text that has a duplicate: the first of its group, and the similarity with that one (1.0 for itself).

    A group is what pairs of at least `limit` connect; so a member may be less similar than `limit` to the first.
    """
    sets = [shingles(text) for text in texts]
    common = Counter(s for one in sets for s in one)
    ordered = [sorted(one, key=lambda s: (common[s], s)) for one in sets]
    seen: dict[str, list[int]] = defaultdict(list)
    first = list(range(len(texts)))

    def root(k: int) -> int:
        while first[k] != k:
            k = first[k]
        return k

    for k, one in enumerate(ordered):
        prefix = one[: len(one) - int(limit * len(one) - 1e-9)] or one
        for other in sorted({j for s in prefix for j in seen[s]}):
            if jaccard(sets[k], sets[other]) >= limit:
                a, b = sorted((root(k), root(other)))
                first[b] = a
        for s in prefix:
            seen[s].append(k)
    roots = [root(k) for k in range(len(texts))]
    size = Counter(roots)
    return {k: (r, jaccard(sets[k], sets[r])) for k, r in enumerate(roots) if size[r] > 1}
