"""Clean: the same answer as ftfy and the rules on the whole document, and no work where nothing is wrong."""

import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ftfy import TextFixerConfig
from ftfy.badness import BADNESS_RE, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rows import DOCUMENT
from pipeline.stage import Emit, Task
from stages.characters import character_classes, longest_match, mojibake_automaton, mojibake_clue
from stages.clean import Clean, Ftfy, _tools
from stages.kernels.arrow import text_buffers
from stages.kernels.text import BAD, CHANGED, START, tidy_lines
from tests.oracles_clean import clean_text, tidy

EVERYTHING = Clean(
    ftfy=Ftfy(unescape_html=True, fix_latin_ligatures=True, fix_character_width=True, uncurl_quotes=True),
    unicode="NFKC",
    zero_width="remove",
    bidi="remove",
    full_width="ascii_letters_digits",
    max_blank_lines=0,
)
NOTHING = Clean(
    ftfy=Ftfy(**{name: False for name, field in Ftfy.model_fields.items() if field.annotation is not int}),
    unicode="none",
    control_chars="keep",
    zero_width="keep",
    soft_hyphen="keep",
    strip_line_ends=False,
    max_blank_lines=None,
)
HALF = Clean(
    ftfy=Ftfy(fix_c1_controls=False, restore_byte_a0=False, replace_lossy_sequences=False, max_decode_length=7),
    zero_width="keep",
    full_width="ascii_letters_digits",
    strip_line_ends=False,
    max_blank_lines=1,
)
RULES_ALONE = Clean(ftfy=NOTHING.ftfy)
SEGMENTS = Clean(ftfy=Ftfy(max_decode_length=3))
ALL_SETTINGS = {
    "default": Clean(),
    "everything": EVERYTHING,
    "nothing": NOTHING,
    "half": HALF,
    "rules": RULES_ALONE,
    "segments": SEGMENTS,
}

WORDS = [
    "naïve café",
    "Größe – “so”",
    "Привет, мир",
    "中文，標點！",
    "日本語テスト",
    "می‌خواهم",
    "क्‍ष",
    "한국어",
    "Ελλάδα",
    "Ã la carte",
    "😀👩‍👩‍👧",
]
WRONG = ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250", "macroman", "cp437"]


def break_text(text: str, encodings: list[str]) -> str:
    """Real mojibake: the text's UTF-8, read as another encoding, once for each name."""
    for name in encodings:
        text = text.encode().decode(name, "replace")
    return text


broken = st.builds(break_text, st.sampled_from(WORDS), st.lists(st.sampled_from(WRONG), min_size=1, max_size=2))
oddities = st.one_of(
    st.sampled_from(
        ["\r\n", "\r", "\n", "\n\n\n", " \n", "\t\r\n", "\x85", "\u2028", "\f", "\v", "\x1b[31m", "\x1b", "\x9d"]
    ),
    st.sampled_from(
        ["Ä\x85", "é\x85", "é\x85\x80", "æ\x9d\x85", "Ĺ\x85", "ð\x9f\x85\x85", "…\x85", "Â…", "\x93a\x94\x85"]
    ),
    st.sampled_from(
        ["\x00", "\x7f", "\ufeff", "\u00ad", "\ufffe", "\ufffd", "\ufffc", "\ufdd0", "\U000e0067", "\U0010ffff"]
    ),
    st.sampled_from(["\u200b", "\u200c", "\u200d", "\u200e", "\u202b", "\u2060", "ส้ม\u200bค"]),
    st.sampled_from(["&amp;", "&amp;amp;lt;", "&#x1F600;", "&nosuch;", "&EACUTE;", "&#128;", "&#10;", "&#xD800;"]),
    st.sampled_from(["&", "<", "<b>", "ﬁ", "Ａ１，", "ﾊﾟ", "“x”", "\u3000", "\xa0", " ", "²", "\u212b", "\U0002f800"]),
    st.sampled_from(["e\u0301", "e\u0316\u0301", "e\u0301\u0316", "\u0301", "à\u0323", "\u0344", "ب\u0651\u064e"]),
    st.sampled_from(["\u1100\u1161\u11a8", "가\u11a8", "\u09c7\u09be", "\u0ba4\u0bbe"]),
    st.sampled_from(["plain words " * 6, "x" * 31, "short\n" * 7, "\ta line of thirty-two bytes ~~~\n"]),
)
hostile = st.lists(oddities | broken | st.sampled_from(WORDS) | st.text(max_size=4), max_size=12).map("".join)
plain = st.integers(0, 70).map("word, ".__mul__)
long = st.lists(oddities | broken | plain | st.sampled_from(WORDS), max_size=12).map("".join)
documents = st.lists(hostile | long, min_size=1, max_size=6)


