"""The published quality rules as functions of one text: every score, and whether it breaks its limit.

Definitions and thresholds are those of datatrove 0.10
(pipeline/filters/{gopher_repetition,gopher_quality,c4,fineweb_quality}_filter.py), where
its documentation and its code differ those of the code; words are `stages.words`. Scores that cannot be had (no
words) are NaN.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stages.words import ENDS, sentences, words

NAN = float("nan")
MARKS = ENDS
SYMBOLS = frozenset("!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»") | ENDS
"""Characters of which alone no word is made (datatrove utils/text.py, PUNCTUATION)."""
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
PARAGRAPHS, LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")


@dataclass(frozen=True, slots=True)
class Score:
    """One rule's score on one text, its limit, and whether it is broken."""

    rule: str
    value: float
    limit: float
    broken: bool


def over(rule: str, value: float, limit: float | None) -> Score:
    """A rule broken by values over its limit; None: it only scores."""
    return Score(rule, value, NAN if limit is None else limit, limit is not None and value > limit)


def under(rule: str, value: float, limit: float | None) -> Score:
    """A rule broken by values under its limit; None: it only scores."""
    return Score(rule, value, NAN if limit is None else limit, limit is not None and value < limit)


class Text:
    """A text and its words, split once for all rules."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._words: list[str] | None = None

    @property
    def words(self) -> list[str]:
        """The words."""
        if self._words is None:
            self._words = words(self.text)
        return self._words


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """(how many, of how many characters) of the parts have occurred before."""
    seen: set[str] = set()
    count = size = 0
    for part in parts:
        if part in seen:
            count, size = count + 1, size + len(part)
        seen.add(part)
    return count, size


def top_gram(tokens: Sequence[str], n: int) -> int:
    """Characters that the commonest n-gram takes, blanks between its words counted, overlaps too; first seen wins
    ties."""
    grams = Counter(" ".join(tokens[k : k + n]) for k in range(len(tokens) - n + 1))
    return next((len(gram) * count for gram, count in grams.most_common(1)), 0)


def repeated_grams(tokens: Sequence[str], n: int) -> int:
    """Characters in n-grams that have occurred before, without overlaps: after one the next n words are passed over."""
    seen: set[str] = set()
    size = k = 0
    while k <= len(tokens) - n:
        gram = "".join(tokens[k : k + n])
        if gram in seen:
            size, k = size + len(gram), k + n
        else:
            seen.add(gram)
            k += 1
    return size


def gopher_repetition(
    text: Text,
    lines: tuple[float | None, float | None, float | None, float | None],
    top: dict[int, float],
    repeated: dict[int, float],
) -> list[Score]:
    """Rae et al. 2021, table A1. lines: limits of duplicate paragraph share and characters, line share and
    characters."""
    whole, size = text.text, max(len(text.text), 1)
    paragraphs, rows = PARAGRAPHS.split(whole.strip()), LINES.split(whole)
    paragraph_count, paragraph_size = repeats(paragraphs)
    line_count, line_size = repeats(rows)
    return [
        over("gopher_dup_para_frac", paragraph_count / len(paragraphs), lines[0]),
        over("gopher_dup_para_char_frac", paragraph_size / size, lines[1]),
        over("gopher_dup_line_frac", line_count / len(rows), lines[2]),
        over("gopher_dup_line_char_frac", line_size / size, lines[3]),
        *(over(f"gopher_top_{n}_gram", top_gram(text.words, n) / size, limit) for n, limit in top.items()),
        *(over(f"gopher_dup_{n}_grams", repeated_grams(text.words, n) / size, limit) for n, limit in repeated.items()),
    ]


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits of the Gopher quality rules; None: not asked for."""

    min_words: int | None
    max_words: int | None
    min_word_length: float | None
    max_word_length: float | None
    symbols: float | None
    bullets: float | None
    ellipses: float | None
    alphabetic: float | None
    stop_words: int | None
    stop_list: frozenset[str]


