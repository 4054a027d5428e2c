"""Pre-tokens, their counts and the merges: equal to a regex engine, a Counter and Hugging Face's trainer, ties too."""

import base64
import json
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from stages.byte_level import byte_alphabet
from stages.kernels.arrow import read_only
from stages.kernels.bpe import learn_merges
from stages.kernels.pretokens import LETTER, LOWER, NEWLINE, NUMBER, OTHER, SPACE, UPPER, split_words
from stages.tokenizer import Tokenizer
from stages.tokenizer_bpe import PATTERNS, train_bpe
from stages.tokenizer_words import PARTS, STOCK, WORDS, WordTable, character_classes, most_frequent
from tests.oracles_bpe import counted, merges_by_hand, trained, words_of, words_of_tokenizers

ROOT = Path(__file__).parents[1]
CLASSES = {
    r"\p{L}": LETTER, r"\p{N}": NUMBER, r"\s": SPACE, r"[^\s\p{L}\p{N}]": OTHER, r"[\r\n]": NEWLINE,
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]": UPPER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]": LOWER,
}  # fmt: skip


def bits_of_regex(char: str) -> int:
    return sum(bit for name, bit in CLASSES.items() if regex.match(name, char))


AGREED = st.characters(codec="utf-8").filter(lambda c: bits_of_regex(c) == character_classes()[ord(c)])
"""Characters that the `regex` module and `tokenizers` know alike; their Unicode versions are not the same."""
TRICKY = st.sampled_from("aZ''sStTmMdDlLrRvVeE 1٣Ⅷ½\n\r\t\v\x85\u2028\u00a0/!.-中ไéЁ\u0301\u200dſʰªǅ👩ﬀŉ\ufffd")
TEXT = st.text(st.one_of(TRICKY, TRICKY, AGREED), max_size=30)


def ends(text: str, pattern: str, longest: int = 1000) -> list[str]:
    raw = text.encode()
    data, offsets = read_only(np.frombuffer(raw, np.uint8)), read_only(np.array([0, len(raw)]))
    found, _ = split_words(data, offsets, character_classes(), STOCK.index(pattern), longest)
    return [raw[a:b].decode() for a, b in pairwise(found.tolist())]


@pytest.mark.parametrize("pattern", STOCK)
@given(text=TEXT)
@settings(max_examples=500)
def test_the_splitter_finds_what_the_regular_expression_finds(pattern: str, text: str) -> None:
    found = ends(text, pattern)
    assert found == words_of(text, pattern, 1000)
    assert found == words_of_tokenizers(text, pattern)


@pytest.mark.parametrize("pattern", STOCK)
@given(text=st.text(st.characters(codec="utf-8") | TRICKY, max_size=30))
@settings(max_examples=200)
def test_the_splitter_knows_the_characters_that_tokenizers_knows(pattern: str, text: str) -> None:
    assert ends(text, pattern) == words_of_tokenizers(text, pattern)


@pytest.mark.parametrize("name", CLASSES)
def test_every_character_has_the_class_that_tokenizers_gives_it(name: str) -> None:
    codes = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200), 0x10FFFF]
    mine = (character_classes()[codes] & CLASSES[name]) > 0
    theirs = np.ones(len(codes), np.bool_)
    for _, (low, high) in Split(Regex(f"{name}+"), "removed").pre_tokenize_str("".join(map(chr, codes))):
        theirs[low:high] = False
    assert (mine == theirs).all()


@pytest.mark.parametrize("pattern", STOCK)
def test_hostile_texts_take_linear_time(pattern: str) -> None:
    for part in ("A", "中", "中A", "a'", " ", "\n ", "'", "\u0301", "!中", "9", " \u0301A"):
        text = part * 200_000
        assert "".join(ends(text, pattern)) == text


@given(
    st.lists(st.text(TRICKY, max_size=20), max_size=8), st.sampled_from(STOCK), st.sampled_from([1, 3, 64]), st.data()
)
def test_counts_are_those_of_a_counter(texts: list[str], pattern: str, longest: int, data: st.DataObject) -> None:
    table, own = WordTable(), WordTable()
    cut = data.draw(st.integers(0, len(texts)))
    for part in (texts[:cut], texts[cut:]):
        rows = pa.array(["not counted", *part], pa.large_string()).slice(1)
        table.count(rows, pattern, longest)
        own.count(rows, PATTERNS[pattern], longest)
    expected = counted(texts, pattern, longest)
    assert dict(zip(*table.rows().to_pydict().values(), strict=True)) == expected
    assert dict(zip(*own.rows().to_pydict().values(), strict=True)) == expected
    assert len(table) == len(expected)


