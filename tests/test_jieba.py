"""Chinese words: jieba's own, and a plain twin's on hostile text."""

import gzip
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.jieba import cut_texts
from stages.kernels.arrow import text_buffers
from stages.kernels.words import AFTER_BLANK, SHIFT
from stages.rules import Page
from stages.words import classes, word_hash
from tests import oracles_jieba as oracle

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "golden/jieba_words.json.gz").read_bytes()))
PIECES = (
    "研究 生命 起源 中国 人民 共和国 北京 大学 的 了 是 在 于 李小福 杭研 T恤 B超 C++ 卡拉OK γ射线 γ hello world km² "
    "3.14% 3.14.15 100% .5 a.b v1.0-beta A+ # & _ - % . +86 \n \r\n \t \u3000 \u2028 \x1c \u200b 。 ， ！ …… é か "
    "カタカナ 한국 Ｕ １２ \u0301 😀 𠀀 𪚥 龥 鿕 鿖 㐀 丂 龘 〇 々"
).split(" ")
DICTIONARY = list(oracle.dictionary()[0])
WORDS_SHA256 = "3f726b746896d0e39f3cd9c59db2f706239840130589a8f8e23ab5b244891ba6"
"""Of jieba 0.42.1's words in order, each with the logarithm of its share of all frequencies."""
HAN = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FD6), max_size=8)
PARTS = st.sampled_from(PIECES) | st.sampled_from(DICTIONARY) | HAN | st.text(max_size=4)
TEXTS = st.lists(PARTS, max_size=16).map("".join) | st.lists(PARTS, max_size=8).map(" ".join)


def split(texts: pa.Array) -> list[list[str]]:
    """The words of texts."""
    data, offsets = text_buffers(texts)
    starts, ends, _, firsts = cut_texts(data, offsets[:-1], offsets[1:], classes())
    words = [bytes(data[a:b]).decode() for a, b in zip(starts, ends, strict=True)]
    return [words[a:b] for a, b in pairwise(firsts)]


def array(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def test_words_are_jiebas() -> None:
    wrong = [
        (ours, words)
        for ours, (_, words) in zip(split(array([t for t, _ in GOLDEN])), GOLDEN, strict=True)
        if ours != words
    ]
    assert not wrong
    assert [oracle.words(text) for text, _ in GOLDEN] == [words for _, words in GOLDEN]


@settings(max_examples=300)
@given(st.lists(TEXTS, max_size=4))
@example(["", " ", "丨" * 40, "一" * 40, "𠀀" * 3, "a" * 40, "%" * 5, "1." * 9, "鿕鿖"])
def test_words_are_the_plain_twins(texts: list[str]) -> None:
    assert split(array(texts)) == list(map(oracle.words, texts))


@given(st.lists(TEXTS, min_size=2, max_size=4))
def test_slices_and_nulls(texts: list[str]) -> None:
    sliced = pa.array(["研究生命起源", *texts, None, "末"], pa.large_string()).slice(1, len(texts) + 1)
    assert split(sliced) == [*map(oracle.words, texts), []]


@given(TEXTS)
def test_hashes_lengths_and_blanks(text: str) -> None:
    found, words = Page.of(array([text])).words("jieba"), oracle.words(text)
    assert found.hashes.tolist() == list(map(word_hash, words))
    assert [mark >> SHIFT for mark in found.marks.tolist()] == list(map(len, words))
    at = 0
    for word, mark in zip(words, found.marks.tolist(), strict=True):
        gap = text[at : text.index(word, at)]
        at += len(gap) + len(word)
        assert bool(mark & AFTER_BLANK) == bool(gap and (gap != " " or at == len(gap) + len(word)))


@pytest.mark.parametrize(
    "text", ["一" * 200_000, "丨" * 200_000, "a" * 200_000, "中华人民共和国" * 30_000, "1.%" * 70_000]
)
def test_long_runs_cost_linear_time(text: str) -> None:
    assert "".join(split(array([text]))[0]) == text


def test_the_trie_holds_jiebas_words_with_their_scores() -> None:
    scores, beginnings, unseen = oracle.dictionary()
    lines = "".join(f"{word} {score!r}\n" for word, score in scores.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == WORDS_SHA256
    assert beginnings == {word[:end] for word in scores for end in range(len(word) + 1)}
    assert unseen < min(scores.values())