def there(batch: pa.RecordBatch | None) -> pa.RecordBatch:
    assert batch is not None
    return batch


def batch_of(texts: list[str]) -> pa.RecordBatch:
    rows = [{"id": str(k), "text": text, "source": "s"} for k, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def run(stage: Clean, batch: pa.RecordBatch, folder: Path) -> list[Emit]:
    task = Task(stage="02-clean", seed=0, index=0, count=1, folder=folder, scratch=folder)
    return list(stage.steps()[0].run(iter([batch]), task))


def cleaned(stage: Clean, texts: list[str], folder: Path) -> list[str]:
    """Every text after cleaning, dropped ones as empty; nothing may be lost or quarantined."""
    (emit,) = run(stage, batch_of(texts), folder)
    kept = dict(zip(there(emit.rows)["id"].to_pylist(), there(emit.rows)["text"].to_pylist(), strict=True))
    dropped = [] if emit.drops is None else emit.drops["id"].to_pylist()
    assert emit.quarantine is None
    assert sorted([*kept, *dropped], key=int) == [str(k) for k in range(len(texts))]
    assert "" not in kept.values()
    return [kept.get(str(k), "") for k in range(len(texts))]


@pytest.mark.parametrize("name", ALL_SETTINGS)
@given(documents)
@settings(deadline=None, max_examples=150)
def test_the_answer_is_ftfys_and_then_the_rules(name: str, texts: list[str]) -> None:
    stage = ALL_SETTINGS[name]
    assert cleaned(stage, texts, Path()) == [clean_text(text, stage) for text in texts]


@pytest.mark.parametrize("name", ALL_SETTINGS)
def test_no_setting_says_anything_of_plain_ascii(name: str) -> None:
    plain = [9, 10, *set(range(32, 127)) - {ord("&"), ord("<")}]
    assert not (_tools(ALL_SETTINGS[name]).proof[0][plain] & CHANGED).any()


def test_every_setting_of_ftfy_is_there() -> None:
    theirs = set(TextFixerConfig._fields) - {"normalization", "explain"}
    assert set(Ftfy.model_fields) == theirs


@given(st.text(alphabet=sorted(set(BADNESS_RE.pattern) | set("az AZ09\n\t.,中。é")), max_size=12))
@settings(max_examples=1000)
def test_the_automaton_finds_what_ftfys_pattern_finds(text: str) -> None:
    state = START
    for char in text:
        state = MOVES[state, CLASSES[ord(char)]]
    assert (state == BAD) == is_bad(text)


MOVES, CLASSES = mojibake_automaton(BADNESS_RE.pattern), character_classes(BADNESS_RE.pattern)[0]


@given(st.text(alphabet=sorted(set(BADNESS_RE.pattern) | set("az AZ09\n\t.,中。é")), max_size=8))
@settings(max_examples=1000)
def test_what_ftfys_pattern_finds_holds_a_clue(text: str) -> None:
    found = BADNESS_RE.search(text)
    assert found is None or mojibake_clue(BADNESS_RE.pattern).search(found[0])


def test_only_characters_that_the_pattern_names_are_clues() -> None:
    assert mojibake_clue(BADNESS_RE.pattern).search("Plain 中文。বাংলা ខ្មែរ עברית\u200b 한국어 \u3000") is None


def test_letters_and_digits_end_below_the_fourth_plane() -> None:
    classes, kinds = character_classes("\\w é")
    words = [code for code in range(0x110000) if "\\w" in kinds[classes[code]]]
    assert words == [code for code in range(0x110000) if re.fullmatch(r"\w", chr(code))]


@pytest.mark.parametrize("pattern", ["(ab)", "[é]+", "é{2}", "[\u3000-\u4000]", "[\\u00e9]", "é。"])
def test_a_pattern_of_another_shape_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="ftfy's mojibake pattern"):
        character_classes(pattern)


