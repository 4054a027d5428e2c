"""Language: py3langid's answer from the kernel, scripts, the keep-list, and the two other backends as they are."""

import math
import struct
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT, DROP
from pipeline.stage import Emit, Task
from stages.kernels.arrow import text_buffers
from stages.kernels.letters import LOWER, SCRIPT, UPPER
from stages.kernels.text import clip
from stages.language import Language
from stages.letters import CAREFUL, RARE, Letters, table
from tests import oracles_langid as oracles

SAMPLES = {
    "en": ("Latn", "The committee said on Monday that it would publish the whole report before the end of the year."),
    "de": (
        "Latn",
        "Die Kommission teilte am Montag mit, dass sie den ganzen Bericht noch in diesem Jahr veröffentlicht.",
    ),
    "fr": ("Latn", "La commission a déclaré lundi qu’elle publierait le rapport complet avant la fin de l’année."),
    "ru": ("Cyrl", "Комиссия сообщила в понедельник, что опубликует весь отчёт до конца года."),
    "el": ("Grek", "Η επιτροπή ανακοίνωσε τη Δευτέρα ότι θα δημοσιεύσει ολόκληρη την έκθεση."),
    "ar": ("Arab", "قالت اللجنة يوم الاثنين إنها ستنشر التقرير كاملا قبل نهاية العام."),
    "hi": ("Deva", "समिति ने सोमवार को कहा कि वह वर्ष के अंत से पहले पूरी रिपोर्ट प्रकाशित करेगी।"),
    "th": ("Thai", "คณะกรรมการแถลงเมื่อวันจันทร์ว่าจะเผยแพร่รายงานฉบับเต็มก่อนสิ้นปี"),
    "ja": ("Jpan", "委員会は月曜日、年末までに報告書の全文を公表すると発表した。"),
    "ko": ("Kore", "위원회는 월요일에 연말 이전에 보고서 전문을 공개하겠다고 밝혔다."),
    "zh-Hans": ("Hans", "委员会星期一表示，将在年底以前公布报告的全部内容。"),
    "zh-Hant": ("Hant", "委員會星期一表示，將在年底以前公布報告的全部內容。"),
}
hostile = st.lists(
    st.sampled_from([text for _, text in SAMPLES.values()])
    | st.text(max_size=30)
    | st.sampled_from(["ABC DEF", "e\u0301", "\n"]),
    max_size=4,
).map("".join)


def there(batch: pa.RecordBatch | None) -> pa.RecordBatch:
    assert batch is not None
    return batch


