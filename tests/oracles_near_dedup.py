"""Slow, plainly right twins of near_dedup's kernels: words, hashes, signatures, survivors, components."""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from itertools import filterfalse

SPACELESS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff"
    "\uff66-\uff9f\U00016fe0-\U00016fff\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
GOLDEN, WRAP = 0x9E3779B97F4A7C17, 2**64


def is_silent(char: str) -> bool:
    """Whether a character shows nothing by itself: a format character but U+200B, or a variation selector."""
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return selector or (unicodedata.category(char) == "Cf" and char != "\u200b")


def words(text: str) -> list[str]:
    """Runs of letters, digits, _ and marks of the NFC form, lower-cased by code point; characters of scripts without
    spaces stand alone, each with the marks after it. Silent characters are as if not there."""
    found, alone = [""], False
    for char in filterfalse(is_silent, unicodedata.normalize("NFC", text)):
        mark, letter = unicodedata.category(char).startswith("M"), char.isalnum() or char == "_"
        if mark:
            found[-1] += char
            continue
        if not letter or alone or SPACELESS.match(char):
            found.append("")
        alone = letter and SPACELESS.match(char) is not None
        found[-1] += char.lower()[0] if letter else ""
    return [word for word in found if word]


def shingle_set(text: str, n: int) -> set[tuple[str, ...]]:
    """The set of n-word shingles; all the words where there are fewer; the bytes above the blank of the NFC form where
    there are none."""
    found = words(text)
    if not found:
        return {("", *(chr(b) for b in unicodedata.normalize("NFC", text).encode() if b > 32))}
    width = min(n, len(found))
    return {tuple(found[k : k + width]) for k in range(len(found) - width + 1)}


def mix(x: int) -> int:
    """splitmix64's finaliser."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WRAP
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WRAP
    return x ^ x >> 31


def word_hash(word: str) -> int:
    """A word by its UTF-8 in pieces of eight bytes, the last one short of eight."""
    data, state = word.encode(), 0
    while len(data) >= 8:
        state = (state ^ int.from_bytes(data[:8], "little")) * GOLDEN % WRAP
        state, data = state ^ state >> 32, data[8:]
    return mix((state ^ int.from_bytes(data, "little")) * GOLDEN % WRAP)


def shingle_hash(shingle: tuple[str, ...]) -> int:
    """A shingle: its words' hashes as the digits of a number in base GOLDEN."""
    if shingle[0] == "":
        state = 1
        for char in shingle[1:]:
            state = (state ^ ord(char)) * GOLDEN % WRAP
            state ^= state >> 29
        return mix(state ^ 1)
    number = 0
    for word in shingle:
        number = (number * GOLDEN + word_hash(word)) % WRAP
    return mix(number ^ len(shingle))


def hashes(text: str, n: int) -> list[int]:
    """The hashes of a text's shingles, sorted."""
    return sorted({shingle_hash(shingle) for shingle in shingle_set(text, n)})


def signature(text: str, n: int, factors: Sequence[int], addends: Sequence[int]) -> list[int]:
    """Per permutation the least image of a shingle's low 32 bits."""
    low = [value % 2**32 for value in hashes(text, n)]
    return [min((f * x + a) % 2**32 for x in low) for f, a in zip(factors, addends, strict=True)]


def band_keys(signed: Sequence[int], bands: int, rows: int) -> list[int]:
    """A key for each band."""
    keys = []
    for band in range(bands):
        state = band + 1
        for value in signed[band * rows : (band + 1) * rows]:
            state = (state ^ value) * GOLDEN % WRAP
            state ^= state >> 32
        keys.append(mix(state))
    return keys


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """|a ∩ b| / |a ∪ b|."""
    return len(a & b) / len(a | b)


def greedy(
    sets: Sequence[set[int]], clusters: Sequence[int], similarity: float, most: int, most_values: int
) -> list[tuple[int, float, int]]:
    """Each set's (survivor, Jaccard, block): the survivor of its block with the highest Jaccard ≥ similarity, the
    earlier of equals, or itself."""
    rows: list[tuple[int, float, int]] = []
    for k, own in enumerate(sets):
        new = k == 0 or clusters[k] != clusters[k - 1]
        alive = [j for j in range(k) if rows[j][0] == j and rows[j][2] == rows[-1][2]]
        if new or len(alive) >= most or sum(len(sets[j]) for j in alive) >= most_values:
            block, alive = k, []
        else:
            block = rows[-1][2]
        scores = [(Fraction(len(own & sets[j]), len(own | sets[j])), -j) for j in alive]
        best = max((s for s in scores if float(s[0]) >= similarity), default=(Fraction(1), -k))
        rows.append((-best[1], float(best[0]), block))
    return rows


def components(edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(node, smallest node of its component), sorted, by flooding."""
    root = {node: node for edge in edges for node in edge}
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(root[a], root[b])
            changed |= root[a] != low or root[b] != low
            root[a] = root[b] = low
    return sorted(root.items())
