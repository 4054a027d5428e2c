"""Quality rules: datatrove's own decisions, and every broken rule named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Task
from stages.quality import Quality, profiles
from stages.rules import repeated_grams, repeats, top_gram
from stages.words import sentences, words
from tests import oracles

LINES = gzip.decompress((Path(__file__).parent / "golden/quality.jsonl.gz").read_bytes()).decode().splitlines()
GOLDEN = [json.loads(line) for line in LINES]
TASK = Task("05-quality", 0, 0, 1, Path(), Path())


@pytest.mark.parametrize(
    ("name", "allowed"), [("gopher_repetition", 7), ("gopher_quality", 4), ("c4", 2), ("fineweb", 0)]
)
def test_decisions_are_datatroves_but_for_a_counted_few(name: str, allowed: int) -> None:
    stage = Quality(rules=(name,))
    others = 0
    for row in GOLDEN:
        scores, edited, _ = stage._judge(row["text"], "en")
        kept = not any(score.broken for score in scores)
        others += kept != (row[name] == "kept")
        if name == "c4" and kept and row[name] == "kept":
            assert edited == row["c4_text"]
    assert others <= allowed, f"{others} of {len(GOLDEN)} differ"


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


@given(st.text())
@settings(deadline=None)
def test_words_hold_every_character_that_is_not_blank(text: str) -> None:
    assert "".join(words(text)) == "".join(text.split())
    assert 0 <= sentences(words(text)) <= max(len(words(text)), 1)


@given(st.text())
@settings(deadline=None)
def test_no_text_breaks_a_rule_set(text: str) -> None:
    for lang in ("en", "zh"):
        Quality(rules=("gopher_repetition", "gopher_quality", "c4", "fineweb", "fineweb2"))._judge(text, lang)


def test_repeats_by_hand() -> None:
    assert repeats(["a", "bb", "a", "bb", "bb"]) == (3, 5)
    assert top_gram("a b a b c".split(), 2) == 6
    assert top_gram(["a"], 2) == 0
    assert repeated_grams("a b a b a b".split(), 2) == 4
    assert (
        words("Don't go to U.S. shops, it's 12,345.50km!") == "Do n't go to U.S. shops , it 's 12,345.50 km !".split()
    )
