"""A byte-level BPE tokenizer of the corpus's own, and a page on what it is worth.

Reads documents twice: to weigh the languages or sources, then to take a sample by the hash of ids; counts the sample's
pre-tokens shard by shard and merges what was counted. Writes `tokenizer.json` and `tokenizer_config.json` (Hugging
Face), `tokenizer.tiktoken` and `tiktoken.json`, `stats.json` and `stats.md`. The trade-off: it learns from
`sample_bytes` of text, not from all; memory is set by the distinct words, 0.2 GB for each million of English ones, 0.6
of Chinese, about 20 bytes for each byte of them. The merges are those of Hugging Face's BpeTrainer on that sample.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline import seeds
from pipeline.stage import Each, Emit, Fold, Stage, Step, Task
from stages.draws import Draws
from stages.tokenizer_bpe import PATTERNS, build, learn, special_problem, splitter
from stages.tokenizer_files import save, try_files
from stages.tokenizer_sample import (
    GROUPED,
    RANKED,
    SAMPLE,
    Balance,
    Choice,
    budgets,
    candidates,
    choose,
    limits,
    over_clip,
    ranked,
    weigh,
)
from stages.tokenizer_stats import statistics, write_statistics
from stages.tokenizer_words import WHOLE, WORDS, WordTable, most_frequent

FLUSHED = 1 << 20
"""A shard's words are handed on, and counting starts anew, at so many."""


