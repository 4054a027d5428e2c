"""The published quality rules over a batch of texts: every score, and whether it breaks its limit.

Definitions and thresholds are those of datatrove 0.10
(pipeline/filters/{gopher_repetition,gopher_quality,c4,fineweb_quality}_filter.py), where its documentation and its code
differ those of the code; words are `stages.words`. Scores that cannot be had (no words) are NaN. Known differences: an
n-gram that repeats only if its words are joined (`1 11` and `11 1`) is no repeat here, which decided one document of
4,538, and one of 27,898 in Chinese; an empty text passes gopher_repetition (the other sets drop it); C4's phrases are
not found if written with a Kelvin sign for k; its citations are not cut if numbered in digits beyond ASCII.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.kernels.arrow import read_only, text_buffers
from stages.words import Cut, Texts, Words, classes, room_for, word_hash, words

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
LINE_RULES = ("gopher_dup_para_frac", "gopher_dup_para_char_frac", "gopher_dup_line_frac", "gopher_dup_line_char_frac")
QUALITY_RULES = (
    "gopher_min_words",
    "gopher_max_words",
    "gopher_min_word_length",
    "gopher_max_word_length",
    "gopher_hashes",
    "gopher_ellipses",
    "gopher_bullet_lines",
    "gopher_ellipsis_lines",
    "gopher_alphabetic_words",
    "gopher_stop_words",
)
C4_RULES = ("c4_lorem_ipsum", "c4_curly_bracket", "c4_sentences")
FINEWEB_RULES = ("fineweb_line_punct", "fineweb_short_lines", "fineweb_char_dup", "fineweb_new_lines")
REMOVED = ("long_word", "no_terminal_mark", "few_words", "javascript", "policy")
"""Why C4 removes a line, in the order of the kernel's counts."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """One rule's scores of n texts (float64[n]), its limit (NaN: none), and which break it (bool[n])."""

    rule: str
    values: Numbers
    limit: float
    broken: NDArray[np.bool_]


def over(rule: str, values: Numbers, limit: float | None) -> Score:
    """A rule broken by values over its limit; None: it only scores."""
    return Score(rule, values, np.nan, values > np.inf) if limit is None else Score(rule, values, limit, values > limit)


def under(rule: str, values: Numbers, limit: float | None) -> Score:
    """A rule broken by values under its limit; None: it only scores."""
    return Score(rule, values, np.nan, values > np.inf) if limit is None else Score(rule, values, limit, values < limit)


@dataclass(frozen=True, slots=True)
class Page:
    """n texts and their words, split once for all rules; `split` remembers them by how they were cut, `counted` how
    many there are where the words themselves are yet to be `gathered`, `sizes` the texts' characters, if known."""

    texts: Texts
    split: dict[Cut, Words] = field(default_factory=dict)
    counted: dict[Cut, NDArray[np.int64]] = field(default_factory=dict)
    gathered: dict[Cut, Callable[[], Words]] = field(default_factory=dict)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)

    @classmethod
    def of(cls, array: Any) -> Page:
        """The texts of an Arrow array of strings."""
        data, offsets = text_buffers(array)
        return cls(Texts(data, offsets[:-1], offsets[1:]))

    def words(self, cut: Cut = "english") -> Words:
        """The words."""
        if cut not in self.split:
            self.split[cut] = self.gathered[cut]() if cut in self.gathered else words(self.texts, cut)
        return self.split[cut]

    def count_words(self, cut: Cut = "english") -> NDArray[np.int64]:
        """How many words each text has."""
        if cut not in self.counted:
            self.counted[cut] = self.words(cut).lasts - self.words(cut).firsts
        return self.counted[cut]

    def take(self, rows: NDArray[np.int64]) -> Page:
        """Some of the texts."""

        def later(cut: Cut) -> Callable[[], Words]:
            return lambda: self.words(cut).take(rows)

        return Page(
            self.texts.take(rows),
            {cut: words.take(rows) for cut, words in self.split.items()},
            {cut: counts[rows] for cut, counts in self.counted.items()},
            {cut: later(cut) for cut in self.gathered},
            [sizes[rows] for sizes in self.sizes],
        )


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Numbers:
    """part / whole, NaN where whole is 0."""
    found: Numbers = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return found


def gram_rules(top: Mapping[int, float], repeated: Mapping[int, float]) -> list[str]:
    """The names of the rules of n-grams."""
    return [*(f"gopher_top_{n}_gram" for n in top), *(f"gopher_dup_{n}_grams" for n in repeated)]