def test_a_pattern_that_matches_ascii_is_refused() -> None:
    with pytest.raises(ValueError, match="plain ASCII"):
        longest_match("é [a-z] | [a-z] x?")


lines = st.lists(
    st.sampled_from(["a", " ", "\t", "\n", "\r\n", "\xa0", "\u3000", "\u2003", "\u202f", "中", "\u1680", "x\x0bx" * 3]),
    max_size=12,
)
long_lines = st.lists(
    st.sampled_from(["a" * 14, "b" * 31, "c" * 33, "中" * 11, " " * 32, *"a \n\n\r\xa0\u3000中😀"]), max_size=40
)


@given(st.lists((lines | long_lines).map("".join), min_size=1, max_size=4), st.booleans(), st.integers(-1, 3))
@settings(deadline=None)
def test_lines_are_tidied_as_the_plain_rule_says(texts: list[str], strip: bool, most: int) -> None:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    sizes, counts = tidy_lines(data, offsets, strip, most, np.empty(0, np.uint8))
    out = np.empty(sizes.sum(), np.uint8)
    tidy_lines(data, offsets, strip, most, out)
    ends = np.cumsum(sizes)
    found = [out[end - size : end].tobytes().decode() for end, size in zip(ends, sizes, strict=True)]
    assert found == [tidy(text, strip=strip, most_blank=None if most < 0 else most) for text in texts]
    assert [bool(c.any()) for c in counts] == [new != old for new, old in zip(found, texts, strict=True)]


SOUND = [
    "Plain English, with a & b, x < y.\n\n\tIndented, “quoted” – and so on… café, naïve, €5, 20 °C, ½.\n",
    "Überraschung: „Größe“ ist schön.\nL’été, où « l’œuvre » s’achève.\nÇa, señor: ¿Qué? ¡No! Não há coração.\n",
    "Привет, «мир». Українська ґава. Ελλάδα: «άνθρωπος». שָׁלוֹם עולם\u200f. مَرْحَبًا، می‌خواهم.\n",
    "中文，標點符號！「引號」《書》：１２３ＡＢＣ　全形。日本語、カタカナ。한국어 문장.\n",
    "हिन्दी क्‍ष, தமிழ் வணக்கம், বাংলা ভাষা, ภาษาไทย\u200bคำ, ភាសា\u200bខ្មែរ, Tiếng Việt rất đẹp.\n",
    "👩‍👩‍👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ❤️ ① 𝒜\n\n\nlast",
]


