"""A byte-level BPE tokenizer of the corpus's own.

Reads documents, writes `tokenizer.json` (Hugging Face), `tokenizer_config.json`, `tokenizer.tiktoken` and the page
of statistics. It learns
from a sample of `sample_bytes`, chosen by the hash of ids, which is what its memory grows with: about 10 bytes per
sampled byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipeline.stage import Emit, Fold, Stage, Step, Task

Pattern = Literal["gpt2", "cl100k", "o200k", "qwen2"]
PATTERNS: dict[str, str] = {
    # openai/tiktoken tiktoken_ext/openai_public.py (gpt2 without its possessive form, which splits alike)
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    # the same file, cl100k_base, as Llama 3's tokenizer.json spells it
    "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    # the same file, o200k_base
    "o200k": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
    # Qwen/Qwen2 tokenizer.json
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    r"""|\s+(?!\S)|\s+""",
}
SAMPLE = pa.schema([("rank", pa.uint64()), ("id", pa.string()), ("lang", pa.string()), ("text", pa.large_string())])
LONGEST = 100_000


class Tokenizer(Stage):
    """Train a byte-level BPE tokenizer on a repeatable sample; the documents stay where they are."""

    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"
    vocab_size: int = Field(32768, ge=300, description="Tokens, special ones included.")
    pattern: Pattern = Field("o200k", description="The stock pattern that splits text before merging, verbatim.")
    special_tokens: tuple[str, ...] = Field(
        ("<|bos|>", "<|eos|>", "<|pad|>"), min_length=3, description="Beginning, end, padding, and any others."
    )
    min_frequency: int = Field(2, ge=1, description="A pair seen less often is not merged.")
    sample_bytes: int = Field(64 << 20, ge=1, description="Bytes of text to learn from.")
    balance: Literal["none", "lang"] = Field("none", description="lang: the same number of bytes of each language.")
    compare_gpt2: bool = Field(True, description="Train one with gpt2's pattern too, and tell bytes per token of both.")

    def steps(self) -> tuple[Step, ...]:
        """A sample of each shard → one tokenizer."""
        return (Fold("tokenizer", self._finish, SAMPLE, map=self._sample),)

    def _sample(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        """The shard's documents of lowest rank, as many as the whole sample could need of it."""
        share = min(1.0, 2.0 * self.sample_bytes / max(task.count, 1) / (48 << 20))
        limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
        for batch in batches:
            ids = batch["id"].to_pylist()
            ranks = np.array([xxhash.xxh3_64_intdigest(i.encode(), seed=task.seed) for i in ids], np.uint64)
            mask = pa.array(ranks <= limit)
            columns = [pa.array(ranks), batch["id"], batch["lang"], batch["text"]]
            yield Emit(pa.record_batch(columns, schema=SAMPLE).filter(mask))

    def _finish(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        from stages.tokenizer_stats import statistics, write_statistics

        sample = self._choose(partials)
        train = [text for _, text, held in sample if not held] or [text for _, text, _ in sample]
        held = [(lang, text) for lang, text, held in sample if held] or [(lang, text) for lang, text, _ in sample]
        tokenizer = train_bpe(train, self.vocab_size, self.pattern, self.special_tokens, self.min_frequency)
        save(tokenizer, task.folder, self.pattern, self.special_tokens)
        other = None
        if self.compare_gpt2:
            other = train_bpe(train, self.vocab_size, "gpt2", self.special_tokens, self.min_frequency)
        write_statistics(task.folder, statistics(tokenizer, held, other, self.pattern))
        size = sum(len(text.encode()) for text in train)
        return {"sample_documents": len(sample), "sample_bytes": size, "vocabulary": tokenizer.get_vocab_size()}

    def _choose(self, partials: Iterator[pa.RecordBatch]) -> list[tuple[str, str, bool]]:
        """(lang, text, held out) of the lowest ranks, up to the budget, whole or per language; one in 32 is held
        out."""
        rows = [row for batch in partials for row in batch.to_pylist()]
        rows.sort(key=lambda row: (row["rank"], row["id"]))
        langs = {row["lang"] or "" for row in rows}
        budget = self.sample_bytes // len(langs) if self.balance == "lang" else self.sample_bytes
        spent: dict[str, int] = {}
        chosen = []
        for row in rows:
            lang = row["lang"] or ""
            key = lang if self.balance == "lang" else ""
            if spent.get(key, 0) < budget:
                text = row["text"][:LONGEST]
                spent[key] = spent.get(key, 0) + len(text.encode())
                chosen.append((lang, text, row["rank"] % 32 == 0))
        return chosen


def train_bpe(texts: list[str], vocab_size: int, pattern: str, specials: tuple[str, ...], min_frequency: int) -> Any:
    """A `tokenizers.Tokenizer`: byte-level BPE over all 256 bytes, special tokens last, no normaliser, no unknown
    token."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as HfTokenizer

    tokenizer = HfTokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        min_frequency=min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def save(tokenizer: Any, folder: Path, pattern: str, specials: tuple[str, ...]) -> None:
    """Writes the tokenizer for `tokenizers`, `transformers` and `tiktoken`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, pad = specials[:3]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = {name: tokenizer.token_to_id(name) for name in specials}
    ranks = sorted((i, token_bytes(token)) for token, i in tokenizer.get_vocab().items() if token not in ids)
    lines = [base64.b64encode(token) + b" %d\n" % i for i, token in ranks]
    (folder / "tokenizer.tiktoken").write_bytes(b"".join(lines))
    (folder / "tiktoken.json").write_text(
        json.dumps({"pattern": PATTERNS[pattern], "special_tokens": ids}, indent=1) + "\n"
    )


def load_tiktoken(folder: Path) -> Any:
    """The tokenizer in a folder as a `tiktoken.Encoding`."""
    import tiktoken

    extra = json.loads((folder / "tiktoken.json").read_text())
    lines = (folder / "tokenizer.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding(
        "gristmill", pat_str=extra["pattern"], mergeable_ranks=ranks, special_tokens=extra["special_tokens"]
    )


def byte_alphabet() -> dict[str, int]:
    """The byte-level alphabet: printable stand-in → byte (openai/gpt-2 encoder.py, bytes_to_unicode)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + k): b for k, b in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """A byte-level token's own bytes."""
    return bytes(_ALPHABET[char] for char in token)


def digest(path: Path) -> str:
    """sha256 of a tokenizer's `tokenizer.json`; path: the file or its folder."""
    file = path / "tokenizer.json" if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()


_ALPHABET = byte_alphabet()