def repeated_lines(page: Page, limits: Sequence[float | None]) -> list[Score]:
    """Rae et al. 2021, table A1, lines and paragraphs. limits: of `LINE_RULES`. Tells the page its texts' sizes."""
    from stages.kernels import lines

    t = page.texts
    found = lines.repeated_lines(t.data, t.starts, t.ends, classes())
    paragraphs, old_paragraphs, paragraph_size, rows, old_rows, row_size, size = found.T
    size = np.maximum(size, 1)
    page.sizes[:] = [size]
    parts = ((old_paragraphs, paragraphs), (paragraph_size, size), (old_rows, rows), (row_size, size))
    return [over(rule, ratio(*part), limit) for rule, part, limit in zip(LINE_RULES, parts, limits, strict=True)]


def repeated_grams(
    page: Page, top: Mapping[int, float], repeated: Mapping[int, float], cut: Cut = "english", every: bool = True
) -> list[Score]:
    """The same, n-grams, after `repeated_lines`. top, repeated: limits by n. every: if not, a text that
    breaks one may be left without scores for those after it."""
    from stages.kernels.grams import count_grams

    w, size = page.words(cut), page.sizes[0]
    limits = np.array([*top.values(), *repeated.values()], np.float64)
    widths = sorted({*top, *repeated})
    columns = [[_place(n, top, 0), _place(n, repeated, len(top))] for n in widths]
    places = np.array(columns, np.int64).reshape(-1, 2)
    in_order = [column for both in columns for column in both if column >= 0] == list(range(len(limits)))
    stops = limits if in_order and not every else np.full(len(limits), np.inf)
    ns = np.array(widths, np.int64)
    grams = count_grams(w.hashes, w.marks, w.firsts, w.lasts, ns, places, read_only(size), stops)
    shares = np.where(grams >= 0, grams / size[:, None], np.nan)
    rules = zip(gram_rules(top, repeated), limits.tolist(), shares.T, strict=True)
    return [over(rule, values, limit) for rule, limit, values in rules]


def _place(n: int, rules: Mapping[int, float], first: int) -> int:
    """The column of the rule for n, or -1."""
    return first + list(rules).index(n) if n in rules else -1


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


def gopher_quality(page: Page, limits: QualityLimits, cut: Cut = "english") -> list[Score]:
    """Rae et al. 2021, appendix A1.1, as datatrove counts: distinct stop words, the mean length of words not all
    symbols."""
    from stages.kernels.grams import count_words
    from stages.kernels.lines import count_marks

    t, w = page.texts, page.words(cut)
    real, size, alphabetic, stops = count_words(w.hashes, w.marks, w.firsts, w.lasts, _hash_table(limits.stop_list)).T
    hashes, ellipses, lines, bullets, ends = count_marks(t.data, t.starts, t.ends, classes()).T
    count, mean = w.lasts - w.firsts, ratio(size, real)
    shares = [ratio(hashes, count), ratio(ellipses, count), ratio(bullets, lines), ratio(ends, lines)]
    names = iter(QUALITY_RULES)
    return [
        under(next(names), real.astype(np.float64), limits.min_words),
        over(next(names), real.astype(np.float64), limits.max_words),
        under(next(names), mean, limits.min_word_length),
        over(next(names), mean, limits.max_word_length),
        over(next(names), shares[0], limits.symbols),
        over(next(names), shares[1], limits.symbols),
        over(next(names), shares[2], limits.bullets),
        over(next(names), shares[3], limits.ellipses),
        under(next(names), ratio(alphabetic, count), limits.alphabetic),
        under(next(names), stops.astype(np.float64), limits.stop_words),
    ]


def _hash_table(chosen: frozenset[str]) -> NDArray[np.uint64]:
    """Hashes of words in an open-addressing table by their top bits, so sparse that few other words meet one."""
    bits = max(4, (32 * len(chosen)).bit_length())
    table = np.zeros(1 << bits, np.uint64)
    for word in sorted(chosen):
        slot = word_hash(word) >> (64 - bits)
        while table[slot]:
            slot = slot + 1 & len(table) - 1
        table[slot] = word_hash(word)
    return read_only(table)


