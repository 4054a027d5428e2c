"""Normalisation: the answer of unicodedata, in time proportional to the text; and which texts need none."""

import time
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT
from pipeline.stage import Each, Exchange, Stage, Task
from stages.clean import Clean
from stages.exact_dedup import ExactDedup
from stages.kernels.arrow import text_buffers
from stages.kernels.canonical import may_recompose
from stages.language import Language
from stages.near_dedup import NearDedup
from stages.normalisation import FEW, Form, composed, normalize, quick_check

CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
MARKS = [chr(code) for code in CODES if unicodedata.combining(chr(code))]
EXPANDING = "\u0344\u0f73\u0f75\u0f81\uff9e\uff9f\u1fed\u1e69ệﷺ½"
"""Marks that become several, some of class 0; half-width marks; characters that end in marks when decomposed."""
marks = st.text(st.sampled_from("\u0301\u0316\u0335\u0345\u3099" + EXPANDING) | st.sampled_from(MARKS), max_size=40)
runs = st.tuples(marks, st.integers(1, 9)).map(lambda part: part[0] * part[1])
letters = st.text(st.sampled_from("aeo ệक\u0928நொ각\u1100\u1161\u11a8がカｶ") | st.characters(codec="utf-8"), max_size=6)
texts = st.lists(runs | letters, max_size=6).map("".join)


@pytest.mark.parametrize("form", get_args(Form))
@given(texts)
@example("ệ" + "\u0301\u0316\u0335" * 60 + "\u0301" + "\u0327" * 200)
@example("\u0301\u0316" * 100)
@example("ｶ" + "\uff9e\u0316\uff9e" * 70 + "x" + "\U0001d165\u0334" * 90)
def test_the_form_is_the_one_of_unicodedata(form: Form, text: str) -> None:
    assert normalize(form, text) == unicodedata.normalize(form, text)


def test_lone_surrogates_stay_as_they_are() -> None:
    text = "\ud800" + "\u0301\u0316" * FEW
    assert normalize("NFC", text) == unicodedata.normalize("NFC", text)


@given(st.lists(texts, min_size=1, max_size=6))
def test_texts_of_a_batch_are_composed(given_texts: list[str]) -> None:
    data, offsets = composed(*text_buffers(pa.array(["before", *given_texts], pa.large_string()).slice(1)))
    found = [data[start:end].tobytes().decode() for start, end in pairwise(offsets)]
    assert found == [unicodedata.normalize("NFC", text) for text in given_texts]


@pytest.mark.parametrize("before", ["", "x" * 31, "中"])
def test_nothing_that_composition_changes_is_passed_over(before: str) -> None:
    """Wherever it stands in a block: a character by itself, what becomes one, and marks out of order."""
    apart = {unicodedata.normalize("NFD", chr(code)) for code in CODES}
    alone = [chr(code) for code in CODES if not is_composed(chr(code))]
    changing = [part for part in apart if not is_composed(part)] + alone + [f"\u0345{mark}" for mark in MARKS]
    some = [before + part + "y" * 40 for part in changing]
    doubtful = may_recompose(*text_buffers(pa.array(some, pa.large_string())), quick_check("NFC"))
    missed = [text for text, doubt in zip(some, doubtful, strict=True) if not doubt and not is_composed(text)]
    assert len(some) > 14_000
    assert missed == []


def is_composed(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


COMPOSED = [
    "Plain English, café, naïve, “quoted”.",
    "Привет, мир. Й й. Ελλάδα, άνθρωπος.",
    "中文，標點符號！「引號」《書》；がぎぐげご、パピプペポ。한국어 문장",
    "मेरा दिल बड़ा है, আমার দিন ভালো, தமிழ் கொடு, తెలుగు, ภาษาไทย, ພາສາລາວ, ភាសាខ្មែរ, မြန်မာ",
    "Tiếng Việt rất đẹp",
]


def test_composed_text_of_many_scripts_is_proven_and_not_copied() -> None:
    data, offsets = text_buffers(pa.array(COMPOSED, pa.large_string()))
    assert composed(data, offsets)[0] is data


HOSTILE = {
    "alternating marks": "\u0301\u0316\u0335",
    "falling classes": "\u0345\u0301\u0316\u0335",
    "marks that become several": "\u0344\u0f73\u0316",
    "marks beyond the first plane": "\U0001d165\u0334\U0001d16e",
    "vowel signs and viramas": "\u0bbe\u0bd7\u0bcd\u093c",
    "Hangul vowels": "\u1161\u11a8",
    "marks with joiners between": "\u0301\u200d\u0316",
}
STAGES: dict[str, Stage] = {
    "clean": Clean(),
    "clean, NFKC": Clean(unicode="NFKC"),
    "language": Language(),
    "near_dedup": NearDedup(),
    "exact_dedup": ExactDedup(normalise="text"),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_marks_take_time_in_proportion(name: str, kind: str, tmp_path: Path) -> None:
    """Eight times the text takes far less than 64 times as long; a quadratic step would show as that."""
    small, large = (seconds(STAGES[name], "a" + HOSTILE[kind] * count, tmp_path) for count in (5_000, 40_000))
    assert large < 24 * max(small, 0.005)


def seconds(stage: Stage, text: str, folder: Path) -> float:
    """CPU seconds of the stage's first step on one document, the least of two."""
    step = stage.steps()[0]
    assert isinstance(step, Each | Exchange)
    read = step.run if isinstance(step, Each) else step.scatter
    batch = pa.RecordBatch.from_pylist([{"id": "a", "text": text, "source": "s"}], schema=DOCUMENT)
    task = Task(stage="02-stage", seed=0, index=0, count=1, folder=folder, scratch=folder)
    taken = []
    for _ in range(2):
        begun = time.process_time()
        assert list(read(iter([batch]), task))
        taken.append(time.process_time() - begun)
    return min(taken)
