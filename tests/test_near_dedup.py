"""Near-duplicates: kernels against their twins bit for bit, and the whole stage against the exact answer."""

import json
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHashLSH
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.stage import Task
from stages import near_dedup_verify
from stages.kernels.arrow import read_only, text_buffers
from stages.kernels.components import components, empty, join
from stages.kernels.jaccard import survivors
from stages.kernels.minhash import MARK, SILENT, band_keys, folding, shingles, signatures
from stages.near_dedup import WEIGHTS, NearDedup, optimal_banding
from stages.near_dedup_verify import CANDIDATE, decide
from stages.normalisation import composed
from tests import oracles as oracles_
from tests import oracles_near_dedup as oracles
from tests.conftest import Cli, digest

PIECES = st.sampled_from(
    ["internationalisation", "the ", "12345678", "exactly8", "__", "ΣΑΣ", "ไทย", "漢字かな", "\n\n"]
)
HOSTILE = st.lists(
    PIECES
    | st.text(
        st.sampled_from("ab ABzZ@[`{/:Ａé中文ไทยか_9,.\u0301\u200d𠀀😀İΣȺ\x00\n\t\x7f") | st.characters(codec="utf-8")
    ),
    max_size=30,
).map("".join)
SCRIPTS = st.lists(
    st.sampled_from(
        [
            "ข่าว",
            "ดี ",
            "मेरी ",
            "न\u093c",
            "কো",
            "கொ",
            "ខ្មែរ",
            "ဝေါ",
            "שָׁלוֹם ",
            "مُحَمَّد",
            "한국",
            "\u1112\u1161\u11ab",
            "tiếng",
            "が",
        ]
    )
    | st.text(st.sampled_from("\u0301\u0316\u0335\u0327\u3099\u0345\u0f73\u0344\u05bc\u05b7\U0001d165"), max_size=40)
    | st.text(st.characters(codec="utf-8", categories=["M", "Cf"]), max_size=4)
    | st.text(st.characters(codec="utf-8", min_codepoint=0x10000), max_size=4)
    | st.sampled_from(["a", "中", "ก", " ", "\u200c", "\u200b", "\ufe0f", "\U000e0100", "-", "\u212b", "\u0958", "ﬁ"]),
    max_size=16,
).map("".join)
RECIPE = """\
stages:
  - use: ingest
    inputs: ["in-*.parquet"]
    id_field: id
  - use: near_dedup
"""


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return composed(*text_buffers(pa.array(texts, pa.large_string())))


def test_each_character_is_folded_as_its_category_says() -> None:
    for code, folded in enumerate(folding().tolist()):
        char = chr(code)
        if oracles.is_silent(char):
            assert folded == SILENT
        elif unicodedata.category(char)[0] == "M":
            assert folded == -(MARK + code)
        else:
            assert abs(folded) == (ord(char.lower()[0]) if char.isalnum() or char == "_" else 0)
            assert (folded < 0) == (folded != 0 and oracles.SPACELESS.match(char) is not None)


def test_the_twins_words_are_those_of_unicode() -> None:
    """Python's own pattern, where there is neither a mark nor a character that shows nothing."""
    text = "The Quick_brown ΦΟΞ, ёж; 0ver ½ the lazy dog. naïve"
    assert oracles.words(text) == re.findall(r"\w+", text.lower())
    assert oracles.words("เข้าใจ ขอ") == ["เ", "ข้", "า", "ใ", "จ", "ข", "อ"]
    assert oracles.words("मेरा दिल, बड़ा") == ["मेरा", "दिल", "बड\u093cा"]
    assert oracles.words("می\u200cخواهم co\u00adop ᠠ\u180eᠠ") == ["میخواهم", "coop", "ᠠᠠ"]
    assert oracles.words("ខ្មែរ\u200bx") == ["ខ្", "មែ", "រ", "x"]


@given(st.lists(HOSTILE | SCRIPTS, min_size=1, max_size=6), st.integers(1, 6))
@example(["\u0301a", "ก\u200d\u0301\u0301a", "\u0e31ก\u0e31", "x\u0e31ก", "\u0301" * 300 + "\u0316" * 300], 1)
@example(["", "a", "İstanbul ΣΑΣ", "中文字 mixed 文", " .,! ", "a" * 200], 2)
@example(["The Quick_brown FOX jumped 0ver the lazy dog; " * 30], 5)
def test_shingles_are_the_oracles_bit_for_bit(texts: list[str], n: int) -> None:
    values, ends = shingles(*buffers(texts), folding(), n)
    mine = [values[a:b].tolist() for a, b in pairwise(ends)]
    assert mine == [oracles.hashes(text, n) for text in texts]
    for a, b in combinations(range(len(texts)), 2):
        shared = oracles.shingle_set(texts[a], n) & oracles.shingle_set(texts[b], n)
        assert len({*mine[a]} & {*mine[b]}) == len(shared)


