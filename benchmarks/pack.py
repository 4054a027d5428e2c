"""Encoding and packing: pack.py CORPORA TOKENIZER.

TOKENIZER is a run's tokenizer folder. Encodes each kind of text with `tokenizers` (one thread) and with what `pack`
uses, whose ids must be equal; then packs the lengths found, drawn again to 2 million documents, into rows of 2,048.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from benchmarks.harness import Row, arguments, documents, in_turn, megabytes, show
from stages.encoder import Encoder, tokenizer_file
from stages.kernels.arrow import read_only

LENGTH = 2048


def main() -> None:
    """Runs and prints."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    tokenizer = Path(sys.argv.pop(2))
    given = arguments(__doc__ or "", peer=False)
    show(given, encoding(given, tokenizer))
    packing(given, tokenizer)


def encoding(given: argparse.Namespace, tokenizer: Path) -> Iterator[Row]:
    """A row for each kind of text."""
    exact = Tokenizer.from_file(str(tokenizer_file(tokenizer)))
    exact.encode_special_tokens = True
    for kind in ("english", "chinese", "multi", "code"):
        texts = documents(given.corpora, kind, given.megabytes)
        array, encoder = pa.array(texts, pa.large_string()), Encoder(tokenizer)

        def theirs(answers: bool, texts: list[str] = texts) -> tuple[float, Any]:
            began = time.process_time()
            found = exact.encode_batch_fast(texts, add_special_tokens=False)
            took = time.process_time() - began
            return took, [one.ids for one in found] if answers else None

        ours, other, mine, their = in_turn(lambda array=array, encoder=encoder: encoder.encode(array), theirs)
        ids, offsets = mine
        same = sum(ids[offsets[k] : offsets[k + 1]].tolist() == one for k, one in enumerate(their))
        answers = f"{same:,} of {len(texts):,} documents' ids equal, {encoder.fallbacks} by fallback"
        yield Row("encoding", kind, megabytes(texts), "tokenizers", ours, other, answers)


def packing(given: argparse.Namespace, tokenizer: Path) -> None:
    """Documents a second of best-fit packing, and the share of the rows that is text."""
    from stages.pack import _best_fit

    texts = [text for kind in ("english", "chinese", "code") for text in documents(given.corpora, kind, 4)]
    _, offsets = Encoder(tokenizer).encode(pa.array(texts, pa.large_string()))
    sizes = np.random.default_rng(0).choice(np.diff(offsets), 2_000_000)
    edges = read_only(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    _best_fit(edges[:1000], LENGTH)
    best = min(timed(edges) for _ in range(3))
    rows = int(_best_fit(edges, LENGTH).row.max()) + 1
    print(
        f"packing: {len(sizes) / best / 1e6:.1f} M documents/s (mean {sizes.mean():,.0f} tokens), "
        f"{sizes.sum() / rows / LENGTH:.4%} of {rows:,} rows of {LENGTH} is text"
    )


def timed(edges: Any) -> float:
    """CPU seconds of one packing."""
    from stages.pack import _best_fit

    began = time.process_time()
    _best_fit(edges, LENGTH)
    return time.process_time() - began


if __name__ == "__main__":
    main()
