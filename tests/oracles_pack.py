"""Slow, plainly right twins of packing: best-fit by looking at every bin, and rows read back segment by segment."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any


def best_fit(lengths: Sequence[int], room: int) -> list[int]:
    """The bin of each length, taken in the order given: the fullest that has room, of those the last to change."""
    left: list[int] = []
    changed: list[int] = []
    bins = []
    for k, need in enumerate(lengths):
        fits = [b for b in range(len(left)) if left[b] >= need]
        if fits:
            best = min(fits, key=lambda b: (left[b], -changed[b]))
        else:
            best = len(left)
            left.append(room)
            changed.append(k)
        left[best] -= need
        changed[best] = k
        bins.append(best)
    return bins


def frame(documents: Sequence[Sequence[int]], bos: int, eos: int) -> list[int]:
    """All documents one after the other, each with its tokens before and after where they are not -1."""
    return [t for ids in documents for t in ([bos] * (bos >= 0) + list(ids) + [eos] * (eos >= 0))]


def unpack(rows: Iterable[dict[str, Any]], length: int, pad: int) -> dict[str, dict[int, list[int]]]:
    """Document → first token's place → the tokens of that segment. Asserts what every packed row promises."""
    found: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for row in rows:
        assert len(row["input_ids"]) == length
        parts = [row[name] for name in ("doc_ids", "doc_offsets", "seq_lengths", "sources", "langs")]
        at = 0
        for name, start, size, source, lang in zip(*parts, strict=True):
            assert size > 0
            assert (source, lang) == (f"{name[0]}.txt", "en")
            assert start not in found[name], "a segment is packed once"
            found[name][start] = row["input_ids"][at : at + size]
            at += size
        assert at > 0, "no row is all padding"
        assert row["input_ids"][at:] == [pad] * (length - at), "padding is at the end"
    return found


def joined(segments: dict[int, list[int]]) -> list[int]:
    """A document's tokens from its segments; raises AssertionError where they do not follow each other."""
    tokens: list[int] = []
    for start, part in sorted(segments.items()):
        assert start == len(tokens)
        tokens += part
    return tokens