@given(st.lists(HOSTILE, min_size=1, max_size=4), st.integers(1, 6), st.sampled_from([(1, 2), (3, 1), (4, 5)]))
@example([" ".join(f"w{k}" for k in range(2100)), "short", ""], 5, (4, 5))
def test_signatures_and_band_keys_are_the_oracles_bit_for_bit(
    texts: list[str], n: int, banding: tuple[int, int]
) -> None:
    bands, rows = banding
    chance = np.random.default_rng(3)
    factors = chance.integers(0, 1 << 32, bands * rows, np.uint32) | np.uint32(1)
    addends = chance.integers(0, 1 << 32, bands * rows, np.uint32)
    signed = signatures(*buffers(texts), folding(), n, read_only(factors), read_only(addends))
    expected = [oracles.signature(text, n, factors.tolist(), addends.tolist()) for text in texts]
    assert signed.tolist() == expected
    keys = band_keys(read_only(signed), bands, rows)
    assert keys.tolist() == [oracles.band_keys(one, bands, rows) for one in expected]


def test_a_single_hash_is_a_banding_too(tmp_path: Path) -> None:
    task = Task(stage="01-near_dedup", seed=0, index=3, count=4, folder=tmp_path, scratch=tmp_path)
    texts = ["one two three four five", "One, two; three - four. FIVE", "another text"]
    emitted = [emit.rows for emit in NearDedup(bands=1, rows=1)._sign(iter([oracles_.documents(texts)]), task)]
    rows = [row for batch in emitted if batch is not None for row in batch.to_pylist()]
    assert [row["ref"] for row in rows] == [3 << 32, (3 << 32) + 1, (3 << 32) + 2]
    assert rows[0]["key"] == rows[1]["key"] != rows[2]["key"]


@given(SCRIPTS | HOSTILE, st.sampled_from(["NFC", "NFD"]))
def test_all_canonical_forms_of_a_text_have_the_same_shingles(text: str, form: Literal["NFC", "NFD"]) -> None:
    values, ends = shingles(*buffers([text, unicodedata.normalize(form, text)]), folding(), 3)
    assert values[: ends[1]].tolist() == values[ends[1] :].tolist()


DIFFERENT = {
    "Hindi": ("मेरा दिल बड़ा है", "मेरी दाल बड़ी है", "मेरे दूल बड़े हो"),
    "Bengali": ("আমার দিন", "আমার দীন", "আমার দান"),
    "Tamil": ("படி", "பாடி", "பிடி", "பேடி"),
    "Telugu": ("పలు", "పాలు", "పిల్ల"),
    "Thai": ("ข่าวดี", "ข้าวดี", "ขาวดี"),
    "Lao": ("ເຂົ້າ", "ເຂົາ", "ເຂາ"),
    "Khmer": ("ខ្មែរ", "ខមរ", "ខ្មារ"),
    "Burmese": ("မြန်မာ", "မန်မာ", "မနမာ"),
    "Tibetan": ("བོད", "བད", "བུད"),
    "Hebrew": ("סֵפֶר", "סָפַר", "סַפָּר", "ספר"),
    "Arabic": ("كَتَبَ", "كُتِبَ", "كُتُب", "كتب"),
    "Vietnamese": ("ma", "má", "mà", "mạ", "mả", "mã"),
    "Yoruba": ("ọkọ", "ọkọ́", "ọkọ̀"),
}


@pytest.mark.parametrize("language", DIFFERENT)
def test_words_that_differ_in_a_mark_are_different(language: str) -> None:
    words = DIFFERENT[language]
    values, ends = shingles(*buffers([*words, *(unicodedata.normalize("NFD", word) for word in words)]), folding(), 5)
    sets = [tuple(values[a:b]) for a, b in pairwise(ends)]
    assert len(set(sets)) == len(words)
    assert sets[: len(words)] == sets[len(words) :]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("می\u200cخواهم", "میخواهم"),
        ("ක්\u200dෂ", "ක්ෂ"),
        ("co\u00adopt", "coopt"),
        ("שלום\u200f", "שלום"),
        ("葛\U000e0100", "葛"),
        ("葛\ufe00", "葛"),
    ],
)
def test_what_shows_nothing_does_not_count(one: str, other: str) -> None:
    values, _ = shingles(*buffers([one, other]), folding(), 5)
    assert len(values) == 2
    assert values[0] == values[1]


