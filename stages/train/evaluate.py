"""How good a model is on held-out bytes: bits per byte, beside what compressors and simple models need.

Bits per byte = nats of the labelled tokens / ln 2 / bytes of those tokens: comparable across tokenizers. A
document's first
token has no prediction and its bytes are not counted; special tokens count no bytes but their nats do count.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as fn

from stages.train.data import IGNORED, Batch
from stages.train.model import Model, document_mask


@torch.no_grad()
def bits_per_byte(model: Model, batches: Sequence[Batch], byte_lengths: NDArray[np.int32]) -> float:
    """Bits per byte over all labelled tokens of the batches."""
    lengths = torch.from_numpy(byte_lengths.astype(np.int64))
    nats, size = 0.0, 0
    for batch in batches:
        hidden = model(batch.ids, batch.positions, document_mask(batch.documents))
        known = batch.labels != IGNORED
        loss = fn.cross_entropy(model.logits(hidden[known]).float(), batch.labels[known], reduction="sum")
        nats += loss.item()
        size += int(lengths[batch.labels[known]].sum())
    return nats / math.log(2) / max(size, 1)


def baselines(tokenizer: Any, batches: Sequence[Batch], byte_lengths: NDArray[np.int32]) -> dict[str, float]:
    """Bytes of the batches' text, and bits per byte of xz -9e, of their own unigrams and of a uniform choice of
    tokens."""
    labels = np.concatenate([b.labels[b.labels != IGNORED].numpy() for b in batches])
    size = int(byte_lengths[labels].sum())
    text = b"\n".join(_texts(tokenizer, batches))
    xz = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    counts = np.bincount(labels).astype(np.float64)
    share = counts[counts > 0] / counts.sum()
    unigram = -(share * np.log2(share)).sum() * len(labels) / max(size, 1)
    return {
        "bytes": size,
        "xz_bits_per_byte": round(8 * len(xz) / max(len(text), 1), 4),
        "unigram_bits_per_byte": round(float(unigram), 4),
        "uniform_bits_per_byte": round(math.log2(len(byte_lengths)) * len(labels) / max(size, 1), 4),
    }


def _texts(tokenizer: Any, batches: Sequence[Batch]) -> list[bytes]:
    """The text of every segment, decoded."""
    texts = []
    for batch in batches:
        for ids, documents in zip(batch.ids.numpy(), batch.documents.numpy(), strict=True):
            edges = np.flatnonzero(np.diff(documents)) + 1
            texts += [tokenizer.decode(part.tolist()).encode() for part in np.split(ids, edges)]
    return texts
