"""Words: spaCy's own, and a plain twin's on hostile text."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from stages.kernels.lines import count_sentences
from stages.kernels.words import ENDS_SENTENCE, HAS_LETTER, IS_PUNCTUATION, IS_REAL, SHIFT
from stages.rules import Page
from stages.words import Cut, classes, word_hash
from tests import oracles_quality as oracle

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden/quality_words.json.gz").read_bytes()))
ATOMS = (
    "a b word Word don't can't U.S. e.g. http:// www. example .com @ : / . .. ... … , ; ! ? ( ) [ ] { } ' ’ ’s 's \" `"
    " - -- --- — – ~ + * ^ = < > _ # % $ US$ £ € 1 23 10.0.0.1 8.8.8.8 :80 km km² % °C. °F. :) :-) (: ^_^ C++ \\ | é 中"
    " 文 。 ß İ 😀 ④ \u0301 \u200b letter letters lettered lettering "
).split(" ")
SHAPES = st.lists(st.sampled_from(ATOMS), max_size=8).map("".join)
TEXTS = st.lists(SHAPES | st.text(max_size=6), max_size=12).map(" ".join) | st.text()


def split(texts: list[str], cut: Cut = "english") -> list[list[str]]:
    """The words of texts, read back from their lengths."""
    found, out = Page.of(pa.array(texts, pa.large_string())).words(cut), []
    for k, text in enumerate(texts):
        rest, words = "".join(text.split()), []
        for mark in found.marks[found.firsts[k] : found.lasts[k]].tolist():
            words.append(rest[: mark >> SHIFT])
            rest = rest[mark >> SHIFT :]
        assert not rest
        out.append(words)
        assert found.hashes[found.firsts[k] : found.lasts[k]].tolist() == list(map(word_hash, words))
    return out


def test_words_are_spacys() -> None:
    chunks = [chunk for chunk, _ in GOLDEN]
    wrong = [(ours, theirs) for ours, (_, theirs) in zip(split(chunks), GOLDEN, strict=True) if ours != theirs]
    assert not wrong


@given(st.lists(TEXTS, max_size=4), st.sampled_from(["english", "characters"]))
@example(["a@b@c.com/x-y (see e.g.this... U.S.-based 5km² '90s)"], "english")
def test_words_are_the_plain_twins(texts: list[str], cut: Cut) -> None:
    assert split(texts, cut) == [oracle.words(text, cut == "characters") for text in texts]


@given(st.lists(TEXTS, max_size=4))
def test_flags_and_sentences_are_the_plain_twins(texts: list[str]) -> None:
    page = Page.of(pa.array(texts, pa.large_string()))
    found = page.words()
    marks = iter(found.marks.tolist())
    for text in texts:
        for word in oracle.words(text):
            flags = next(marks) & 15
            assert bool(flags & IS_REAL) == (not all(oracle.has("symbol", c) for c in word))
            assert bool(flags & HAS_LETTER) == any(map(str.isalpha, word))
            assert bool(flags & ENDS_SENTENCE) == (len(word) == 1 and oracle.has("sentence", word))
            assert bool(flags & IS_PUNCTUATION) == all(oracle.has("punctuation", c) for c in word)
    counts = count_sentences(page.texts.data, page.texts.ends, classes(), found.marks, found.firsts, found.lasts)
    assert [int(count) for count, text in zip(counts, texts, strict=True) if text.strip()] == [
        oracle.sentences(text) for text in texts if text.strip()
    ]


def test_long_chunks_cost_linear_time() -> None:
    hostile = ["a" * 300_000, "(" * 300_000, "a@" * 150_000, ":)" * 150_000, "a.b-" * 75_000, "\u0301" * 100_000]
    for text, words in zip(hostile, split(hostile), strict=True):
        assert sum(map(len, words)) == len(text)