def test_a_table_grows_and_counts_beyond_32_bits() -> None:
    table = WordTable()
    words = [f"{k:05x}".encode() * (1 + k % 30) for k in range(50_000)]
    for _ in range(2):
        table.add(pa.array(words, pa.large_binary()), np.full(len(words), 1 << 40))
    assert set(table.rows()["word"].to_pylist()) == set(words)
    assert table.rows()["count"].to_pylist() == [1 << 41] * len(table)


COUNTED = st.dictionaries(st.binary(min_size=1, max_size=6), st.integers(1, 9), max_size=60)


@given(st.lists(COUNTED, max_size=4), st.integers(0, 40))
@settings(max_examples=40)
def test_the_bound_prunes_the_rarest_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, parts: list[dict[bytes, int]], bound: int
) -> None:
    batches = [
        pa.RecordBatch.from_arrays(
            [pa.array([*part], pa.large_binary()), pa.array([*part.values()], pa.int64())], schema=WORDS
        )
        for part in parts
    ]
    sums: dict[bytes, int] = {}
    for part in parts:
        for word, count in part.items():
            sums[word] = sums.get(word, 0) + count
    least = next(c for c in range(1, 100) if sum(count >= c for count in sums.values()) <= bound)
    kept = {word: count for word, count in sums.items() if count >= least}
    for order in (batches, batches[::-1]):
        found = most_frequent(iter(order), bound, tmp_path_factory.mktemp("scratch"))
        assert dict(zip(*found.rows.to_pydict().values(), strict=True)) == kept
        assert (found.least, found.words) == (least, len(sums) - len(kept))
        assert found.met == sum(sums.values()) - sum(kept.values())


