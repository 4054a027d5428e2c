"""The settings of the quality rules: thresholds, by rule set.

Reads the recipe's values; writes what `stages.rules` takes. The defaults are those of datatrove 0.10.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from stages import rules as published


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
        max_length=32,
        description="Characters in n-grams that occurred before, of 32 n's at most.",
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

    def limits(self) -> published.QualityLimits:
        """The thresholds as the rules take them."""
        return published.QualityLimits(
            self.min_words,
            self.max_words,
            self.min_word_length,
            self.max_word_length,
            self.symbols,
            self.bullets,
            self.ellipses,
            self.alphabetic,
            self.stop_words,
            frozenset(self.stop_list),
        )


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