def c4(
    page: Page, chinese: NDArray[np.bool_], *, terminal: bool, min_words: int, max_word: int, min_sentences: int
) -> tuple[list[Score], Page, dict[str, int]]:
    """Raffel et al. 2020, section 2.2: (scores, the texts of the lines that are left, lines removed by reason).

    Lines go that have a word too long, no terminal mark, too few words, `javascript` or a policy phrase; pages with
    `lorem ipsum` or `{` in a line that is left so far, or too few sentences. Citations ([12], [edit]) are cut out.
    chinese: bool[n], texts whose sentences are counted by jieba's words.
    """
    from stages.kernels.c4 import clean_lines
    from stages.kernels.lines import count_sentences

    t = page.texts
    room = np.empty(int((t.ends - t.starts).sum()) + len(t.starts) + 8, np.uint8)
    found, firsts, counts, starts, ends = clean_lines(
        t.data, t.starts, t.ends, classes(), terminal, min_words, max_word, room
    )
    data = read_only(room)
    lines = Texts(data, read_only(found[:, 0]), read_only(found[:, 1]))
    edited = Page(Texts(data, read_only(starts), read_only(ends)))
    sentences, by_jieba = np.zeros(len(found), np.int64), np.repeat(chinese, np.diff(firsts))
    cuts: dict[Cut, NDArray[np.bool_]] = {"english": ~by_jieba, "jieba": by_jieba}
    for cut, mask in cuts.items():
        if not mask.any():
            continue
        if mask.all() and cut == "english" and cut in page.split:
            sentences = _sentences_of_lines(page.split[cut], lines, found, firsts, edited)
            continue
        some = lines.take(np.flatnonzero(mask))
        own = words(some, cut)
        sentences[mask] = count_sentences(data, some.ends, classes(), own.marks, own.firsts, own.lasts)
        if mask.all():
            edited.split[cut] = own.group(firsts)
    scores = [
        over(C4_RULES[0], counts[:, 0].astype(np.float64), 0),
        over(C4_RULES[1], counts[:, 1].astype(np.float64), 0),
        under(C4_RULES[2], _sums(sentences, firsts).astype(np.float64), min_sentences),
    ]
    removed = dict(zip(REMOVED, counts[:, 2:].sum(axis=0).tolist(), strict=True))
    return scores, edited, removed


def _sums(values: NDArray[np.int64], firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sums of values firsts[k] to firsts[k + 1]."""
    sums = np.append(0, np.cumsum(values))
    found: NDArray[np.int64] = sums[firsts[1:]] - sums[firsts[:-1]]
    return found


def _sentences_of_lines(
    whole: Words, lines: Texts, found: NDArray[np.int64], firsts: NDArray[np.int64], edited: Page
) -> NDArray[np.int64]:
    """The sentences of lines that stay (`found` and `firsts` of `clean_lines`), out of the words of the whole texts;
    only lines with citations cut out are split again. Tells the edited page its words."""
    from stages.kernels.c4 import line_words, take_words
    from stages.kernels.lines import count_sentences

    places = read_only(line_words(whole.marks, whole.firsts, whole.lasts, found, firsts))
    cited = np.flatnonzero(found[:, 3])
    some = lines.take(cited)
    cut = words(some)
    sentences: NDArray[np.int64] = count_sentences(lines.data, lines.ends, classes(), whole.marks, *places)
    sentences[cited] = count_sentences(lines.data, some.ends, classes(), cut.marks, cut.firsts, cut.lasts)
    counts = places[1] - places[0]
    counts[cited] = cut.lasts - cut.firsts

    def gather() -> Words:
        hashes, marks = room_for(int(counts.sum()))
        take_words(
            whole.hashes, whole.marks, *places, found, cut.hashes, cut.marks, cut.firsts, cut.lasts, hashes, marks
        )
        ends = read_only(np.append(0, np.cumsum(counts))[firsts])
        return Words(read_only(hashes), read_only(marks), ends[:-1], ends[1:])

    edited.counted["english"], edited.gathered["english"] = _sums(counts, firsts), gather
    return sentences


def fineweb(page: Page, limits: Sequence[float | None], short: int, cut: Cut = "english") -> list[Score]:
    """Penedo et al. 2024 (FineWeb), section 3.6; empty lines do not count. limits: of `FINEWEB_RULES`."""
    from stages.kernels.lines import count_lines

    t = page.texts
    lines, ended, brief, repeated, size, newlines = count_lines(t.data, t.starts, t.ends, classes(), short).T
    return [
        under(FINEWEB_RULES[0], ended / np.maximum(lines, 1), limits[0]),
        over(FINEWEB_RULES[1], ratio(brief, lines), limits[1]),
        over(FINEWEB_RULES[2], ratio(repeated, size), limits[2]),
        over(FINEWEB_RULES[3], ratio(newlines, page.count_words(cut)), limits[3]),
    ]
