"""Seeds: every random choice of the project draws from a stream of its own, named by a domain.

Reads nothing, writes nothing. NumPy's `SeedSequence` takes seeds that differ only in trailing zeros as one, so that
`PCG64([seed, 0])` and `PCG64([seed, 0, 0])` are the same stream. Here a domain and its parts are hashed to a number of
fixed width first: two uses share a stream only if sha256 collides.

| domain | parts | what it decides |
|---|---|---|
| `near_dedup.hashes` | seed | the hash functions of MinHash |
| `tokenizer.sample` | seed | the rank of a document in the sample that a tokenizer learns from |
| `pack.order` | seed | the partition of a document, and its place there |
| `pack.rows` | seed, partition | the order of a partition's rows and of the segments in them |
| `train.weights` | seed | a model's first weights |
| `train.groups` | seed, epoch | the order of row groups |
| `train.rows` | seed, epoch, window | the order of the rows in a window of row groups |
| `write.text` | seed, text | the tokens of a text that a model writes |
| `write.guess` | seed | the tokens of a text that two models write together |
| `sample.rows` | seed | the rows that `gristmill sample` shows |

Two choices have no seed, so that they stay the same in every run: which documents `pack` holds out (`HELD_SEED`) and
which of them `ablate` measures. `language` passes its own `seed` to langdetect as it is, to get langdetect's answers.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(domain: str, *parts: int) -> np.random.Generator:
    """The stream of a domain and its parts, any integers: PCG64 seeded with all 256 bits of their hash."""
    return np.random.Generator(np.random.PCG64(np.frombuffer(_digest(domain, parts), "<u4")))


def number(domain: str, *parts: int) -> int:
    """The same hash as an integer of 64 bits, for torch (whose generator on a CPU uses the low 32) and for xxhash."""
    return int.from_bytes(_digest(domain, parts)[:8], "little")


def _digest(domain: str, parts: tuple[int, ...]) -> bytes:
    """32 bytes. JSON keeps the parts apart: (1, 23) is not (12, 3), nor (1,) the same as (1, 0)."""
    return hashlib.sha256(json.dumps([domain, *map(int, parts)]).encode()).digest()
