"""What counting alone foretells: a trigram model of the training rows, as a baseline for the held-out ones.

Reads batches, gives bits. Witten-Bell smoothing (Witten & Bell 1991, method C, as interpolated by Chen & Goodman 1998,
section 2.5) down to a uniform choice of tokens. It counts the first `MOST` tokens of training at most, in about 100
bytes each while it does: the baseline is for a model trained in minutes, not for one trained on billions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.train.data import IGNORED, Batch, Rows, collate

ORDER = 3
MOST = 4_000_000
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """n-grams of one length, as sorted codes with how often each was seen, and their contexts: how often each was
    followed, and by how many different tokens."""

    grams: Codes
    seen: Codes
    contexts: Codes
    followed: Codes
    kinds: Codes

    @classmethod
    def of(cls, grams: Codes, tokens: int) -> Counts:
        """grams: codes whose remainder by `tokens` is the last token."""
        codes, seen = np.unique(grams, return_counts=True)
        contexts, first, kinds = np.unique(codes // tokens, return_index=True, return_counts=True)
        return cls(codes, seen, contexts, np.add.reduceat(seen, first), kinds)


class Ngrams:
    """A model that has counted the tokens of batches; vocab: how many tokens there are."""

    def __init__(self, batches: Iterable[Batch], vocab: int) -> None:
        self.base = vocab + 1  # one more token stands for what was before a document's first
        grams = [_grams(batch, self.base) for batch in batches]
        self.orders = [Counts.of(np.concatenate([one[n] for one in grams]), self.base) for n in range(ORDER)]

    def nats(self, batch: Batch) -> NDArray[np.float64]:
        """−log p of each labelled token: float64 [labelled]."""
        share = np.full(batch.known(), 1 / (self.base - 1))
        for grams, counts in zip(_grams(batch, self.base), self.orders, strict=True):
            seen = _look_up(grams, counts.grams, counts.seen)
            context = grams // self.base
            followed, kinds = (_look_up(context, counts.contexts, x) for x in (counts.followed, counts.kinds))
            share = np.where(followed > 0, (seen + kinds * share) / np.maximum(followed + kinds, 1), share)
        found: NDArray[np.float64] = -np.log(share)
        return found


def _grams(batch: Batch, base: int) -> list[Codes]:
    """The 1-, 2-, 3-grams that end with each labelled token, as codes: the last token is the lowest digit."""
    ids, positions, labels = (x.numpy() for x in (batch.ids, batch.positions, batch.labels))
    where = np.flatnonzero(labels != IGNORED)
    codes = [labels[where].astype(np.int64)]
    for back in range(ORDER - 1):
        before = np.where(positions[where] >= back, ids[where - back], base - 1)
        codes.append(codes[-1] + before * base ** (back + 1))
    return codes


def _look_up(codes: Codes, known: Codes, values: Codes) -> Codes:
    """The value of each code, 0 for one not known."""
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    found: Codes = np.where(known[place] == codes, values[place], 0)
    return found


def training_batches(rows: Rows) -> Iterable[Batch]:
    """The training rows as stored, group by group, `MOST` tokens at most."""
    room = MOST
    for number in range(len(rows.groups)):
        group = rows.group(number)
        chosen = range(min(len(group.ids), -(-room // rows.length)))
        yield collate([group.row(k) for k in chosen])
        room -= len(chosen) * rows.length
        if room <= 0:
            return
