"""Quality rules: datatrove's own decisions, and every broken rule named."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stage import Task
from stages.kernels.lines import LINE
from stages.quality import Quality, profiles
from stages.rules import STOP_WORDS
from stages.words import classes, to_array
from tests import oracles, oracles_jieba
from tests import oracles_quality as oracle


def golden(name: str) -> list[dict[str, Any]]:
    """The rows of a golden file."""
    lines = gzip.decompress((Path(__file__).parent / "golden" / name).read_bytes()).decode().splitlines()
    return [json.loads(line) for line in lines]


GOLDEN = golden("quality.jsonl.gz")
CHINESE = golden("quality_chinese.jsonl.gz")
TASK = Task("05-quality", 0, 0, 1, Path(), Path())


@pytest.mark.parametrize("name", ["gopher_repetition", "gopher_quality", "c4", "fineweb"])
def test_decisions_are_datatroves(name: Any) -> None:
    texts = pa.array([row["text"] for row in GOLDEN], pa.large_string())
    found, page, _ = Quality(rules=(name,))._judge(texts, pa.nulls(len(texts), pa.string()))
    gone = np.logical_or.reduce([score.broken for _, score in found])
    assert gone.tolist() == [row[name] != "kept" for row in GOLDEN]
    if name == "c4":
        edited = zip(to_array(page.texts).to_pylist(), GOLDEN, strict=True)
        assert all(text == row["c4_text"] for text, row in edited if row["c4"] == "kept")


@pytest.mark.parametrize("name", ["gopher_repetition", "gopher_quality", "c4", "fineweb", "fineweb2"])
def test_chinese_decisions_are_datatroves(name: Any) -> None:
    texts = pa.array([row["text"] for row in CHINESE], pa.large_string())
    found, _, _ = Quality(rules=(name,))._judge(texts, pa.array(["zh"] * len(texts)))
    gone = np.zeros(len(texts), np.bool_)
    for rows, score in found:
        gone[rows] |= score.broken
    assert gone.tolist() == [row[name] != "kept" for row in CHINESE]


def test_a_drop_names_every_rule_it_broke_with_score_and_limit() -> None:
    batch = oracles.documents(["# # # buy now\n" * 30, "short", " ".join(f"word{k}" for k in range(9)) + "."])
    emit = Quality()._run(batch, TASK)
    assert emit.drops is not None
    first = emit.drops.to_pylist()[0]
    names = [b["rule"] for b in first["broken"]]
    assert {"gopher_dup_line_frac", "gopher_hashes", "c4_sentences"} <= set(names)
    assert first["rule"] == names[0]
    hashes = next(b for b in first["broken"] if b["rule"] == "gopher_hashes")
    assert hashes["score"] > hashes["limit"] == pytest.approx(0.1)


def test_c4_cuts_lines_and_counts_them() -> None:
    text = "A fine line of words [12] ends here. And so on! Really? Yes. It does.\nno mark\n"
    text += "Uses cookies are a policy phrase.\nHi."
    emit = Quality(rules=("c4",))._run(oracles.documents([text]), TASK)
    assert emit.rows is not None
    assert emit.rows["text"].to_pylist() == ["A fine line of words  ends here. And so on! Really? Yes. It does."]
    assert emit.counters == {"c4_lines_no_terminal_mark": 1, "c4_lines_few_words": 1, "c4_lines_policy": 1}


def test_fineweb2_judges_by_the_languages_own_thresholds() -> None:
    good = (
        "我们在这里种植水稻和小麦，因为土地肥沃。是的，河水也很清澈，人们都很高兴。\n"
        + "后来他和朋友在山中建了一座磨坊，为的是磨面。\n"
    )
    good += "年月日了被：" + "".join(chr(0x4E00 + 7 * k) for k in range(200)) + "。"
    batch = oracles.documents([good, "的的的的的的的的" * 40, "plain words"])
    batch = batch.set_column(4, "lang", pa.array(["zh", "zh", "xx"]))
    emit = Quality(rules=("fineweb2",))._run(batch, TASK)
    assert emit.rows is not None
    assert emit.rows["id"].to_pylist() == ["d0", "d2"]
    strict = Quality(rules=("fineweb2",), unknown_language="drop")._run(batch, TASK)
    assert strict.drops is not None
    assert strict.drops["rule"].to_pylist()[1] == "fineweb2_no_profile"
    assert set(profiles()) >= {"zh", "ja", "ko", "th", "de", "fr", "es", "ru", "ar", "hi"}


WORDS = (
    "of have word Word a1 # ... … . ? ! ( ) - • \" ' javascript Lorem ipsum use cookies terms of { [12] [edit] [x] the"
)
BLANKS = ["\n", "\n\n", "\r\n", "\t", "\x0b", "\x85", "\u2028", "  ", "\u3000"]
PIECES = st.sampled_from([*WORDS.split(" "), *BLANKS, "of the and", "中文。", "w" * 1001])
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=60).map(" ".join) | st.text()


def scores_of(
    texts: list[str], *sets: Any, lang: str = "en", chinese: Any = "jieba"
) -> tuple[list[dict[str, float]], list[str]]:
    """Every score of each text, by rule, and the texts as edited."""
    stage = Quality(rules=sets, chinese=chinese)
    found, page, _ = stage._judge(pa.array(texts, pa.large_string()), pa.array([lang] * len(texts)))
    rows: list[dict[str, float]] = [{} for _ in texts]
    for places, score in found:
        for k, value in zip(places.tolist(), score.values.tolist(), strict=True):
            rows[k][score.rule] = value
    return rows, to_array(page.texts).to_pylist()


@given(st.lists(TEXTS, max_size=4))
def test_scores_are_the_plain_twins(texts: list[str]) -> None:
    stops = frozenset(STOP_WORDS)
    rows, edited = scores_of(texts, "gopher_repetition", "gopher_quality", "c4", "fineweb")
    for text, row, new in zip(texts, rows, edited, strict=True):
        words = oracle.words(text)
        page, left, _ = oracle.c4(text)
        expected = oracle.gopher_repetition(text, words) | oracle.gopher_quality(text, words, stops) | page
        expected |= oracle.fineweb(left, oracle.words(left))
        assert new == left
        assert row == pytest.approx(expected, nan_ok=True)


@given(st.lists(TEXTS, max_size=4))
def test_scores_after_c4_are_of_the_lines_that_are_left(texts: list[str]) -> None:
    rows, edited = scores_of(texts, "gopher_repetition", "c4", "gopher_quality", "fineweb")
    for left, row in zip(edited, rows, strict=True):
        words = oracle.words(left)
        expected = oracle.gopher_quality(left, words, frozenset(STOP_WORDS)) | oracle.fineweb(left, words)
        assert {rule: row[rule] for rule in expected} == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.sampled_from(["a", "b", "ab", "c", "\n"]), max_size=200).map(" ".join))
def test_scores_of_repeats_are_the_plain_twins(text: str) -> None:
    row = scores_of([text], "gopher_repetition")[0][0]
    assert row == pytest.approx(oracle.gopher_repetition(text, oracle.words(text)))


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=120).map(" ".join),
    st.sampled_from([((3, 7), (4, 7, 12)), ((2, 3), (2, 5)), ((6,), (3, 4)), ((), (5,)), ((1, 4), ()), ((), ())]),
)
def test_scores_of_n_grams_with_gaps_between_the_ns_are_the_plain_twins(text: str, asked: Any) -> None:
    top, dup = asked
    limits = {"top_n_grams": dict.fromkeys(top, 0.1), "dup_n_grams": dict.fromkeys(dup, 0.1)}
    stage = Quality.model_validate({"rules": ["gopher_repetition"], "gopher_repetition": limits})
    found, _, _ = stage._judge(pa.array([text], pa.large_string()), pa.array(["en"]))
    row, words, size = {score.rule: score.values[0] for _, score in found}, text.split(), max(len(text), 1)
    assert [row[f"gopher_top_{n}_gram"] for n in top] == [oracle.top_gram(words, n) / size for n in top]
    assert [row[f"gopher_dup_{n}_grams"] for n in dup] == [oracle.repeated_grams(words, n) / size for n in dup]


LONG = st.lists(
    st.sampled_from(
        ["w" * 15, "x" * 30, "y" * 31, "z" * 32, "é" * 16, "中" * 11, "𝒜" * 8, *"a é中𝒜\n\n\n\r•-.#…\t\x85\u2028"]
    ),
    max_size=40,
).map("".join)


@given(st.lists(LONG, min_size=1, max_size=4), LONG)
def test_scores_of_long_lines_are_the_plain_twins(texts: list[str], line: str) -> None:
    texts = [*texts, line + texts[-1] + "\n" + texts[0] + "\n\n" + line]
    rows, _ = scores_of(texts, "gopher_repetition", "gopher_quality", "fineweb")
    for text, row in zip(texts, rows, strict=True):
        words = oracle.words(text)
        expected = oracle.gopher_repetition(text, words) | oracle.gopher_quality(text, words, frozenset(STOP_WORDS))
        assert row == pytest.approx(expected | oracle.fineweb(text, words), nan_ok=True)


def test_what_begins_line_separators_and_ellipses_beyond_ascii_is_watched_for() -> None:
    separators = [chr(code) for code in np.flatnonzero(classes() & LINE)]
    assert {char.encode()[0] for char in [*separators, "…"] if not char.isascii()} == {0xC2, 0xE2}
    assert all("\n" <= char < " " for char in separators if char.isascii())


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_many_lines_are_the_plain_twins(seed: int) -> None:
    draw = random.Random(seed)
    lines = [f"line {draw.randrange(400)}{draw.choice(['', ' word', '.'])}" for _ in range(1500)]
    text = "".join(line + draw.choice(["\n", "\n", "\n\n", "\n\n\n"]) for line in lines)
    row = scores_of([text], "gopher_repetition", "fineweb")[0][0]
    words = oracle.words(text)
    assert row == pytest.approx(oracle.gopher_repetition(text, words) | oracle.fineweb(text, words))


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_results_do_not_depend_on_batches(texts: list[str]) -> None:
    batch = oracles.documents(texts)
    stage = Quality(rules=("gopher_repetition", "gopher_quality", "c4", "fineweb", "fineweb2"))
    whole = stage._run(batch, TASK)
    parts = [stage._run(batch.slice(k, 1), TASK) for k in range(len(texts))]
    for name in ("rows", "drops"):
        rows = [row for part in parts if getattr(part, name) is not None for row in getattr(part, name).to_pylist()]
        assert repr(rows) == repr(getattr(whole, name).to_pylist() if getattr(whole, name) is not None else [])
    assert whole.counters == sum((Counter(part.counters) for part in parts), Counter())


@pytest.mark.parametrize(("lang", "chinese"), [("zh", "jieba"), ("zh", "characters"), ("ja", "jieba"), ("de", "jieba")])
def test_fineweb2_scores_are_the_plain_twins(lang: str, chinese: Any) -> None:
    text = "我们在这里种植水稻和小麦。\n" * 3 + "the plain words 在山中"
    row = scores_of([text], "fineweb2", lang=lang, chinese=chinese)[0][0]
    by_jieba = lang == "zh" and chinese == "jieba"
    words = oracles_jieba.words(text) if by_jieba else oracle.words(text, singles=True)
    expected = oracle.gopher_repetition(text, words) | oracle.fineweb(text, words)
    expected |= oracle.gopher_quality(text, words, frozenset(profiles()[lang]["stop_words"]))
    expected = {f"fineweb2_{rule.partition('_')[2]}": value for rule, value in expected.items()}
    assert {rule: row[rule] for rule in expected} == pytest.approx(expected)


@pytest.mark.parametrize("lang", ["zh", "yue", "wuu"])
def test_words_of_chinese_are_jiebas_or_characters_by_choice(lang: str) -> None:
    text = "中华人民共和国的研究生命起源。"
    means = [
        scores_of([text], "gopher_quality", lang=lang, chinese=choice)[0][0]["gopher_max_word_length"]
        for choice in ("jieba", "characters")
    ]
    assert means == [14 / 5, 1]
    assert scores_of([text], "gopher_quality")[0][0]["gopher_max_word_length"] == 14


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["zh", "yue", "ja", "en", None])), min_size=1, max_size=5))
def test_results_do_not_depend_on_the_other_languages_of_a_batch(documents: list[tuple[str, str | None]]) -> None:
    batch = oracles.documents([text for text, _ in documents])
    batch = batch.set_column(4, "lang", pa.array([lang for _, lang in documents], pa.string()))
    stage = Quality(rules=("c4", "gopher_repetition", "gopher_quality", "fineweb", "fineweb2"))
    whole = stage._run(batch, TASK)
    parts = [stage._run(batch.slice(k, 1), TASK) for k in range(len(documents))]
    for name in ("rows", "drops"):
        rows = [row for part in parts if getattr(part, name) is not None for row in getattr(part, name).to_pylist()]
        assert repr(rows) == repr(getattr(whole, name).to_pylist() if getattr(whole, name) is not None else [])


def check_until_broken(batch: pa.RecordBatch, sets: Any, settings: Any) -> None:
    """Scored only until broken, the same documents stay, with the same scores, and the others go by the same rule."""
    every, some = (
        Quality.model_validate({"rules": sets, "scores": scores, "gopher_repetition": settings})._run(batch, TASK)
        for scores in ("all", "until_broken")
    )
    assert repr(some.rows and some.rows.to_pylist()) == repr(every.rows and every.rows.to_pylist())
    assert (some.drops is None) == (every.drops is None)
    for one, other in zip(*(emit.drops.to_pylist() if emit.drops else [] for emit in (some, every)), strict=True):
        assert {**one, "broken": None} == {**other, "broken": None}
        assert one["broken"] == [found for found in other["broken"] if found in one["broken"]]
        assert one["broken"][0] == other["broken"][0]


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["zh", "yue", "ja", "en", None])), min_size=1, max_size=5),
    st.permutations(["gopher_repetition", "gopher_quality", "c4", "fineweb", "fineweb2"]),
    st.sampled_from([{}, {"top_n_grams": {3: 0.2, 6: 0.1}, "dup_n_grams": {2: 0.1, 5: 0.05}}]),
)
def test_scored_until_broken_hostile_documents_stay_or_go_alike(documents: Any, sets: Any, settings: Any) -> None:
    batch = oracles.documents([text for text, _ in documents])
    batch = batch.set_column(4, "lang", pa.array([lang for _, lang in documents], pa.string()))
    check_until_broken(batch, sets, settings)


@pytest.mark.parametrize("sets", [["gopher_repetition", "gopher_quality", "c4", "fineweb"], ["c4", "gopher_quality"]])
@pytest.mark.parametrize("languages", [["en"], ["en", "zh", None, "ja"]])
def test_scored_until_broken_real_documents_stay_or_go_alike(sets: list[str], languages: list[str | None]) -> None:
    texts = [row["text"] for row in [*GOLDEN, *CHINESE]]
    langs = [languages[k % len(languages)] for k in range(len(texts))]
    batch = oracles.documents(texts).set_column(4, "lang", pa.array(langs, pa.string()))
    check_until_broken(batch, sets, {})
    stages = (Quality.model_validate({"rules": sets, "scores": scores}) for scores in ("until_broken", "all"))
    reasons = [sum(map(len, stage._run(batch, TASK).drops["broken"].to_pylist())) for stage in stages]
    assert len(texts) / 2 < reasons[0] < reasons[1]


def test_repeats_by_hand() -> None:
    words = "a b a b a b".split()
    assert (oracle.top_gram(words, 2), oracle.repeated_grams(words, 2)) == (9, 4)
    row = scores_of([" ".join(words)], "gopher_repetition")[0][0]
    assert row["gopher_top_2_gram"] == pytest.approx(9 / 11)


def test_a_column_for_every_rule_and_none_else() -> None:
    stage = Quality(rules=("gopher_repetition", "gopher_quality", "c4", "fineweb", "fineweb2"))
    emit = stage._run(oracles.documents(["some words"]), TASK)
    batch = emit.rows if emit.rows is not None else None
    found, _, _ = stage._judge(pa.array(["一", "x"], pa.large_string()), pa.array(["zh", None], pa.string()))
    assert {score.rule for _, score in found} == set(stage._names())
    assert batch is None or batch.schema.field("quality").type.num_fields == len(stage._names())