class Tokenizer(Stage):
    """Train a byte-level BPE tokenizer on a repeatable sample; the documents stay where they are."""

    version: ClassVar[int] = 3
    gives: ClassVar[Literal["documents", "rows", "artifact"]] = "artifact"
    vocab_size: int = Field(
        32768, ge=300, description="Tokens, special ones included; fewer where the sample has not so many pairs."
    )
    pattern: str = Field(
        "o200k",
        description="The stock pattern that splits text before merging, verbatim: gpt2, cl100k, o200k or qwen2; or a "
        "regular expression of your own (Oniguruma), which splits thirty times slower and forfeits the fast encoder.",
    )
    special_tokens: tuple[str, ...] = Field(
        ("<|bos|>", "<|eos|>", "<|pad|>"),
        min_length=3,
        description="Beginning, end, padding, then any others; they get the highest ids, in this order. Each is text "
        "that the pattern splits, such as <|eos|>, so that no word of a document can become one.",
    )
    min_frequency: int = Field(2, ge=1, description="A pair seen less often in the sample is not merged.")
    sample_bytes: int = Field(64 << 20, ge=1, description="Bytes of text to learn from.")
    max_words: int = Field(
        2_000_000,
        ge=1000,
        description="Distinct words (pre-tokens) to learn from; where the sample has more, the rarest are pruned, and "
        "the counters and the page say how many.",
    )
    longest_word: int | None = Field(
        None,
        ge=1,
        description="Words of more characters are learnt from in pieces of so many, and the highlights say how many "
        "they were. null: no word is cut, so that the merges are those of Hugging Face's BpeTrainer.",
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

    @field_validator("pattern")
    @classmethod
    def _known(cls, pattern: str) -> str:
        """A stock pattern's name or a regular expression that `tokenizers` takes."""
        if pattern not in PATTERNS:
            if re.fullmatch(r"\w*", pattern):
                raise ValueError(
                    f"no stock pattern is called {pattern!r}: {', '.join(PATTERNS)}, or a regular expression"
                )
            splitter(pattern)
        return pattern

    def libraries(self) -> tuple[str, ...]:
        """`tokenizers`, whose merges these are."""
        return ("tokenizers",)

    @field_validator("special_tokens")
    @classmethod
    def _special(cls, tokens: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Texts that are tokens of their own under the pattern."""
        pattern = info.data.get("pattern", "o200k")
        if problem := next(filter(None, (special_problem(token, tokens, pattern) for token in tokens)), None):
            raise ValueError(problem)
        return tokens

    @model_validator(mode="after")
    def _room(self) -> Tokenizer:
        """A vocabulary that holds the bytes and the special tokens at least."""
        least = 256 + len(self.special_tokens)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size {self.vocab_size} has no room for 256 bytes and {len(self.special_tokens)} special "
                f"tokens: give {least} or more"
            )
        return self

    def kernels(self) -> tuple[str, ...]:
        """Those that count words and merge, and those that split text, unless the only pattern is the user's own."""
        names = ["word_counts", "bpe", *(["pretokens"] if self.pattern in PATTERNS or self.compare_gpt2 else [])]
        return tuple(f"stages.kernels.{name}" for name in names)

    def steps(self) -> tuple[Step, ...]:
        """Weigh the groups, take each one's share, count its words, train."""
        compared = Fold("gpt2", self._train_gpt2, WORDS, map=self._count_gpt2, reads="sample")
        return (
            Fold("sizes", self._write_sizes, GROUPED, map=self._weigh),
            Each("sample", self._sample, SAMPLE),
            Fold("choice", self._choose, RANKED, map=self._rank, reads="sample"),
            Fold("test", self._write_test, SAMPLE, map=self._test, reads="sample"),
            *((compared,) if self._compares() else ()),
            Fold("tokenizer", self._finish, WORDS, map=self._count, reads="sample"),
        )

    def _compares(self) -> bool:
        return self.compare_gpt2 and self.pattern != "gpt2"

    def _weigh(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        sizes: Counter[str] = Counter()
        clipped, draws = 0, Draws()
        for batch in batches:
            sizes.update(weigh(batch, self.balance))
            clipped += over_clip(batch["text"])
            draws.of(batch)
        counters = {"clipped_documents": clipped, "repeated_ids": draws.repeated}
        rows = [{"group": group, "bytes": size, "repeated_ids": 0} for group, size in sorted(sizes.items())]
        if rows:
            rows[0]["repeated_ids"] = draws.repeated
        yield Emit(pa.RecordBatch.from_pylist(rows, schema=GROUPED), counters=counters)

    def _write_sizes(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        sizes: Counter[str] = Counter()
        repeated = 0
        for batch in partials:
            for row in batch.to_pylist():
                sizes[row["group"]] += row["bytes"]
                repeated += row["repeated_ids"]
        _write(task.folder / "sizes.json", {"bytes": dict(sorted(sizes.items())), "repeated_ids": repeated})
        return {"groups": len(sizes)}

    def _sample(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        sizes = _sizes(task)["bytes"]
        limit = limits(sizes, budgets(sizes, self.sample_bytes, self.weights))
        draws = Draws(seeds.number("tokenizer.sample", task.seed))
        for batch in batches:
            yield Emit(candidates(batch, self.balance, limit, draws))

    def _rank(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        for batch in batches:
            yield Emit(ranked(batch))

    def _choose(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        choice = choose(pa.Table.from_batches(partials, RANKED), self.sample_bytes, self.weights)
        _write(task.folder / "choice.json", asdict(choice))
        return {"sample_documents": choice.documents, "sample_bytes": choice.bytes}

    def _test(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        choice = _choice(task)
        for batch in batches:
            yield Emit(batch.filter(pa.array(choice.tested(batch))))

    def _write_test(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        rows = pa.Table.from_batches(partials, SAMPLE)
        pq.write_table(rows.sort_by([("rank", "ascending"), ("id", "ascending")]), task.folder / "test.parquet")
        return {}

    def _count_gpt2(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        return self._counted(batches, _choice(task), "gpt2")

    def _count(self, batches: Iterator[pa.RecordBatch], task: Task) -> Iterator[Emit]:
        return self._counted(batches, _choice(task), self.pattern)

    def _counted(self, batches: Iterator[pa.RecordBatch], choice: Choice, pattern: str) -> Iterator[Emit]:
        """The words of the documents that are learnt from, and their counts; a word may come more than once."""
        table = WordTable()
        for batch in batches:
            texts = batch.filter(pa.array(choice.learnt(batch)))["text"]
            table.count(texts, pattern, self.longest_word or WHOLE)
            if len(table) > FLUSHED:
                yield Emit(table.rows())
                yield Emit(table.cuts())
                table = WordTable()
        yield Emit(table.rows())
        yield Emit(table.cuts())

    def _train_gpt2(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        words = most_frequent(partials, self.max_words, task.scratch)
        self._tokenizer(words.rows, "gpt2").save(str(task.folder / "tokenizer.json"))
        return {}

    def _finish(self, partials: Iterator[pa.RecordBatch], task: Task) -> Mapping[str, int]:
        words = most_frequent(partials, self.max_words, task.scratch)
        tokenizer = self._tokenizer(words.rows, self.pattern)
        save(tokenizer, task.folder, self.pattern, self.special_tokens)
        test = pq.read_table(task.artifacts["test"] / "test.parquet")
        counters = {"words": len(words.rows), "words_pruned": words.words, "met_pruned": words.met}
        counters |= {"words_cut": words.cut, "vocabulary": tokenizer.get_vocab_size()}
        counters |= try_files(task.folder, test["text"])
        choice, other = _choice(task), task.artifacts["gpt2"] if self._compares() else None
        about = {
            "pattern": self.pattern,
            "held_out": bool(choice.held),
            "sample_documents": choice.documents,
            "sample_bytes": choice.bytes,
            "least_met": words.least,
            "longest_word": self.longest_word,
            "vocabulary_asked": self.vocab_size,
            "repeated_ids": _sizes(task)["repeated_ids"],
        }
        write_statistics(task.folder, {**about, **counters, **statistics(task.folder, test, other)})
        return counters

    def _tokenizer(self, words: pa.Table, pattern: str) -> Any:
        merges = learn(words, self.vocab_size - len(self.special_tokens), self.min_frequency)
        return build(merges, pattern, self.special_tokens)


def _choice(task: Task) -> Choice:
    return Choice(**json.loads((task.artifacts["choice"] / "choice.json").read_text(encoding="utf-8")))


def _sizes(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((task.artifacts["sizes"] / "sizes.json").read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
