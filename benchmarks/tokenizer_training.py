"""Training a tokenizer, against Hugging Face's trainer and gigatoken's: tokenizer_training.py CORPORA.

Ours counts and merges with the settings that a recipe's `tokenizer` has by default, but for gpt2's pattern, the only
one that gigatoken's trainer has. All learn from the same documents, in turn, on one core, in the project's own Python,
which has both peers; a peer runs once. Answers: whether the merges are the peer's, all and in order; gigatoken merges
pairs met once too, so of its merges the first ones are compared. A smaller and a larger vocabulary are learnt beside
Hugging Face's trainer alone, since gigatoken takes minutes for the larger; twice and twenty times as much English
beside gigatoken alone. Where there is not enough of it, it comes again with its vowels moved on by one, so that its
words are others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, arguments, documents, megabytes, show
from benchmarks.scaling import stream
from pipeline.engines.processes import ONE_THREAD
from stages.byte_level import byte_alphabet, token_bytes
from stages.tokenizer import Tokenizer
from stages.tokenizer_bpe import build, learn
from stages.tokenizer_words import WHOLE, WordTable

TOKENS, OTHERS = 32768, (8192, 131072)
FEW_TOKENS = 2048
LARGER = (2, 20)
"""How many times as much English is learnt from, too."""
ENOUGH = 20
"""Megabytes under which so few are learnt: a small text has no more pairs that come twice, and gigatoken merges on."""
Pairs = list[tuple[bytes, bytes]]
Trained = tuple[float, Pairs]
"""CPU seconds and merges."""


def main() -> None:
    """Runs and prints."""
    os.environ |= ONE_THREAD
    given = arguments(__doc__ or "", megabytes=50)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """A row for each kind of text, vocabulary and peer, then one for each larger amount."""
    enough = given.megabytes >= ENOUGH
    tokens = TOKENS if enough else FEW_TOKENS
    ours([pa.array(["a b a b"], pa.large_string())], tokens)
    for kind in ("english", "chinese", "code"):
        texts = documents(given.corpora, kind, given.megabytes)
        yield from compared(kind, texts, tokens, given.turns, hugging_face, gigatoken)
        for other in OTHERS if enough else ():
            yield from compared(kind, texts, other, given.turns, hugging_face)
    for times in LARGER:
        texts = list(much(given.corpora, times * given.megabytes))
        yield from compared("english", texts, tokens, given.turns, gigatoken)


def compared(kind: str, texts: Sequence[str], tokens: int, turns: int, *peers: Callable[..., Trained]) -> Iterator[Row]:
    """A row for each peer."""
    chunks = [pa.array(texts[k : k + 1000], pa.large_string()) for k in range(0, len(texts), 1000)]
    size = megabytes(texts)
    mine = [ours(chunks, tokens) for _ in range(turns)]
    for train in peers:
        took, merges = train(chunks, tokens)
        name = "gigatoken" if train is gigatoken else "tokenizers"
        answers = agreement(mine[0][1], merges, whole=train is hugging_face)
        yield Row(f"training {tokens:,} tokens", kind, size, name, [one for one, _ in mine], [took], answers)


def much(corpora: Path, amount: float) -> Iterator[str]:
    """English texts, about so many megabytes."""
    for _, text in stream(corpora, "english"):
        if amount <= 0:
            return
        amount -= len(text.encode()) / 1e6
        yield text


def agreement(mine: Pairs, theirs: Pairs, whole: bool) -> str:
    """Whether the merges are the same ones in the same order."""
    if mine == theirs or (not whole and theirs[: len(mine)] == mine):
        return f"the same {len(mine):,} merges"
    alike = next((k for k, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), len(mine))
    return f"the first {alike:,} of {len(mine):,} merges alike"


def ours(texts: Sequence[pa.Array], tokens: int) -> Trained:
    """Counting, then merging."""
    stage = Tokenizer(pattern="gpt2")
    began = time.process_time()
    table = WordTable()
    for chunk in texts:
        table.count(chunk, stage.pattern, stage.longest_word or WHOLE)
    merges = learn(pa.Table.from_batches([table.rows()]), tokens, stage.min_frequency)
    return time.process_time() - began, _pairs(build(merges, stage.pattern, ()))


def hugging_face(texts: Sequence[pa.Array], tokens: int) -> Trained:
    """BpeTrainer, fed by the batch."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    began = time.process_time()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=tokens, min_frequency=2, initial_alphabet=sorted(byte_alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator((chunk.to_pylist() for chunk in texts), trainer)
    return time.process_time() - began, _pairs(tokenizer)


def gigatoken(texts: Sequence[pa.Array], tokens: int) -> Trained:
    """gigatoken's trainer, which reads an uncompressed Parquet file."""
    from gigatoken import ParquetFileSource, train_bpe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.parquet"
        table = pa.table({"text": pa.chunked_array(list(texts))})
        pq.write_table(table, path, compression="none", use_dictionary=False)
        with _silence():
            began = time.process_time()
            found = train_bpe(ParquetFileSource([path]), tokens, [])
            took = time.process_time() - began
    return took, [(bytes(left), bytes(right)) for left, right in found[1]]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing is written to stdout or stderr, by Rust code either."""
    sys.stdout.flush()
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    with open(os.devnull, "w") as nothing:
        for fd, _ in kept:
            os.dup2(nothing.fileno(), fd)
        try:
            yield
        finally:
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)


def _pairs(tokenizer: Any) -> Pairs:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    left, right = ([pair[side] for pair in merges] for side in (0, 1))
    return list(zip(token_bytes(left), token_bytes(right), strict=True))


if __name__ == "__main__":
    main()
