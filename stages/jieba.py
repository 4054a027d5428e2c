"""Chinese words as jieba 0.42.1 cuts them, with its own dictionary and model as data.

Reads texts as byte ranges of one buffer and `data/jieba.json.zst`; writes where each word starts and ends. Words equal
those of `jieba.cut(text)` that are no blanks: so they did for all 6,146,216 words of 27,898 Chinese documents. The
tables are read and the trie is built once a process, which takes 0.2 s.
"""

from __future__ import annotations

from functools import cache
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STATES = "BEMS"
"""Begin, end and middle of a word, a word alone: alphabetical, as the kernel needs them."""
IMPOSSIBLE = -3.14e100
"""jieba's logarithm of the probability of what its model never saw."""


class Tables(NamedTuple):
    """What the kernel reads, as `kernels.jieba.cut_texts` says."""

    ids: NDArray[np.uint16]
    links: NDArray[np.int32]
    values: NDArray[np.float64]
    unseen: float
    model: NDArray[np.float64]


@cache
def tables() -> Tables:
    """The dictionary as a trie, and the model as one table."""
    from stages.kernels.jieba import CODES, grow_trie

    found = read_tables()
    words = np.frombuffer((found["words"] + "\n").encode("utf-32-le"), np.uint32)
    counts = np.bincount(words, minlength=CODES)
    counts[ord("\n")] = 0
    ids = np.zeros(CODES, np.uint16)
    ids[np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]] = np.arange(1, np.count_nonzero(counts) + 1)
    total = log(found["total"])
    chances = {count: log(count) - total for count in set(found["frequencies"])}
    scores = np.array([chances[count] for count in found["frequencies"]])
    links, values = grow_trie(words, scores, ids)
    return Tables(ids, links, values, log(1) - total, _model(found))


def _model(found: dict[str, Any]) -> NDArray[np.float64]:
    """float64[4 + 1 + h, 4] by state: of what follows each state, of the first state, of each Han letter's emission."""
    from stages.kernels.jieba import FIRST_HAN, LAST_HAN

    model = np.full((5 + LAST_HAN + 1 - FIRST_HAN, 4), IMPOSSIBLE)
    for column, state in enumerate(STATES):
        model[4, column] = found["start"][state]
        for before, chances in found["transition"].items():
            model[STATES.index(before), column] = chances.get(state, IMPOSSIBLE)
        emission = found["emission"][state]
        places = np.frombuffer(emission["characters"].encode("utf-32-le"), np.uint32).astype(np.int64) - FIRST_HAN
        within = (places >= 0) & (places <= LAST_HAN - FIRST_HAN)
        model[5 + places[within], column] = np.array(emission["values"])[within]
    return model


def read_tables() -> dict[str, Any]:
    """The data as `data/make_jieba.py` wrote it."""
    import orjson
    import zstandard

    packed = (Path(__file__).parent / "data/jieba.json.zst").read_bytes()
    found: dict[str, Any] = orjson.loads(zstandard.ZstdDecompressor().decompress(packed))
    return found


def cut_texts(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], classes: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """The words of n texts `data[starts[k]:ends[k]]`: (where each starts int64[w], where each ends int64[w], whether
    blanks other than one space precede it bool[w], firsts int64[n + 1]). classes: class bits of `stages.words`."""
    from stages.kernels import jieba as kernel

    found: tuple[Any, Any, Any, Any] = kernel.cut_texts(data, starts, ends, classes, *tables())
    return found
