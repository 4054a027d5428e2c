"""Training a tokenizer, beside Hugging Face's trainer and gigatoken's: tokenizer_training.py CORPORA [options].

CORPORA holds a folder of Parquet shards with a `text` column for each corpus. All learn from the same documents with
gpt2's pattern, in turn, on one core; seconds are of the processor, the best of `--repeats` (Hugging Face's: of
`--hf-repeats`). Exits with 1 where merges are not Hugging Face's, in their order.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.encoder import byte_alphabet, token_bytes
from stages.tokenizer_bpe import build, learn
from stages.tokenizer_words import WordTable

WHOLE = 1 << 40
"""No pre-token is cut into pieces: the peers do not."""
Pairs = list[tuple[bytes, bytes]]


def main() -> None:
    """Runs and prints."""
    options = _options()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    began = time.process_time()
    ours([pa.array(["a b a b"], pa.large_string())], 260)
    print(f"kernels compiled or loaded in {time.process_time() - began:.2f} s; best of {options.repeats}, one core\n")
    head = ("corpus", "MB", "tokens", "counting s", "merging s", "ours MB/s")
    print("|", " | ".join((*head, "tokenizers MB/s", "times", "gigatoken MB/s", "times")), "|")
    print("|---|" + "--:|" * 9)
    same = True
    for corpus in options.corpora:
        texts, size = documents(options.folder / corpus, options.megabytes * 1_000_000)
        for tokens in options.tokens:
            same &= compare(corpus, texts, size, tokens, options)
    print(f"\nmerges are those of tokenizers, all and in order: {'yes' if same else 'NO'}")
    sys.exit(0 if same else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="CORPORA")
    parser.add_argument("--corpora", nargs="+", default=["english", "chinese", "code"])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 32768, 131072])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hf-repeats", type=int, default=1, help="0: not at all")
    parser.add_argument("--no-gigatoken", action="store_true")
    return parser.parse_args()


def documents(folder: Path, size: int) -> tuple[list[pa.Array], int]:
    """Texts of about `size` bytes from a corpus, as large_string chunks, and their bytes."""
    table = pa.concat_tables([pq.read_table(path, columns=["text"]) for path in sorted(folder.glob("*.parquet"))])
    texts = table["text"].cast(pa.large_string()).combine_chunks()
    ends = pc.cumulative_sum(pc.binary_length(texts).cast(pa.int64())).to_numpy()
    texts = texts[: int((ends < size).sum()) + 1]
    return [texts[k : k + 1000] for k in range(0, len(texts), 1000)], pc.sum(pc.binary_length(texts)).as_py()


def compare(corpus: str, texts: list[pa.Array], size: int, tokens: int, options: argparse.Namespace) -> bool:
    """Prints a row of the table; whether merges are alike."""
    counting, merging, mine = min((ours(texts, tokens) for _ in range(options.repeats)), key=lambda run: sum(run[:2]))
    seconds, alike = counting + merging, True
    row = f"| {corpus} | {size / 1e6:.0f} | {tokens:,} | {counting:.2f} | {merging:.2f} | {size / 1e6 / seconds:.1f} |"
    for times, peer in (options.hf_repeats, hugging_face), (0 if options.no_gigatoken else options.repeats, gigatoken):
        if times == 0:
            row += " – | – |"
            continue
        their, theirs = peer(texts, tokens, times)
        same = theirs == mine or (peer is gigatoken and theirs[: len(mine)] == mine)
        alike &= same or peer is gigatoken
        row += f" {size / 1e6 / their:.1f} | {their / seconds:.1f}{'' if same else ' (other merges)'} |"
    print(row, flush=True)
    return alike


def ours(texts: Sequence[pa.Array], tokens: int) -> tuple[float, float, Pairs]:
    """Seconds of counting, seconds of merging, merges."""
    began = time.process_time()
    table = WordTable()
    for chunk in texts:
        table.count(chunk, "gpt2", WHOLE)
    counted = time.process_time()
    merges = learn(pa.Table.from_batches([table.rows()]), tokens, 2)
    ended = time.process_time()
    return counted - began, ended - counted, _pairs(build(merges, "gpt2", ()))


def hugging_face(texts: Sequence[pa.Array], tokens: int, repeats: int) -> tuple[float, Pairs]:
    """Seconds and merges of BpeTrainer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train() -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        trainer = trainers.BpeTrainer(
            vocab_size=tokens, min_frequency=2, initial_alphabet=sorted(byte_alphabet()), show_progress=False
        )
        tokenizer.train_from_iterator((chunk.to_pylist() for chunk in texts), trainer)
        return tokenizer

    seconds, tokenizer = _best(train, repeats)
    return seconds, _pairs(tokenizer)


def gigatoken(texts: Sequence[pa.Array], tokens: int, repeats: int) -> tuple[float, Pairs]:
    """Seconds and merges of gigatoken's trainer, reading an uncompressed Parquet file. It merges pairs met once too."""
    from gigatoken import ParquetFileSource, train_bpe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.parquet"
        pq.write_table(
            pa.table({"text": pa.chunked_array(list(texts))}), path, compression="none", use_dictionary=False
        )
        with _silence():
            seconds, found = _best(lambda: train_bpe(ParquetFileSource([path]), tokens, []), repeats)
    return seconds, [(bytes(left), bytes(right)) for left, right in found[1]]


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


def _best(train: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    runs = []
    for _ in range(repeats):
        began = resource.getrusage(resource.RUSAGE_SELF)
        found = train()
        ended = resource.getrusage(resource.RUSAGE_SELF)
        runs.append((ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime, found))
    return min(runs, key=lambda run: run[0])


def _pairs(tokenizer: Any) -> Pairs:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    left, right = ([pair[side] for pair in merges] for side in (0, 1))
    return list(zip(token_bytes(left), token_bytes(right), strict=True))


main()
