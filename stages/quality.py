"""Published quality rules: every rule's score kept, every drop naming all the rules it broke.

Reads documents; writes those that stay with a struct column `quality` of scores, null where a rule could not be
scored. Rule sets run in the order
given, as datatrove's filters do: what `c4` cuts out, later sets do not see. Texts pass through Python, at about 1
MB/s a core.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from pipeline.stage import (
    DOCUMENT,
    Each,
    Emit,
    Rule,
    Stage,
    Step,
    Task,
    each_batch,
    verdict,
    with_column,
    with_field,
    with_scores,
)
from stages import rules as published

RuleSet = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb", "fineweb2"]
Scores = list[published.Score]


class Settings(BaseModel):
    """A rule set's thresholds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GopherRepetition(Settings):
    """Limits of shares of characters or of lines that repeat."""

    dup_para_frac: float = Field(0.30, description="Paragraphs that occurred before, of all.")
    dup_para_char_frac: float = Field(0.20, description="Their characters, of all.")
    dup_line_frac: float = Field(0.30, description="Lines that occurred before, of all.")
    dup_line_char_frac: float = Field(0.20, description="Their characters, of all.")
    top_n_grams: dict[int, float] = Field(
        {2: 0.20, 3: 0.18, 4: 0.16}, description="Characters in the commonest n-gram."
    )
    dup_n_grams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="Characters in n-grams that occurred before.",
    )


class GopherQuality(Settings):
    """Limits of counts and shares of words and lines."""

    min_words: int = Field(50, description="Words that are not punctuation, at least.")
    max_words: int = Field(100_000, description="Words that are not punctuation, at most.")
    min_word_length: float = Field(3, description="Mean length of those words, at least.")
    max_word_length: float = Field(10, description="Mean length of those words, at most.")
    symbols: float = Field(0.1, description="Hash signs, and ellipses, per word at most.")
    bullets: float = Field(0.9, description="Share of lines that begin with • or -, at most.")
    ellipses: float = Field(0.3, description="Share of lines that end with an ellipsis, at most.")
    alphabetic: float = Field(0.8, description="Share of words with a letter, at least.")
    stop_words: int = Field(2, description="Distinct words of `stop_list`, at least.")
    stop_list: tuple[str, ...] = Field(tuple(sorted(published.STOP_WORDS)), description="The stop words.")


class C4(Settings):
    """Limits of the lines and pages of C4; datatrove's, who follow tfds but for the bad words."""

    terminal: bool = Field(True, description="Lines must end with a terminal mark (FineWeb turns this off).")
    min_words: int = Field(3, description="Words of a line, at least.")
    max_word_length: int = Field(1000, description="Characters of a line's longest word, at most.")
    min_sentences: int = Field(5, description="Sentences of a page, at least.")


class FineWeb(Settings):
    """Limits of FineWeb's own rules."""

    line_punct: float = Field(0.12, description="Share of lines that end with a terminal mark, at least.")
    short_lines: float = Field(0.67, description="Share of lines of at most `short_line` characters, at most.")
    short_line: int = Field(30, description="Characters of a short line.")
    char_dup: float = Field(0.01, description="Characters in repeated lines, of all.")
    new_lines: float = Field(0.3, description="Newlines per word, at most.")