def gopher_quality(text: Text, limits: QualityLimits) -> list[Score]:
    """Rae et al. 2021, appendix A1.1, as datatrove counts: distinct stop words, the mean length of words not all
    symbols."""
    tokens, whole = text.words, text.text
    real = [w for w in tokens if any(c not in SYMBOLS for c in w)]
    n = len(tokens)
    lines = whole.splitlines()
    mean = sum(map(len, real)) / len(real) if real else NAN
    alphabetic = sum(any(c.isalpha() for c in w) for w in tokens)
    starts = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    ends = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    return [
        under("gopher_min_words", len(real), limits.min_words),
        over("gopher_max_words", len(real), limits.max_words),
        under("gopher_min_word_length", mean, limits.min_word_length),
        over("gopher_max_word_length", mean, limits.max_word_length),
        over("gopher_hashes", _ratio(whole.count("#"), n), limits.symbols),
        over("gopher_ellipses", _ratio(whole.count("...") + whole.count("…"), n), limits.symbols),
        over("gopher_bullet_lines", _ratio(starts, len(lines)), limits.bullets),
        over("gopher_ellipsis_lines", _ratio(ends, len(lines)), limits.ellipses),
        under("gopher_alphabetic_words", _ratio(alphabetic, n), limits.alphabetic),
        under("gopher_stop_words", len(limits.stop_list & set(tokens)), limits.stop_words),
    ]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def c4(
    text: Text, *, terminal: bool, min_words: int, max_word: int, min_sentences: int
) -> tuple[list[Score], str, Counter[str]]:
    """Raffel et al. 2020, section 2.2: (scores, the lines that are left, lines removed by reason).

    Lines go that have a word too long, no terminal mark, too few words, `javascript` or a policy phrase; pages with
    `lorem ipsum` or `{` in a line that is left so far, or too few sentences. Citations ([12], [edit]) are cut out.
    """
    kept: list[str] = []
    removed: Counter[str] = Counter()
    found = {"lorem_ipsum": 0, "curly_bracket": 0}
    count = 0
    for line in (line.strip() for line in text.text.splitlines()):
        parts, cut = line.split(), CITATION.sub("", line)
        low = cut.lower()
        if any(len(word) > max_word for word in parts):
            removed["long_word"] += 1
        elif terminal and (not cut.endswith((".", "?", "!", '"', "'")) or cut.endswith("...")):
            removed["no_terminal_mark"] += 1
        elif len(parts) < min_words:
            removed["few_words"] += 1
        elif "lorem ipsum" in low:
            found["lorem_ipsum"] += 1
        elif "javascript" in low:
            removed["javascript"] += 1
        elif "{" in cut:
            found["curly_bracket"] += 1
        elif any(phrase in low for phrase in POLICY):
            removed["policy"] += 1
        else:
            kept.append(cut)
            count += sentences(words(cut))
    scores = [
        over("c4_lorem_ipsum", found["lorem_ipsum"], 0),
        over("c4_curly_bracket", found["curly_bracket"], 0),
        under("c4_sentences", count, min_sentences),
    ]
    return scores, "\n".join(kept).strip(), removed


def fineweb(
    text: Text,
    marks: tuple[str, ...],
    line_punct: float,
    short_lines: float | None,
    short: int,
    chars: float,
    new_lines: float,
) -> list[Score]:
    """Penedo et al. 2024 (FineWeb), section 3.6; empty lines do not count."""
    lines = [line for line in text.text.split("\n") if line.strip()]
    n = len(lines)
    size = len(text.text.replace("\n", ""))
    return [
        under("fineweb_line_punct", _ratio(sum(line.endswith(marks) for line in lines), n) if n else 0.0, line_punct),
        over("fineweb_short_lines", _ratio(sum(len(line) <= short for line in lines), n), short_lines),
        over("fineweb_char_dup", _ratio(repeats(lines)[1], size), chars),
        over("fineweb_new_lines", _ratio(text.text.count("\n"), len(text.words)), new_lines),
    ]
