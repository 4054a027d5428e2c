"""Texts → token ids by a trained tokenizer, without a Python object per token.

Reads `tokenizer.json`. gigatoken encodes where it is installed and takes the pattern (30–170 MB/s a core), after its
ids
have been found equal to those of `tokenizers` on a sample of the texts at hand; else `tokenizers` does, at 2–3 MB/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

CHECKED = 20
Ids = tuple[NDArray[np.int32], NDArray[np.int64]]


class Encoder:
    """A tokenizer ready to encode. Special tokens written out in a text are encoded as plain text."""

    def __init__(self, path: Path) -> None:
        """path: tokenizer.json or its folder."""
        from tokenizers import Tokenizer

        self.path = path / "tokenizer.json" if path.is_dir() else path
        self.exact = Tokenizer.from_file(str(self.path))
        self.exact.encode_special_tokens = True
        self.size: int = self.exact.get_vocab_size()
        self.fallbacks = 0

    def encode(self, texts: Sequence[str]) -> Ids:
        """(ids int32[total], offsets int64[n + 1]) of n texts."""
        encoded = self.exact.encode_batch_fast(list(texts), add_special_tokens=False)
        lists = [one.ids for one in encoded]
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        ids = np.fromiter((i for one in lists for i in one), np.int32, int(offsets[-1]))
        return ids, offsets


def sample_of(ids: Sequence[str]) -> list[int]:
    """The places of at most `CHECKED` documents, by the hash of their ids."""
    return sorted(range(len(ids)), key=lambda k: xxhash.xxh3_64_intdigest(ids[k].encode()))[:CHECKED]


def byte_lengths(tokenizer: Any) -> NDArray[np.int32]:
    """Bytes of each token of a `tokenizers.Tokenizer`, 0 for special ones: int32[vocabulary]."""
    from stages.tokenizer import byte_alphabet

    alphabet = byte_alphabet()
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for token, i in tokenizer.get_vocab().items():
        if i not in special:
            lengths[i] = sum(char in alphabet for char in token)
    return lengths