class Quality(Stage):
    """Drop documents by published rules; scores of all rules are kept, for kept documents and dropped ones."""

    rules: tuple[RuleSet, ...] = Field(
        ("gopher_repetition", "gopher_quality", "c4", "fineweb"), min_length=1, description="Rule sets, in order."
    )
    gopher_repetition: GopherRepetition = Field(GopherRepetition(), description="Thresholds of that set.")
    gopher_quality: GopherQuality = Field(GopherQuality(), description="Thresholds of that set.")
    c4: C4 = Field(C4(), description="Thresholds of that set.")
    fineweb: FineWeb = Field(FineWeb(), description="Thresholds of that set.")
    unknown_language: Literal["keep", "drop"] = Field(
        "keep", description="fineweb2 on a language without a profile: let pass, or drop by rule `fineweb2_no_profile`."
    )

    def steps(self) -> tuple[Step, ...]:
        """One pass over the shards."""
        return (Each("judge", each_batch(self._run), self._schema),)

    def _schema(self, incoming: pa.Schema) -> pa.Schema:
        fields = [pa.field(name, pa.float32()) for name in self._names()]
        return with_field(incoming, pa.field("quality", pa.struct(fields)))

    def _names(self) -> list[str]:
        """Every rule's name, in order; an English text has them all but fineweb2's, which a Chinese one has."""
        names = [score.rule for lang in ("en", "zh") for score in self._judge("", lang)[0]]
        return list(dict.fromkeys([*names, *(["fineweb2_no_profile"] if "fineweb2" in self.rules else [])]))

    def _run(self, batch: pa.RecordBatch, task: Task) -> Emit:
        names = self._names()
        n = len(batch)
        values = {name: np.full(n, np.nan, np.float32) for name in names}
        limits = {name: np.full(n, np.nan, np.float32) for name in names}
        broken = {name: np.zeros(n, np.bool_) for name in names}
        counters: Counter[str] = Counter()
        texts: list[str] = []
        for k, (text, lang) in enumerate(zip(batch["text"].to_pylist(), batch["lang"].to_pylist(), strict=True)):
            scores, edited, removed = self._judge(text, lang or "")
            texts.append(edited)
            counters.update({f"c4_lines_{reason}": count for reason, count in removed.items()})
            for score in scores:
                values[score.rule][k], limits[score.rule][k] = score.value, score.limit
                broken[score.rule][k] = score.broken
        found = [Rule(name, values[name], limits[name], broken[name]) for name in names]
        scored = with_scores(batch, "quality", found)
        if "c4" in self.rules:
            gone = np.logical_or.reduce([rule.broken for rule in found])
            kept = [old if out else new for old, new, out in zip(batch["text"].to_pylist(), texts, gone, strict=True)]
            scored = with_column(scored, DOCUMENT.field("text"), pa.array(kept, pa.large_string()))
        return verdict(scored, found, task, counters)

    def _judge(self, text: str, lang: str) -> tuple[Scores, str, Counter[str]]:
        """All scores of one text, the text as edited, and lines removed by reason."""
        scores: Scores = []
        removed: Counter[str] = Counter()
        current = published.Text(text)
        for name in self.rules:
            if name == "gopher_repetition":
                scores += self._repetition(current)
            elif name == "gopher_quality":
                scores += published.gopher_quality(current, self._english())
            elif name == "fineweb":
                f = self.fineweb
                marks = tuple(published.MARKS)
                scores += published.fineweb(
                    current, marks, f.line_punct, f.short_lines, f.short_line, f.char_dup, f.new_lines
                )
            elif name == "fineweb2":
                scores += self._fineweb2(current, lang)
            else:
                c = self.c4
                found, edited, removed = published.c4(
                    current,
                    terminal=c.terminal,
                    min_words=c.min_words,
                    max_word=c.max_word_length,
                    min_sentences=c.min_sentences,
                )
                scores += found
                current = published.Text(edited)
        return scores, current.text, removed

    def _repetition(self, text: published.Text) -> Scores:
        r = self.gopher_repetition
        limits = (r.dup_para_frac, r.dup_para_char_frac, r.dup_line_frac, r.dup_line_char_frac)
        return published.gopher_repetition(text, limits, r.top_n_grams, r.dup_n_grams)

    def _english(self) -> published.QualityLimits:
        q = self.gopher_quality
        return published.QualityLimits(
            q.min_words,
            q.max_words,
            q.min_word_length,
            q.max_word_length,
            q.symbols,
            q.bullets,
            q.ellipses,
            q.alphabetic,
            q.stop_words,
            frozenset(q.stop_list),
        )

    def _fineweb2(self, text: published.Text, lang: str) -> Scores:
        """FineWeb-2's order and choice of rules (fineweb-2-pipeline.py), with the language's own thresholds."""
        profile = profiles().get(lang)
        if profile is None:
            return [published.over("fineweb2_no_profile", 1.0, 0.0 if self.unknown_language == "drop" else None)]
        marks = tuple(published.MARKS)
        shortest, longest = profile["word_length"]
        stop_list = frozenset(profile["stop_words"])
        limits = published.QualityLimits(
            None, None, shortest, longest, None, None, None, profile["alphabetic"], 2, stop_list
        )
        grams = [{int(n): x for n, x in profile[key].items()} for key in ("top_n_grams", "dup_n_grams")]
        found = [
            *published.gopher_repetition(text, (None, None, profile["dup_line_frac"], None), *grams),
            *published.fineweb(text, marks, profile["line_punct"], None, 30, 0.1, profile["new_lines"]),
            *published.gopher_quality(text, limits),
        ]
        return [published.Score(f"fineweb2_{s.rule.partition('_')[2]}", s.value, s.limit, s.broken) for s in found]


@cache
def profiles() -> dict[str, dict[str, Any]]:
    """FineWeb-2's thresholds by language."""
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data/fineweb2.json").read_text("utf-8"))
    return found