def batch_of(texts: list[str]) -> pa.RecordBatch:
    rows = [{"id": str(k), "text": text, "source": "s"} for k, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def run(stage: Language, texts: list[str], folder: Path = Path(), **artifacts: Path) -> Emit:
    task = Task(stage="03-language", seed=0, index=0, count=1, folder=folder, scratch=folder, artifacts=artifacts)
    (emit,) = stage.steps()[0].run(iter([batch_of(texts)]), task)
    assert emit.quarantine is None
    return emit


def labelled(stage: Language, texts: list[str], **artifacts: Path) -> list[tuple[str, float]]:
    rows = there(run(stage, texts, **artifacts).rows)
    return list(zip(rows["lang"].to_pylist(), rows["lang_score"].to_pylist(), strict=True))


@given(st.lists(hostile, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_the_kernel_computes_py3langids_formula(texts: list[str]) -> None:
    for (label, score), text in zip(labelled(Language(), texts), texts, strict=True):
        expected, chance = oracles.classify(text)
        assert label == expected
        assert math.isclose(score, np.float32(chance), rel_tol=1e-4)  # sixteen sums at a time are in float32


@cache
def passages() -> list[str]:
    """The beginnings of documents in many languages."""
    folder = Path(__file__).parent.parent / "sample_data/wiki-like"
    texts = [text for name in ("world", "zh") for text in pq.read_table(folder / f"{name}.parquet")["text"].to_pylist()]
    return [text[:600] for text in texts if text is not None and len(text) > 400]


@given(st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_of_long_texts_no_class_that_counts_is_passed_over(choices: list[list[int]]) -> None:
    texts = ["\n".join(passages()[k % len(passages())] for k in choice) for choice in choices]
    for (label, score), text in zip(labelled(Language(), texts), texts, strict=True):
        expected, chance = oracles.classify(text)
        assert label == expected
        assert math.isclose(score, np.float32(chance), rel_tol=1e-4)


def test_label_and_confidence_are_py3langids() -> None:
    texts = [
        *(text * times for _, text in SAMPLES.values() for times in (1, 9)),
        "",
        "1234",
        "SHOUTING IN ENGLISH",
        "cafe\u0301",
    ]
    for (label, score), text in zip(labelled(Language(), texts), texts, strict=True):
        expected, chance = oracles.identifier().classify(text)
        assert label == expected
        assert abs(score - chance) < 1e-3


def test_label_and_script_of_each_sample() -> None:
    rows = there(run(Language(), [text for _, text in SAMPLES.values()]).rows).to_pylist()
    assert [(row["lang"], row["language"]) for row in rows] == [
        (name[:2], {"script": script}) for name, (script, _) in SAMPLES.items()
    ]


letters = st.text(st.sampled_from("aZéяЖαאبกあアー漢国國发發的한ᄀㄅ1 ，\n\u0301\U00020000"), max_size=12)


@given(st.lists(letters | hostile, min_size=1, max_size=5))
@settings(deadline=None)
def test_scripts_are_counted_as_the_plain_rule_says(texts: list[str]) -> None:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    assert Letters.of(data, offsets[:-1], offsets[1:]).scripts() == [oracles.script(text) for text in texts]


@given(st.lists(letters | hostile | st.text(max_size=90) | st.sampled_from(["a" * 31, "漢" * 11]), max_size=8))
@settings(deadline=None)
def test_every_letter_and_trait_is_counted_wherever_a_text_lies(texts: list[str]) -> None:
    whole = "".join(texts)
    every = [*texts, whole]
    data = np.frombuffer("".join(every).encode(), np.uint8)
    ends = np.cumsum([len(text.encode()) for text in every])
    found = Letters.of(data, np.concatenate([[0], ends[:-1]]), ends)
    for text, counts, traits in zip(every, found.counts, found.traits, strict=True):
        entries = table().entries[[ord(char) for char in text]]
        expected = np.bincount(entries & SCRIPT, minlength=len(counts))
        assert counts.tolist() == [0, *expected[1:].tolist()]
        assert traits == np.bitwise_or.reduce(entries) & ~np.uint16(SCRIPT)


def test_the_table_of_scripts_is_unicodes() -> None:
    everything = "".join(chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000)
    entries, names = table()
    scripts = entries & SCRIPT
    ideographs = {names.index(code) for code in ("Hans", "Hant", "Hani")}
    for k, code in enumerate(names):
        if code in {"Zyyy", "Hans", "Hant", "Jpan", "Kore"}:
            continue
        wanted = {ord(c) for c in regex.findall(rf"[\p{{L}}&&\p{{Script={code}}}]", everything, regex.V1)}
        members = np.isin(scripts, list(ideographs)) if code == "Hani" else scripts == k
        assert wanted <= set(np.flatnonzero(members).tolist())
    marked = "".join(chr(code) for code in np.flatnonzero(scripts[:0x30000]))
    assert regex.fullmatch(r"[\p{L}\p{Cn}]*", marked)


def test_case_is_pythons_as_far_as_it_is_looked_up() -> None:
    for code, entry in enumerate(table().entries.tolist()):
        char = chr(code) if code < RARE else ""
        assert (bool(entry & UPPER), bool(entry & LOWER)) == (char.isupper(), char.islower())


def test_code_points_not_marked_are_never_changed_by_nfc_whatever_stands_before_them() -> None:
    seconds = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for char in map(chr, range(sys.maxunicode + 1)):
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.normalize("NFC", char) == char:
            seconds.add(chr(int(parts[1], 16)))
    for code in np.flatnonzero(table().entries & CAREFUL == 0).tolist():
        char = chr(code)
        assert not unicodedata.combining(char)
        assert unicodedata.normalize("NFC", char) == char
        assert char not in seconds
        assert code < RARE or not char.isupper()


cased = st.text(st.sampled_from("ABCdÉéЖжΑαǅ中가Ⅳ\u1e40\uff21\u0301\u1161\U0001d400 -"), max_size=90)


@given(st.lists(cased | st.text(max_size=90) | hostile, min_size=1, max_size=5))
@settings(deadline=None)
def test_no_text_that_py3langid_reads_otherwise_is_passed_over(texts: list[str]) -> None:
    data, offsets = text_buffers(pa.array(["x", *texts], pa.large_string()).slice(1))
    doubtful = Letters.of(data, offsets[:-1], offsets[1:]).may_be_read_anew()
    for text, doubt in zip(texts, doubtful, strict=True):
        assert doubt or (text.isupper(), unicodedata.normalize("NFC", text)) == (False, text)


def test_plain_text_is_not_looked_at_twice() -> None:
    texts = [text for name, (_, text) in SAMPLES.items() if name in {"en", "fr", "ru", "el", "ja", "ko", "zh-Hans"}]
    data, offsets = text_buffers(pa.array([*texts, "SHOUTED"], pa.large_string()))
    doubtful = Letters.of(data, offsets[:-1], offsets[1:]).may_be_read_anew()
    assert doubtful.tolist() == [False] * len(texts) + [True]


def test_the_keep_list_names_what_it_drops_and_why() -> None:
    texts = [SAMPLES["en"][1], SAMPLES["ru"][1], SAMPLES["zh-Hant"][1], "word"]
    scores = dict(labelled(Language(), texts))
    emit = run(Language(keep={"en": 0.0, "zh": 1.0}), texts)
    assert there(emit.rows)["text"].to_pylist()[:1] == texts[:1]
    assert there(emit.drops).schema == DROP
    drops = {row["text"]: row for row in there(emit.drops).to_pylist()}
    assert drops[texts[1]]["rule"] == "language:ru"
    assert drops[texts[1]]["broken"] == [{"rule": "language:ru", "score": 0.0, "limit": 1.0}]
    assert drops[texts[2]]["broken"] == [{"rule": "language_score", "score": scores["zh"], "limit": 1.0}]
    assert len(there(emit.rows)) + len(there(emit.drops)) == len(texts)


def test_a_score_at_the_limit_is_kept() -> None:
    text = SAMPLES["fr"][1][:30]
    ((label, score),) = labelled(Language(), [text])
    assert run(Language(keep={label: score}), [text]).drops is None
    above = np.nextafter(np.float32(score), np.float32(1)).item()
    assert len(there(run(Language(keep={label: above}), [text]).drops)) == 1


@given(st.lists(st.text(max_size=6), max_size=4), st.integers(1, 4))
@settings(deadline=None)
def test_a_text_is_clipped_at_a_character(texts: list[str], most: int) -> None:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    ends = clip(data, offsets, most)
    found = [data[a:b].tobytes().decode() for a, b in zip(offsets, ends, strict=False)]
    assert found == [text[:most] for text in texts]


def test_only_the_first_characters_count() -> None:
    texts = [SAMPLES["en"][1] + SAMPLES["ru"][1] * 9]
    emit = run(Language(max_chars=len(SAMPLES["en"][1])), texts)
    assert there(emit.rows).to_pylist()[0]["lang"] == "en"
    assert there(emit.rows).to_pylist()[0]["language"] == {"script": "Latn"}
    assert there(emit.rows)["text"].to_pylist() == texts
    assert labelled(Language(), texts)[0][0] == "ru"


def test_columns_that_were_there_are_replaced_in_place() -> None:
    stage = Language()
    schema = stage.steps()[0].schema(DOCUMENT)
    emit = run(stage, ["some text"])
    assert there(emit.rows).schema == schema
    assert schema.names == [*DOCUMENT.names, "language"]
    assert stage.steps()[0].schema(schema) == schema


def test_langdetect_answers_alike_in_any_order_and_as_itself() -> None:
    from langdetect import DetectorFactory, detect_langs

    texts = [text for _, text in SAMPLES.values()] + ["otec matka syn", "1234", ""]
    stage = Language(backend="langdetect", seed=7)
    forwards, backwards = labelled(stage, texts), labelled(stage, texts[::-1])[::-1]
    assert forwards == backwards
    assert forwards[-2:] == [("und", 0.0), ("und", 0.0)]
    before, DetectorFactory.seed = DetectorFactory.seed, 7
    theirs = [detect_langs(text)[0] for text in texts[:-2]]
    DetectorFactory.seed = before
    assert [label for label, _ in forwards[:-2]] == [t.lang.removesuffix("-cn").removesuffix("-tw") for t in theirs]
    assert [score for _, score in forwards[:-2]] == pytest.approx([t.prob for t in theirs], abs=1e-6)


def write_fasttext(path: Path, words: dict[str, list[float]], labels: dict[str, list[float]]) -> Path:
    """A supervised softmax model in fastText's binary format 12: a vector for each word and each label."""
    width = len(next(iter(words.values())))
    entries = [(word, 0) for word in words] + [(label, 1) for label in labels]
    out = struct.pack("<ii", 793712314, 12)
    out += struct.pack("<12id", width, 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100, 1e-4)
    out += struct.pack("<iiiqq", len(entries), len(words), len(labels), len(entries), -1)
    out += b"".join(name.encode() + b"\0" + struct.pack("<qb", 1, kind) for name, kind in entries)
    for matrix in (words, labels):
        values = [value for row in matrix.values() for value in row]
        out += b"\0" + struct.pack(f"<qq{len(values)}f", len(matrix), width, *values)
    path.write_bytes(out)
    return path


@pytest.mark.parametrize("labels", [("__label__en", "__label__fr"), ("__label__eng_Latn", "__label__fra_Latn")])
def test_a_fasttext_model_gives_its_own_labels(labels: tuple[str, str], tmp_path: Path) -> None:
    from fasttext import load_model

    words = {"the": [4.0, 0.0], "le": [0.0, 4.0]}
    path = write_fasttext(tmp_path / "lid.bin", words, {labels[0]: [1.0, 0.0], labels[1]: [0.0, 1.0]})
    stage = Language(backend="fasttext", model="lid.bin")
    assert stage.check([tmp_path]) == []
    assert stage.needs == ("model",)
    texts = ["the\nthe le", "le", "unheard"]
    found = labelled(stage, texts, model=path)
    assert [label for label, _ in found[:2]] == [label.removeprefix("__label__") for label in labels]
    theirs = [load_model(str(path)).predict(text.replace("\n", " "), k=1) for text in texts]
    assert [score for _, score in found] == [np.float32(min(scores[0], 1)) if names else 0 for names, scores in theirs]


@pytest.mark.parametrize(
    ("given", "loc", "words"),
    [
        ({"backend": "fasttext"}, ("backend",), "model: PATH"),
        ({"backend": "fasttext", "model": "none.bin"}, ("model",), "no such file: none.bin"),
        ({"model": "lid.bin"}, ("model",), "only the fasttext backend"),
        ({"keep": {"zh-cn": 0.5}}, ("keep", "zh-cn"), "langid has no label `zh-cn`"),
        ({"backend": "langdetect", "keep": {"zh": 0.5, "yue": 0.5}}, ("keep", "yue"), "langdetect has no label `yue`"),
    ],
)
def test_what_the_settings_alone_cannot_tell(
    given: dict[str, Any], loc: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (problem,) = Language.model_validate(given).check([tmp_path])
    assert problem.loc == loc
    assert words in problem.message


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write_fasttext(tmp_path / "lid.bin", {"a": [1.0]}, {"__label__en": [1.0]})
    (problem,) = Language(backend="fasttext", model=str(path)).check([tmp_path])
    assert "pip install 'gristmill[fasttext]'" in problem.message
