"""Chinese words as jieba 0.42.1 cuts them, with its own dictionary and model as data.

Reads texts as byte ranges of one buffer and `data/jieba.safetensors.zst`; writes where each word starts and ends. Words
equal those of `jieba.cut(text)` that are no blanks: so they did for all 6,146,216 words of 27,898 Chinese documents.
The tables are read once a process, which takes 0.1 s.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.arrays import read_arrays

NONE = 1.0
"""The score of what is no word; a logarithm of a probability is at most 0."""


class Tables(NamedTuple):
    """What the kernel reads.

    ids: a number from 1 up for each character of a word, by code point (those of the first plane). links int32[rows, 4]
    and values float64[rows, 2], the same memory: the dictionary as a double-array trie, row 0 the empty beginning. The
    child of row r by the character with number c is row links[r, 0] + c if that row's links[.., 1] is r; values[r, 1]
    is its score, NONE for no word. unseen: the score of a character that begins no word. model: see `cut_texts`.
    """

    ids: NDArray[np.uint16]
    links: NDArray[np.int32]
    values: NDArray[np.float64]
    unseen: float
    model: NDArray[np.float64]


@cache
def tables() -> Tables:
    """The data as `data/make_jieba.py` wrote it, laid out for the kernel."""
    data, told = read_arrays(Path(__file__).with_name("data") / "jieba.safetensors.zst")
    base = data["base"]
    links = np.zeros((len(base), 4), np.int32)
    links[:, 0], links[:, 1] = base, data["check"]
    values = links.view(np.float64)
    values[:, 1] = np.concatenate([[NONE], data["scores"]])[data["value"]]
    return Tables(data["ids"], links, values, float(told["unseen"]), data["model"])


def cut_texts(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], classes: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """The words of n texts `data[starts[k]:ends[k]]`: (where each starts int64[w], where each ends int64[w], whether
    blanks other than one space precede it bool[w], firsts int64[n + 1]). classes: class bits of `stages.words`."""
    from stages.kernels import jieba as kernel

    found: tuple[Any, Any, Any, Any] = kernel.cut_texts(data, starts, ends, classes, *tables())
    return found