@pytest.mark.parametrize(("one", "other"), [("²", "2"), ("ﬁn", "fin"), ("Ａ", "A"), ("ｶ", "カ"), ("สระำ", "สระํา")])
def test_compatible_characters_are_different(one: str, other: str) -> None:
    values, ends = shingles(*buffers([one, other]), folding(), 9)
    assert values[: ends[1]].tolist() != values[ends[1] :].tolist()


def test_a_sliced_column_has_the_same_shingles() -> None:
    column = pa.array(["one two three", "", "四五六 seven eight nine ten", "last one of them all"], pa.large_string())
    values, ends = shingles(*text_buffers(column.slice(1, 2)), folding(), 2)
    whole = [oracles.hashes(text, 2) for text in ["", "四五六 seven eight nine ten"]]
    assert [values[a:b].tolist() for a, b in pairwise(ends)] == whole


def mixed(values: set[int]) -> list[int]:
    return sorted((x * 0x9E3779B97F4A7C15) % 2**64 for x in values)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 12), min_size=1)), max_size=14),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    st.sampled_from([(99, 999), (2, 999), (99, 12)]),
    st.integers(0, 14),
)
def test_the_survivor_is_the_exact_one_whatever_the_batches(
    rows: list[tuple[int, set[int]]], similarity: float, bounds: tuple[int, int], cut: int
) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    clusters, sets = [cluster for cluster, _ in rows], [mixed(values) for _, values in rows]
    expected = oracles.greedy([values for _, values in rows], clusters, similarity, *bounds)
    flat = np.array([x for one in sets for x in one], np.uint64)
    ends = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    groups = read_only(np.array(clusters, np.uint64))
    chosen, scores, blocks = survivors(read_only(flat), read_only(ends), groups, 0, similarity, *bounds)
    assert list(zip(chosen.tolist(), scores.tolist(), blocks.tolist(), strict=True)) == expected

    batches = [batch for batch in (candidates(rows[:cut], 0), candidates(rows[cut:], cut)) if len(batch)]
    decided = decided_rows(batches, similarity, bounds)
    assert decided == decided_rows([candidates(rows, 0)], similarity, bounds)
    assert {row["id"]: row["survivor"] for row in decided} == {str(k): str(e[0]) for k, e in enumerate(expected)}
    sizes = {row["id"]: row["group_size"] for row in decided if row["kept"]}
    assert sizes == {str(k): sum(e[0] == k for e in expected) for k, e in enumerate(expected) if e[0] == k}


def test_survivors_of_families_are_the_exact_ones() -> None:
    chance, joined = random.Random(1), 0
    for _ in range(400):
        families = [set(chance.sample(range(40), chance.randrange(1, 30))) for _ in range(3)]
        edits = [{chance.randrange(60) for _ in range(chance.randrange(6))} for _ in range(chance.randrange(1, 25))]
        sets = [chance.choice(families) ^ edit or {1} for edit in edits]
        clusters = sorted(chance.randrange(2) for _ in sets)
        similarity, bounds = (
            chance.choice([0.1, 0.5, 0.7, 0.8, 0.9, 1.0]),
            chance.choice([(3, 999), (99, 50), (99, 999)]),
        )
        flat = np.array([x for one in sets for x in mixed(one)], np.uint64)
        ends = np.cumsum([0, *map(len, sets)]).astype(np.int64)
        groups = read_only(np.array(clusters, np.uint64))
        found = [x.tolist() for x in survivors(read_only(flat), read_only(ends), groups, 0, similarity, *bounds)]
        assert list(zip(*found, strict=True)) == oracles.greedy(sets, clusters, similarity, *bounds)
        joined += sum(survivor != k for k, survivor in enumerate(found[0]))
    assert joined > 1000


def candidates(rows: Sequence[tuple[int, set[int]]], first: int) -> pa.RecordBatch:
    numbers = range(first, first + len(rows))
    found = [
        {"key": c, "rank": k, "ref": k, "cluster": c, "id": str(k), "shingles": mixed(values)}
        for k, (c, values) in zip(numbers, rows, strict=True)
    ]
    return pa.RecordBatch.from_pylist(found, schema=CANDIDATE)


