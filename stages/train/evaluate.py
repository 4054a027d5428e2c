"""How well a model foretells held-out bytes: bits per byte, beside what simple models and a compressor need for them.

Reads batches of the validation split. Bits per byte = nats of the labelled tokens / ln 2 / bytes of those tokens, so it
compares across tokenizers. A segment's first token is not foretold and its bytes are not counted, by anybody here;
special tokens have no bytes, but foretelling them costs the model bits.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.train.attention import layout
from stages.train.data import IGNORED, Batch
from stages.train.model import Model
from stages.train.ngram import Ngrams
from stages.train.parallel import World

Named = tuple[Batch, list[tuple[str, str]]]
"""A batch, and (file of origin, language) of each of its documents."""


@dataclass(frozen=True)
class HeldOut:
    """The validation rows, ready to be measured.

    members: per batch, the groups of each document, int64 [documents, 3]: whole, source, language, as numbers in
    `groups`, where "" is the whole. spelt: the bytes of each token id.
    """

    batches: list[Batch]
    members: list[NDArray[np.int64]]
    groups: list[str]
    spelt: Sequence[bytes]

    @classmethod
    def of(cls, batches: Iterable[Named], spelt: Sequence[bytes]) -> HeldOut:
        """A document's source is the first part of its file's name."""
        kept, numbers, members = [], {"": 0}, []
        for batch, names in batches:
            labels = [("", f"source {source.split('/')[0]}", f"language {lang}") for source, lang in names]
            rows = [[numbers.setdefault(label, len(numbers)) for label in row] for row in labels]
            kept.append(batch)
            members.append(np.array(rows, np.int64))
        return cls(kept, members, list(numbers), spelt)

    def measure(self, model: Model, world: World) -> dict[str, float]:
        """Bits per byte by group; processes share the batches, and each is told all."""
        sums = torch.zeros(len(self.groups), 2, dtype=torch.float64)
        for turn in range(-(-len(self.batches) // world.size)):
            number = turn * world.size + world.rank
            mine = self._sums(model, number % len(self.batches), world.device)
            if number < len(self.batches):  # in FSDP each process must take every turn
                sums += mine
        sums = world.total(sums.to(world.device)).cpu()
        rows = zip(self.groups, sums.tolist(), strict=True)
        return dict(sorted((name, cost / math.log(2) / size) for name, (cost, size) in rows if size))

    def _sums(self, model: Model, number: int, device: torch.device) -> Tensor:
        """Nats and bytes of each group in one batch: float64 [groups, 2]."""
        batch = self.batches[number]
        known = batch.labels != IGNORED
        sizes = torch.tensor([len(one) for one in self.spelt])[batch.labels[known]]
        pair = torch.stack([token_nats(model, batch, device).double(), sizes.double()], 1)
        which = torch.from_numpy(np.repeat(self.members[number], batch.lengths, 0))[known]
        sums = torch.zeros(len(self.groups), 2, dtype=torch.float64)
        for column in range(which.shape[1]):
            sums.index_add_(0, which[:, column], pair)
        return sums

    def baselines(self, counted: Ngrams) -> dict[str, float]:
        """The same bytes without a Transformer: how many, and the bits per byte of xz -9e, of a uniform choice of
        tokens, of the held-out tokens' own frequencies (which no model is told), and of the training rows' trigrams."""
        labels = np.concatenate([batch.labels[batch.labels != IGNORED].numpy() for batch in self.batches])
        text = b"".join(self.spelt[label] for label in labels.tolist())
        size, counts = max(len(text), 1), np.bincount(labels)
        shares = counts[counts > 0] / len(labels)
        xz = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
        trigrams = sum(float(counted.nats(batch).sum()) for batch in self.batches)
        return {
            "bytes": len(text),
            "trigram_bits_per_byte": round(trigrams / math.log(2) / size, 4),
            "xz_bits_per_byte": round(8 * len(xz) / size, 4),
            "unigram_bits_per_byte": round(float(-(shares * np.log2(shares)).sum()) * len(labels) / size, 4),
            "uniform_bits_per_byte": round(math.log2(len(self.spelt)) * len(labels) / size, 4),
        }


@torch.no_grad()
def token_nats(model: Model, batch: Batch, device: torch.device) -> Tensor:
    """−log p of each labelled token of a batch from those before it: float32 [labelled], on the CPU."""
    where = layout(batch.lengths.tolist(), model.shape.heads, model.shape.kv_heads, device)
    costs: Tensor = model(batch.ids.to(device), batch.positions.to(device), where, batch.labels.to(device), z=None)
    return costs.cpu()