def test_sound_text_of_many_scripts_is_proven_and_never_copied(tmp_path: Path) -> None:
    batch = batch_of(["pad", *SOUND]).slice(1)
    (emit,) = run(Clean(), batch, tmp_path)
    assert emit.counters["lines_sent_to_ftfy"] == 0
    assert emit.counters["documents_changed"] == 0
    assert there(emit.rows)["text"].buffers()[2].address == batch["text"].buffers()[2].address


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schÃ¶n\n", "schön\n"),
        ("æ\x9d±äº¬ and ä¸\xadæ–‡", "東京 and 中文"),
        ("a &amp;amp; b", "a & b"),
        ("if a < b:\n  x &amp; y", "if a < b:\n  x &amp; y"),
        ("x &amp; y\n<p>&amp;", "x & y\n<p>&amp;"),
        ("one\r\ntwo\rthree\u2028four\x0cfive", "one\ntwo\nthree\nfour\nfive"),
        ("first line\x0bsecond line\x0c third", "first line\nsecond line\n third"),
        ("first\x85second, 第一\x85第二, café\x85après", "first\nsecond, 第一\n第二, café\naprès"),
        ("first\x0bschÃ¶n\x85dÃ©jÃ\xa0\x85vu", "first\nschön\ndéjà\nvu"),
        ("KsiÄ\x85Å¼ka", "Książka"),
        ("\x93Well\x85\x94 he said", "“Well…” he said"),
        ("a\x0b<b>&amp;", "a\n<b>&amp;"),
        ("&amp;\x0b<b>&amp;", "&\n<b>&amp;"),
        ("\ufeffstart\x00 mid\u0007dle \x1b[1mbold\x1b[0m", "start middle bold"),
        ("no\U0003fffe char\U0010ffffacter", "no character"),
        ("in\u200bvis\u200dible \u2060soft\u00adhyphen", "invisible softhyphen"),
        ("می‌خواهم क्‍ष 👩‍👧 คำ\u200bไทย", "می‌خواهم क्‍ष 👩‍👧 คำ\u200bไทย"),
        ("“Ａ１”，。！ﬁ²", "“Ａ１”，。！ﬁ²"),
        ("cafe\u0301 \u212b", "café Å"),
        ("ب\u0651\u064e", "ب\u064e\u0651"),
        ("voilÃ le travail", "voilà le travail"),
        ("a\r\r\nb\r", "a\n\nb\n"),
        ("&DiacriticalDoubleAcute; &CounterClockwiseContourIntegral;", "˝ &CounterClockwiseContourIntegral;"),
        ("\n \n a \t\n\n\n\n\nb\u3000\n\t\n", " a\n\n\nb\n"),
    ],
)
def test_what_the_defaults_mend(before: str, after: str, tmp_path: Path) -> None:
    assert cleaned(Clean(), [before], tmp_path) == [after]


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({"full_width": "ascii_letters_digits"}, "Ａｂ１，（中）！", "Ab1，（中）！"),
        ({"bidi": "remove"}, "a\u200eb\u202ec", "abc"),
        ({"soft_hyphen": "keep"}, "a\u00adb", "a\u00adb"),
        ({"zero_width": "remove"}, "می‌خواهم", "میخواهم"),
        ({"unicode": "NFKC"}, "ﬁ²", "fi2"),
        ({"unicode": "none"}, "e\u0301", "e\u0301"),
        ({"strip_line_ends": False, "max_blank_lines": None}, "a \r\n\n\n\n\n", "a \n\n\n\n\n"),
        ({"ftfy": Ftfy(unescape_html=False)}, "&amp;", "&amp;"),
        ({"ftfy": Ftfy(fix_line_breaks=False)}, "a\x0bb\x85c\x0cd", "ab…c\nd"),
        ({"ftfy": Ftfy(fix_encoding=False)}, "schÃ¶n", "schÃ¶n"),
    ],
)
def test_what_a_setting_changes(changes: dict[str, object], before: str, after: str, tmp_path: Path) -> None:
    assert cleaned(Clean.model_validate(changes), [before], tmp_path) == [after]


def test_each_mend_is_counted_once_a_document(tmp_path: Path) -> None:
    texts = ["schÃ¶n\nschÃ¶n &amp;", "a\u00adb\r\nb  \n", "fine", "e\u0301\u200b", "a\x01"]
    (emit,) = run(Clean(), batch_of(texts), tmp_path)
    assert dict(emit.counters) == {
        "documents_changed": 4,
        "documents_encoding": 1,
        "documents_html_entities": 1,
        "documents_soft_hyphens": 1,
        "documents_normalisation": 1,
        "documents_zero_width": 1,
        "documents_control_chars": 1,
        "documents_line_breaks": 1,
        "lines_sent_to_ftfy": 5,
        "lines_ended_crlf": 0,
        "lines_stripped": 1,
        "lines_blank_removed": 0,
    }


