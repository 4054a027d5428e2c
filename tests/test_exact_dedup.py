"""Exact duplicates: the first of equal content stays, whatever shards and batches it came in."""

import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from stages.exact_dedup import ExactDedup
from stages.kernels.arrow import text_buffers
from stages.kernels.normalise import bare, byte_kinds, letters, squeezed
from stages.normalisation import composed
from tests import oracles
from tests.conftest import Cli, digest

RECIPE = """\
stages:
  - use: ingest
    inputs: ["in-*.parquet"]
    id_field: id
  - use: exact_dedup
    normalise: {normalise}
"""
BLANKS = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())
SELECTORS = {chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}
HOSTILE = st.text(
    st.sampled_from(BLANKS + "aZ09_!. éÅÅ①Ｏﷺﬁßİ中文が\u0301\u0327\ufe0f\u200b𝔸😀\x00") | st.characters(codec="utf-8"),
    max_size=40,
)


def evened(text: str) -> str:
    return " ".join(text.split())


def only_letters(text: str) -> str:
    """Letters, marks and digits of the compatible, decomposed, case-folded form of each character of the composed text,
    variation selectors (of both of Unicode's blocks) apart."""
    forms = (
        unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
        for char in unicodedata.normalize("NFC", text)
        if unicodedata.category(char)[0] != "C"
    )
    return "".join(c for c in "".join(forms) if unicodedata.category(c)[0] in "LMN" and c not in SELECTORS)


def rewritten(texts: list[str], kind: str) -> list[str]:
    buffers = text_buffers(pa.array(["before", *texts], pa.large_string()).slice(1))
    buffers, scratch = composed(*buffers) if kind == "text" else buffers, np.empty(7, np.uint8)
    data, ends = (
        squeezed(*buffers, byte_kinds(), scratch) if kind == "whitespace" else bare(*buffers, *letters(), scratch)
    )
    return [data[a:b].tobytes().decode() for a, b in pairwise(ends)]


@given(st.lists(HOSTILE, max_size=5))
@example([BLANKS, f"a{BLANKS}b{BLANKS}", "", "\u00a0", "\u2007x", "ends in a lead \u2003"])
@example(["ﷺ" * 50, "a" * 70, "𝔸\U000e0041"])
@example(["葛\U000e0100", "葛\U000e01ef城", "0\ufe0f\U000e0100"])
def test_normalisation_is_the_oracles(texts: list[str]) -> None:
    assert rewritten(texts, "whitespace") == [evened(text) for text in texts]
    assert rewritten(texts, "text") == [only_letters(text) for text in texts]


@given(
    st.lists(st.lists(HOSTILE | st.sampled_from(["a" * 31, "。，" * 9, " " * 33]), max_size=9).map("".join), max_size=3)
)
def test_blanks_are_evened_out_in_long_texts(texts: list[str]) -> None:
    assert rewritten(texts, "whitespace") == [evened(text) for text in texts]


def test_every_character_is_a_blank_or_not_wherever_a_block_ends() -> None:
    codes = [*range(0x3100), 0xFEFF, 0x1F600]
    for before in (0, 1, 29, 30, 31, 32):
        texts = ["x" * before + chr(code) + "y" * 70 + chr(code) * 2 for code in codes]
        assert rewritten(texts, "whitespace") == [evened(text) for text in texts]


@given(st.lists(HOSTILE, min_size=1, max_size=5))
def test_a_digest_is_xxh3_of_what_counts(texts: list[str]) -> None:
    expected = {
        "none": texts,
        "whitespace": [evened(t) for t in texts],
        "text": [only_letters(t) or unicodedata.normalize("NFC", t) for t in texts],
    }
    for normalise, content in expected.items():
        stage, scratch = ExactDedup.model_validate({"normalise": normalise}), np.empty(0, np.uint8)
        _, scratch = stage._digests(oracles.documents(["left over " * 9]), scratch)
        digests, _ = stage._digests(oracles.documents(texts), scratch)
        numbers = [xxhash.xxh3_128_intdigest(text.encode()) for text in content]
        assert digests.tolist() == [[number >> 64, number % 2**64] for number in numbers]


COMPOSABLE = st.lists(
    st.sampled_from(
        ["ệ", "â\u0327", "ḍ̇", "각", "\u1100\u1161\u11a8", "が", "কো", "கொ", "न\u093c", "ὦ", "ཱི", "\u212b", "\u2000"]
    )
    | st.text(st.sampled_from("ae\u0301\u0327\u0316\u3099\u0345\u0344\U0001d165"), max_size=5),
    max_size=6,
).map("".join)


@given(COMPOSABLE | HOSTILE, st.sampled_from(["NFC", "NFD"]))
def test_all_canonical_forms_of_a_text_have_one_digest(text: str, form: Literal["NFC", "NFD"]) -> None:
    stage = ExactDedup(normalise="text")
    texts = [text, unicodedata.normalize(form, text)]
    one, other = stage._digests(oracles.documents(texts), np.empty(0, np.uint8))[0].tolist()
    assert one == other


@pytest.mark.parametrize(
    ("normalise", "kept"),
    [("none", "abcdefghi"), ("whitespace", "abdefghi"), ("text", "abfghi")],
)
def test_the_first_of_equal_content_stays(cli: Cli, tmp_path: Path, normalise: str, kept: str) -> None:
    rows = [
        ("a", "One two"),
        ("b", "three"),
        ("c", "One \n two "),
        ("d", "one, TWO"),
        ("e", "Ｏne two!"),
        ("f", "四"),
        ("g", ""),
        ("h", "!!!"),
        ("i", "..."),
    ]
    shards = [rows[:2], rows[2:5], [*rows[5:], ("again", "three")]]
    for k, shard in enumerate(shards):
        table = pa.table({"id": [i for i, _ in shard], "text": [t for _, t in shard]})
        pq.write_table(table, tmp_path / f"in-{k}.parquet")
    (tmp_path / "r.yaml").write_text(RECIPE.format(normalise=normalise))
    for workers, out in ((1, "one"), (2, "two")):
        done = cli("run", "r.yaml", "--workers", workers, "--out", out)
        assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    stage = tmp_path / "one/02-exact_dedup"
    ids = [i for p in sorted(stage.glob("part-*.parquet")) for i in pq.read_table(p)["id"].to_pylist()]
    assert "".join(ids) == kept
    drops = [row for p in sorted(stage.glob("drops/*.parquet")) for row in pq.read_table(p).to_pylist()]
    assert {row["id"]: row["duplicate_of"] for row in drops}["again"] == "b"


def test_a_group_larger_than_a_batch_keeps_one(cli: Cli, tmp_path: Path) -> None:
    n = 30_000
    pq.write_table(pa.table({"id": [f"{k:06}" for k in range(n)], "text": ["same"] * n}), tmp_path / "in-0.parquet")
    (tmp_path / "r.yaml").write_text(RECIPE.format(normalise="none"))
    assert cli("run", "r.yaml").returncode == 0
    stage = tmp_path / "runs/r/02-exact_dedup"
    assert pq.read_table(stage / "part-00000.parquet")["id"].to_pylist() == ["000000"]
    assert set(pq.read_table(stage / "drops/part-00000.parquet")["duplicate_of"].to_pylist()) == {"000000"}
