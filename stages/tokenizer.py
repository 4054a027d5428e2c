"""A byte-level BPE tokenizer of the corpus's own, and a page on what it is worth.

Reads documents twice: to weigh the languages or sources, then to take a sample by the hash of ids. Writes
`tokenizer.json` and `tokenizer_config.json` (Hugging Face), `tokenizer.tiktoken` and `tiktoken.json`, `stats.json` and
`stats.md`. The trade-off: it learns from `sample_bytes` of text, not from all; memory is about MEMORY times those, time
about TIME.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Emit, Fold, Stage, Step, Task
from stages.encoder import Encoder, byte_alphabet, token_bytes
from stages.tokenizer_sample import (
    GROUPED,
    SAMPLE,
    Balance,
    budgets,
    candidates,
    choose,
    extent,
    held_out,
    limits,
    weigh,
)
from stages.tokenizer_stats import statistics, write_statistics

PATTERNS: dict[str, str] = {
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "o200k": r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"""
    r"""[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
}
"""The stock split patterns, verbatim: openai/gpt-2 src/encoder.py; openai/tiktoken tiktoken_ext/openai_public.py
(cl100k_base as Llama 3's tokenizer.json spells it, without the possessive quantifiers that only save time; o200k_base);
huggingface/transformers models/qwen2/tokenization_qwen2.py. Other spellings would forfeit the fast encoders."""

SPLIT_RUN = 64
"""Pre-tokens longer than so many characters are learnt from in pieces of that size: a page of Han text without
punctuation is one pre-token under every stock pattern. Encoding does not cut them."""
CHECKED, CHECKED_CHARACTERS = 200, 10_000
"""Held-out documents, and characters of each, on which the written files are tried."""


class Tokenizer(Stage):
    """Train a byte-level BPE tokenizer on a repeatable sample; the documents stay where they are."""

    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"
    vocab_size: int = Field(
        32768, ge=300, description="Tokens, special ones included; fewer where the sample has not so many pairs."
    )
    pattern: Literal["gpt2", "cl100k", "o200k", "qwen2"] = Field(
        "o200k", description="The stock pattern that splits text before merging, verbatim."
    )
    special_tokens: tuple[str, ...] = Field(
        ("<|bos|>", "<|eos|>", "<|pad|>"),
        min_length=3,
        description="Beginning, end, padding, then any others; they get the highest ids, in this order.",
    )
    min_frequency: int = Field(2, ge=1, description="A pair seen less often in the sample is not merged.")
    sample_bytes: int = Field(
        64 << 20,
        ge=1,
        le=2_000_000_000,
        description="Bytes of text to learn from. At most 2 GB: `tokenizers` counts pairs in 32 bits.",
    )
    balance: Balance = Field(
        "none",
        description="Share the sample out evenly between languages or files of origin; what one cannot fill goes to "
        "the others. none: as the corpus is.",
    )
    weights: dict[str, float] = Field(
        {}, description="Share of a language or source against the others where it is not 1; 0 leaves it out."
    )
    compare_gpt2: bool = Field(
        True, description="Train one of equal size with gpt2's pattern too and report bytes per token of both."
    )

    def steps(self) -> tuple[Step, ...]:
        """Weigh the groups, take each one's share, train."""
        return (
            Fold("sizes", self._write_sizes, GROUPED, map=self._weigh),
            Fold("tokenizer", self._finish, SAMPLE, map=self._sample),
        )

    def _weigh(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        sizes: Counter[str] = Counter()
        for batch in batches:
            sizes.update(weigh(batch, self.balance))
        rows = [{"group": group, "bytes": size} for group, size in sorted(sizes.items())]
        yield Emit(pa.RecordBatch.from_pylist(rows, schema=GROUPED))

    def _write_sizes(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        sizes: Counter[str] = Counter()
        for batch in partials:
            for row in batch.to_pylist():
                sizes[row["group"]] += row["bytes"]
        (task.folder / "sizes.json").write_text(json.dumps(sizes, sort_keys=True), encoding="utf-8")
        return {"groups": len(sizes)}

    def _sample(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        sizes = json.loads((task.artifacts["sizes"] / "sizes.json").read_text(encoding="utf-8"))
        limit = limits(sizes, budgets(sizes, self.sample_bytes, self.weights))
        for batch in batches:
            yield Emit(candidates(batch, self.balance, limit, task.seed))

    def _finish(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        sample = choose(pa.Table.from_batches(partials, SAMPLE), self.sample_bytes, self.weights)
        mask = held_out(sample)
        test, learnt = (sample.filter(pa.array(one)) for one in (mask, ~mask)) if mask.any() else (sample, sample)
        tokenizer = self._train(learnt["text"], self.pattern)
        save(tokenizer, task.folder, self.pattern, self.special_tokens)
        counters = {**extent(learnt), **try_files(task.folder, test["text"])}
        other = None
        if self.compare_gpt2 and self.pattern != "gpt2":
            other = task.scratch
            self._train(learnt["text"], "gpt2").save(str(other / "tokenizer.json"))
        about = {"pattern": self.pattern, "held_out": bool(mask.any()), **counters}
        write_statistics(task.folder, {**about, **statistics(task.folder, test, other)})
        return {**counters, "vocabulary": tokenizer.get_vocab_size()}

    def _train(self, texts: pa.ChunkedArray, pattern: str) -> Any:
        return train_bpe(texts, pattern, self.vocab_size, self.special_tokens, self.min_frequency)


def train_bpe(
    texts: pa.ChunkedArray, pattern: str, vocab_size: int, specials: Sequence[str], min_frequency: int = 2
) -> Any:
    """A `tokenizers.Tokenizer`: BPE over all 256 bytes, special tokens last, no normaliser, no unknown token.

    The same for any number of threads and any order of the texts: counts decide; where they tie, the smaller ids.
    """
    from tokenizers import Regex, decoders, models, trainers
    from tokenizers import Tokenizer as Trained
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    tokenizer = Trained(models.BPE())
    split, as_bytes = Split(Regex(PATTERNS[pattern]), "isolated"), ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([split, Split(Regex(f"(?m:.{{1,{SPLIT_RUN}}})"), "isolated"), as_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        min_frequency=min_frequency,
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    pieces = (chunk.slice(k, 256).to_pylist() for chunk in texts.chunks for k in range(0, len(chunk), 256))
    tokenizer.train_from_iterator(pieces, trainer)
    stock = pattern == "gpt2"
    tokenizer.pre_tokenizer = ByteLevel(False, use_regex=True) if stock else Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def save(tokenizer: Any, folder: Path, pattern: str, specials: Sequence[str]) -> None:
    """Writes the tokenizer for `tokenizers` and `transformers` (tokenizer.json, tokenizer_config.json) and, with the
    same ids, for `tiktoken` (tokenizer.tiktoken: base64 of a token and its rank a line; tiktoken.json: the rest)."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": token for role, token in zip(("bos", "eos", "pad"), specials, strict=False)},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    _write(folder / "tokenizer_config.json", config)
    special = {token: tokenizer.token_to_id(token) for token in specials}
    plain = sorted((number, token) for token, number in tokenizer.get_vocab().items() if token not in special)
    spelt = token_bytes([token for _, token in plain])
    lines = [base64.b64encode(one) + b" %d\n" % number for one, (number, _) in zip(spelt, plain, strict=True)]
    (folder / "tokenizer.tiktoken").write_bytes(b"".join(lines))
    _write(folder / "tiktoken.json", {"pattern": PATTERNS[pattern], "special_tokens": special})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tiktoken(folder: Path) -> Any:
    """The tokenizer of a folder as a `tiktoken.Encoding`. Elsewhere, without Gristmill, these lines do it:

    about = json.load(open("tiktoken.json"))
    lines = [line.split() for line in open("tokenizer.tiktoken", "rb")]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    encoding = tiktoken.Encoding("mine", pat_str=about["pattern"], mergeable_ranks=ranks,
                                 special_tokens=about["special_tokens"])
    """
    import tiktoken

    about = json.loads((folder / "tiktoken.json").read_text(encoding="utf-8"))
    lines = [line.split() for line in (folder / "tokenizer.tiktoken").read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding(
        "gristmill", pat_str=about["pattern"], mergeable_ranks=ranks, special_tokens=about["special_tokens"]
    )


def try_files(folder: Path, texts: pa.ChunkedArray) -> dict[str, int]:
    """Encodes some texts by the files just written and decodes them again.

    Returns counters: tried (documents whose text came back), tiktoken_tried (0 where tiktoken is not installed) and
    tiktoken_differs (documents on which its ids are others: known only of characters that one of the two regex engines
    is too old to know). Raises ValueError where a text does not come back.
    """
    some = pa.array([text[:CHECKED_CHARACTERS] for text in texts.slice(0, CHECKED).to_pylist()], pa.large_string())
    encoder = Encoder(folder)
    ids, offsets = encoder.encode(some)
    rows = [row.tolist() for row in np.split(ids, offsets[1:-1])] if len(some) else []
    for text, row in zip(some.to_pylist(), rows, strict=True):
        if encoder.exact.decode(row, skip_special_tokens=False) != text:
            raise ValueError(f"the tokenizer in {folder} does not give a text back: {text[:200]!r}")
    try:
        encoding = load_tiktoken(folder)
    except ImportError:
        return {"tried": len(rows), "tiktoken_tried": 0, "tiktoken_differs": 0}
    differs = sum(encoding.encode_ordinary(text) != row for text, row in zip(some.to_pylist(), rows, strict=True))
    return {"tried": len(rows), "tiktoken_tried": len(rows), "tiktoken_differs": differs}