def test_returns_before_newlines_need_no_repair_in_python(tmp_path: Path) -> None:
    (emit,) = run(Clean(), batch_of(["a\r\nb\r\n\r\nc"]), tmp_path)
    assert there(emit.rows)["text"].to_pylist() == ["a\nb\n\nc"]
    assert (emit.counters["lines_ended_crlf"], emit.counters["lines_sent_to_ftfy"]) == (3, 0)


def test_an_empty_document_is_dropped_with_the_text_it_had(tmp_path: Path) -> None:
    (emit,) = run(Clean(), batch_of(["", "kept", " \n\u200b\n"]), tmp_path)
    assert there(emit.rows)["text"].to_pylist() == ["kept"]
    assert there(emit.drops)["rule"].to_pylist() == ["empty", "empty"]
    assert there(emit.drops)["text"].to_pylist() == ["", " \n\u200b\n"]


@given(documents)
@settings(deadline=None, max_examples=50)
def test_batch_boundaries_change_nothing(texts: list[str]) -> None:
    whole = cleaned(Clean(), texts, Path())
    assert whole == [cleaned(Clean(), [text], Path())[0] for text in texts]


CHAINS = {
    "entities": "&" + "amp;" * 50_000,
    "entities around controls": "&#" * 30_000 + "1;" * 30_000,
    "mojibake leads": "Â" * 50_000 + "© 中",
}


@pytest.mark.parametrize("name", CHAINS)
def test_text_that_unwinds_for_ever_is_quarantined_at_once(name: str, tmp_path: Path) -> None:
    start = time.process_time()
    emits = run(Clean(), batch_of(["fine", CHAINS[name], "schÃ¶n"]), tmp_path)
    assert time.process_time() - start < 5
    bad = [q for emit in emits if emit.quarantine is not None for q in emit.quarantine.to_pylist()]
    assert [q["id"] for q in bad] == ["1"]
    assert "did not settle" in bad[0]["detail"]
    assert [text for emit in emits if emit.rows is not None for text in emit.rows["text"].to_pylist()] == [
        "fine",
        "schön",
    ]


def test_a_segment_starts_anew(tmp_path: Path) -> None:
    stage = Clean(ftfy=Ftfy(max_decode_length=7))
    assert cleaned(Clean(), ["0123456Â x"], tmp_path) == ["0123456Â x"]
    assert cleaned(stage, ["0123456Â x"], tmp_path) == [clean_text("0123456Â x", stage)] != ["0123456Â x"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("So much “text” in a line… ¶ " * 10_000, 0),
        ("So much “text” in a line… ¶ " * 10_000 + "schÃ¶n", 1),
        ("&amp;" + "x" * 100_000 + "<", 1),
        ("x" * 100_000 + "< &amp;", 0),
        ("x" * 99_999 + "\r\ny", 1),
        ("é" * 99_999 + "\r\ny", 1),
        ("x" * 99_998 + "\r\ny", 0),
        ("é" * 99_999 + "e\u0301", 1),
        ("क" * 100_000 + "\u200d", 1),
    ],
)
def test_each_segment_of_a_line_is_proven_by_itself(text: str, sent: int, tmp_path: Path) -> None:
    (emit,) = run(Clean(), batch_of([text]), tmp_path)
    assert there(emit.rows)["text"].to_pylist() == [clean_text(text, Clean())]
    assert emit.counters["lines_sent_to_ftfy"] == sent


def test_one_huge_line_is_repaired_in_segments(tmp_path: Path) -> None:
    text = "schÃ¶n " * 60_000
    assert cleaned(Clean(), [text], tmp_path) == [clean_text(text, Clean())]