def decided_rows(batches: list[pa.RecordBatch], similarity: float, bounds: tuple[int, int]) -> list[dict[str, object]]:
    emitted = decide(iter(batches), similarity, bounds[0], bounds[1] * 8)
    return [row for emit in emitted if emit.rows is not None for row in emit.rows.to_pylist()]


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), max_size=4))
@example([[(k, k + 1) for k in range(0, 4000, 2)], [(1, 3999)], [(k, k + 1) for k in range(1, 4000, 2)]])
def test_components_are_those_of_flooding(pieces: list[list[tuple[int, int]]]) -> None:
    table, count = empty(2), 0
    for piece in pieces:
        left, right = (read_only(np.array([edge[k] for edge in piece], np.uint64)) for k in (0, 1))
        table, count = join(table, count, left, right)
    nodes, roots = components(table)
    expected = chain(4001) if pieces and len(pieces[0]) > 100 else oracles.components([e for p in pieces for e in p])
    assert list(zip(nodes.tolist(), roots.tolist(), strict=True)) == expected
    assert count == len(expected)


def chain(n: int) -> list[tuple[int, int]]:
    return [(k, 0) for k in range(n)]


@pytest.mark.parametrize("hashes", [2, 7, 64, 128, 200])
def test_the_banding_is_the_one_that_datasketch_finds(hashes: int) -> None:
    for similarity in (0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0):
        bands, rows = optimal_banding(similarity, hashes)
        if bands == 1:  # which datasketch does not take
            with pytest.raises(ValueError, match="number of bands"):
                MinHashLSH(threshold=similarity, num_perm=hashes, weights=WEIGHTS)
            continue
        index = MinHashLSH(threshold=similarity, num_perm=hashes, weights=WEIGHTS)
        assert (bands, rows) == (index.b, index.r)


def test_the_default_banding_finds_what_it_should() -> None:
    bands, rows = optimal_banding(0.8, 128)
    assert bands * rows <= 128
    assert 1 - (1 - 0.8**rows) ** bands > 0.97
    assert NearDedup(preset="14x8").banding() == (14, 8)
    with pytest.raises(ValueError, match="both bands and rows"):
        NearDedup(bands=3)


def corpus(seed: int) -> list[str]:
    """Documents with families of edited copies, short ones, empty ones, and Chinese and Thai ones among them."""
    chance = random.Random(seed)
    texts = []
    for family in range(40):
        base = [f"w{chance.randrange(5000)}" for _ in range(chance.choice([1, 3, 60, 200]))]
        for _ in range(chance.randrange(1, 6)):
            copy = [w if chance.random() > 0.02 else f"x{chance.randrange(99)}" for w in base]
            texts.append(" ".join(copy))
        script = 0x4E00 if family % 8 else 0x0E01
        run = "".join(chr(script + chance.randrange(40 if family % 8 == 0 else 500)) for _ in range(80))
        texts += [run, run[:-1] + "。"] if family % 4 == 0 else []
    texts += ["", "", "!?", "! ?", "..."]
    chance.shuffle(texts)
    return texts


def write_shards(folder: Path, texts: Sequence[str], shards: int) -> dict[str, str]:
    """Texts dealt out to input files: id → text."""
    by_id = {}
    for shard in range(shards):
        part = [{"id": f"{shard}-{k:04}", "text": t} for k, t in enumerate(texts[shard::shards])]
        by_id.update({row["id"]: row["text"] for row in part})
        pq.write_table(pa.Table.from_pylist(part), folder / f"in-{shard}.parquet")
    return by_id


def read_rows(paths: Iterator[Path]) -> list[dict[str, object]]:
    return [row for path in sorted(paths) for row in pq.read_table(path).to_pylist()]


