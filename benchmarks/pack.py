"""Encoding and packing: pack.py CORPORA [--tokenizer TOKENIZER].

Encodes each kind of text with `tokenizers` (one thread) and with what `pack` uses, whose ids must be equal. Then packs
the lengths found, with a beginning and an end token each as `pack` has them, drawn again to 250,000 documents for each
megabyte asked for, into rows of 2,048: by the stage's kernel, and by best-fit-decreasing as one would write it in
Python, which must need as many rows.
"""

from __future__ import annotations

import argparse
import os
import time
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from benchmarks.harness import Row, arguments, documents, in_turn, megabytes, show, tokenizer
from pipeline.engines.processes import ONE_THREAD
from stages.encoder import Encoder
from stages.kernels.arrow import read_only
from stages.pack import _best_fit

LENGTH = 2048
DRAWN = 250_000


def main() -> None:
    """Runs and prints."""
    os.environ |= ONE_THREAD
    given = arguments(__doc__ or "", peer=False, encodes=True)
    file = tokenizer(given)
    show(given, chain(encoding(given, file), packing(given, file)))


def encoding(given: argparse.Namespace, file: Path) -> Iterator[Row]:
    """A row for each kind of text."""
    exact = Tokenizer.from_file(str(file))
    exact.encode_special_tokens = True
    for kind in ("english", "chinese", "multi", "code"):
        texts = documents(given.corpora, kind, given.megabytes)
        array, encoder = pa.array(texts, pa.large_string()), Encoder(file)

        def theirs(answers: bool, texts: list[str] = texts) -> tuple[float, Any]:
            began = time.process_time()
            found = exact.encode_batch_fast(texts, add_special_tokens=False)
            took = time.process_time() - began
            return took, [one.ids for one in found] if answers else None

        ours, other, mine, their = in_turn(
            lambda array=array, encoder=encoder: encoder.encode(array), theirs, given.turns
        )
        ids, offsets = mine
        same = sum(ids[offsets[k] : offsets[k + 1]].tolist() == one for k, one in enumerate(their))
        answers = f"{same:,} of {len(texts):,} documents' ids equal, {encoder.fallbacks} by fallback"
        yield Row("encoding", kind, megabytes(texts), "tokenizers", ours, other, answers)


def packing(given: argparse.Namespace, file: Path) -> Iterator[Row]:
    """A row: documents packed a second, and the share of the rows that is text."""
    texts = [text for kind in ("english", "chinese", "code") for text in documents(given.corpora, kind, 4)]
    _, offsets = Encoder(file).encode(pa.array(texts, pa.large_string()))
    sizes = np.random.default_rng(0).choice(np.diff(offsets) + 2, int(DRAWN * given.megabytes))
    edges = read_only(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def theirs(answers: bool) -> tuple[float, Any]:
        began = time.process_time()
        count = plain(sizes.tolist())
        return time.process_time() - began, count

    ours, other, mine, their = in_turn(lambda: _best_fit(edges, LENGTH), theirs, given.turns)
    count = int(mine.row.max()) + 1
    share = f"{sizes.sum() / count / LENGTH:.4%} of ours is text"
    answers = f"{count:,} rows of {LENGTH:,}, the peer's {their:,}; {share}, mean {sizes.mean():,.0f} tokens"
    drawn = "lengths of English, Chinese, code"
    yield Row("packing", drawn, len(sizes) / 1e6, "plain Python", ours, other, answers, unit="M documents")


def plain(sizes: list[int]) -> int:
    """Rows that best-fit-decreasing needs: each piece, the longest first, into the fullest row that has room."""
    pieces = [LENGTH] * sum(size // LENGTH for size in sizes) + [size % LENGTH for size in sizes if size % LENGTH]
    rooms: list[int] = []
    rows = [0] * (LENGTH + 1)
    count = 0
    for piece in sorted(pieces, reverse=True):
        place = bisect_left(rooms, piece)
        if place == len(rooms):
            room, count = LENGTH, count + 1
        else:
            room = rooms[place]
            rows[room] -= 1
            if not rows[room]:
                del rooms[place]
        left = room - piece
        if left:
            if not rows[left]:
                insort(rooms, left)
            rows[left] += 1
    return count


if __name__ == "__main__":
    main()