def test_words_that_do_not_fit_are_spread_evenly_enough(tmp_path: Path) -> None:
    words = {f"word{k}": 1 + k % 3 for k in range(20_000)}
    table = WordTable()
    table.add(pa.array([w.encode() for w in words], pa.large_binary()), np.array([*words.values()]))
    most_frequent(iter([table.rows()]), 15_000, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == PARTS
    assert max(sizes) < sum(sizes) / 10


IDS = [
    sorted(byte_alphabet().items()).index((char, byte))
    for byte, char in sorted((b, c) for c, b in byte_alphabet().items())
]


@given(
    st.dictionaries(
        st.text("ab", max_size=12).map(str.encode) | st.binary(max_size=4), st.integers(1, 1 << 40), max_size=12
    ),
    st.integers(0, 30),
    st.integers(1, 3),
)
@settings(max_examples=300)
def test_merges_are_those_found_by_counting_anew(words: dict[bytes, int], most: int, least: int) -> None:
    data = read_only(np.frombuffer(b"?" + b"".join(words), np.uint8))
    offsets = read_only(np.cumsum([1, *map(len, words)], dtype=np.int64))
    counts, ids = read_only(np.array([*words.values()], np.int64)), read_only(np.array(IDS, np.int32))
    found = learn_merges(data, offsets, counts, ids, most, least)
    assert [tuple(pair) for pair in found.tolist()] == merges_by_hand(words, IDS, most, least)


def same(texts: list[str], pattern: str, size: int, least: int, longest: int | None = None) -> int:
    """Asserts that merges and vocabulary are those of BpeTrainer; how many merges there are. longest: None as the
    stage has it."""
    array = pa.chunked_array([pa.array(texts, pa.large_string())])
    cut = (longest,) if longest else ()
    mine = json.loads(train_bpe(array, pattern, size, (), least, *cut).to_str())["model"]
    theirs = json.loads(trained(texts, pattern, size, least, longest).to_str())["model"]
    assert mine == theirs
    return len(mine["merges"])


@given(st.lists(st.text("aab bc'\n中文", max_size=30), max_size=6), st.sampled_from(STOCK), st.integers(1, 3))
@settings(max_examples=60)
def test_merges_are_those_of_tokenizers(texts: list[str], pattern: str, least: int) -> None:
    same(texts, pattern, 300, least, 8)


@pytest.mark.parametrize("pattern", STOCK)
def test_a_real_corpus_gives_the_same_tokenizer(pattern: str) -> None:
    paths = sorted(ROOT.glob("sample_data/wiki-like/*.parquet"))
    texts = [text[:2000] for path in paths for text in pq.read_table(path)["text"].drop_null().to_pylist()]
    assert same(texts[:400], pattern, 4000, 2) == 4000 - 256


def code_like() -> list[str]:
    """Files with what code has: long names, deep indents, rulers, base64, minified lines, runs of one letter."""
    chance = random.Random(3)
    parts = "get set load save user name config file index value handler stream buffer async parse token".split()
    files = []
    for _ in range(60):
        lines = []
        for _ in range(12):
            name = "".join(part.title() for part in chance.choices(parts, k=chance.randint(2, 30)))
            snake = "_".join(chance.choices(parts, k=chance.randint(2, 20)))
            data = base64.b64encode(chance.randbytes(chance.choice([6, 300]))).decode()
            lines += [
                " " * chance.choice([4, 8, 120, 500]) + f"def {snake}(self, {name.lower()}):",
                "#" * chance.choice([3, 79, 400]) + chance.choice(["\n\n\n\n", "\t" * 90, "-" * 77]),
                f'    {name} = "{data}"; {"a" * chance.choice([1, 65, 333])}',
            ]
        files.append("\n".join(lines))
    return files


def han_without_punctuation() -> list[str]:
    """Pages of Han text that are one pre-token each: common words among rarer characters."""
    chance = random.Random(5)
    words = ["磨坊", "粮食", "中国", "人民", "的", "我们", "時間", "知道"]
    rare = [chr(0x4E00 + k) for k in range(400)]
    return ["".join(chance.choices(words, k=4)[0] + chance.choice(rare) for _ in range(700)) for _ in range(12)]


@pytest.mark.parametrize("pattern", STOCK)
@pytest.mark.parametrize("corpus", [code_like, han_without_punctuation])
def test_very_long_words_are_learnt_from_as_tokenizers_does(corpus: Callable[[], list[str]], pattern: str) -> None:
    texts = corpus()
    table = WordTable()
    table.count(pa.array(texts, pa.large_string()), pattern)
    assert max(len(word.decode()) for word in table.rows()["word"].to_pylist()) > 400
    assert same(texts, pattern, 1200, 2) > 900


def test_one_word_of_megabytes_is_learnt_from_in_a_few_seconds() -> None:
    chance = random.Random(7)
    page = "".join(chance.choices([chr(0x4E00 + k) for k in range(500)], k=1_000_000))
    texts = pa.chunked_array([pa.array([page, "x" * 1_000_000, "ab" * 500_000], pa.large_string())])
    began = time.process_time()
    tokenizer = train_bpe(texts, "o200k", 3000, ())
    assert time.process_time() - began < 20
    assert tokenizer.get_vocab_size() == 3000


def test_words_over_the_bound_are_counted_in_pieces_and_told() -> None:
    texts = pa.array(["磨" * 1000, "short", "磨" * 9], pa.large_string())
    for pattern in ("o200k", PATTERNS["o200k"]):
        table = WordTable()
        table.count(texts, pattern, 64)
        assert table.cut == 1
        assert dict(zip(*table.rows().to_pydict().values(), strict=True)) == {
            ("磨" * 64).encode(): 15, ("磨" * 40).encode(): 1, b"short": 1, ("磨" * 9).encode(): 1
        }  # fmt: skip


def test_a_pattern_of_ones_own(tmp_path: Path) -> None:
    stage = Tokenizer(pattern=r"\p{L}+|\p{N}|[^\p{L}\p{N}]")
    texts = pa.chunked_array([pa.array(["one 12 two", "one two"] * 3, pa.large_string())])
    tokenizer = train_bpe(texts, stage.pattern, 280, stage.special_tokens)
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("one 12")] == ["one", "Ġ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("one 12 two").ids) == "one 12 two"


@pytest.mark.parametrize(
    ("pattern", "message"), [("o20k", "no stock pattern"), ("(", "no regular expression"), ("", "no stock")]
)
def test_a_pattern_that_is_none_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tokenizer(pattern=pattern)