def test_the_stage_removes_what_is_similar_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    texts = write_shards(tmp_path, corpus(5), 3)
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = cli("run", "r.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/r/02-near_dedup"
    drops, rows = read_rows(stage.glob("drops/*.parquet")), read_rows(stage.glob("part-*.parquet"))
    kept = {row["id"]: row["near_dedup"]["group_size"] for row in rows}
    sets = {i: oracles.shingle_set(text, 5) for i, text in texts.items()}
    for row in drops:
        exact = oracles.jaccard(sets[row["id"]], sets[row["duplicate_of"]])
        assert row["duplicate_of"] in kept
        assert exact >= 0.8
        assert abs(exact - row["similarity"]) < 1e-6
    pairs = [(a, b) for a, b in combinations(sets, 2) if oracles.jaccard(sets[a], sets[b]) >= 0.8]
    both = [pair for pair in pairs if pair[0] in kept and pair[1] in kept]
    assert len(pairs) > 40
    assert len(both) <= 0.01 * len(pairs)
    assert sum(kept.values()) == len(texts)
    assert {i for i in kept if not texts[i]} != {i for i, text in texts.items() if not text}, "empty ones are equal"
    table = read_rows(stage.glob("clusters/*.parquet"))
    assert {row["id"] for row in table if not row["kept"]} == {row["id"] for row in drops}
    assert {row["id"]: row["group_size"] for row in table if row["kept"]}.items() <= kept.items()
    assert cli("verify", "runs/r").returncode == 0
    assert "near_duplicate" in cli("explain", "runs/r", drops[0]["id"]).stdout
    assert cli("run", "r.yaml", "--workers", "2", "--out", "two").returncode == 0
    assert digest(tmp_path / "two") == digest(tmp_path / "runs/r")


def test_without_verification_candidacy_is_enough(cli: Cli, tmp_path: Path) -> None:
    texts = write_shards(tmp_path, corpus(6), 2)
    banding = "    bands: 60\n    rows: 1\n"
    for name, more in (("raw", "    verify: false\n"), ("sure", "")):
        (tmp_path / f"{name}.yaml").write_text(RECIPE + banding + more)
        assert cli("run", f"{name}.yaml", "--out", name).returncode == 0
    raw, sure = (read_rows((tmp_path / name / "02-near_dedup").glob("drops/*")) for name in ("raw", "sure"))
    assert {row["id"] for row in sure} < {row["id"] for row in raw}
    sets = {i: oracles.shingle_set(text, 5) for i, text in texts.items()}
    assert any(oracles.jaccard(sets[row["id"]], sets[row["duplicate_of"]]) < 0.8 for row in raw)
    assert {row["similarity"] for row in raw} == {None}
    told = cli("explain", "raw", raw[0]["id"])
    assert told.returncode == 0, told.stderr
    assert "broke near_duplicate: limit 0.8" in told.stdout


def test_the_longest_of_a_group_may_stay(cli: Cli, tmp_path: Path) -> None:
    words = [f"w{k}" for k in range(200)]
    write_shards(tmp_path, [" ".join(words[:190]), " ".join(words), " ".join(words[:195])], 1)
    (tmp_path / "r.yaml").write_text(RECIPE + "    keep: longest\n")
    assert cli("run", "r.yaml").returncode == 0
    kept = read_rows((tmp_path / "runs/r/02-near_dedup").glob("part-*"))
    assert [(row["id"], row["near_dedup"]["group_size"]) for row in kept] == [("0-0001", 3)]


def test_a_cluster_with_too_many_survivors_is_cut_and_counted() -> None:
    rows = [(7, {0, 1, *range(100 * k, 100 * k + 3)}) for k in range(1, 41)]
    emits = list(decide(iter([candidates(rows[:15], 0), candidates(rows[15:], 15)]), 0.8, 10))
    assert sum(emit.counters.get("clusters_cut", 0) for emit in emits) == 3
    assert sum(emit.counters.get("candidates", 0) for emit in emits) == 40
    assert sum(emit.counters.get("removed", 0) for emit in emits) == 0
    assert near_dedup_verify.SURVIVOR_BYTES >= 1 << 20


def test_a_giant_template_cluster_is_decided_without_loss(cli: Cli, tmp_path: Path) -> None:
    same = " ".join(f"t{j}" for j in range(300))  # a quarter of each text, so all are candidates by any hashes
    texts = [f"{same} {' '.join(f'u{k}n{j}' for j in range(900))}" for k in range(40)]
    write_shards(tmp_path, [*texts, texts[3]], 1)
    (tmp_path / "r.yaml").write_text(RECIPE + "    bands: 40\n    rows: 1\n    max_survivors: 8\n")
    done = cli("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/r/02-near_dedup"
    counters = json.loads((stage / "_manifest.json").read_text())["counters"]
    assert counters["candidates"] == 41
    assert counters["clusters_cut"] == 5
    assert len(pq.read_table(stage / "part-00000.parquet")) == 41, "they share a template; the copy is in another block"
