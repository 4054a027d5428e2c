"""Near-duplicates: kernels against their twins, and the whole stage against the exact answer."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.kernels.arrow import read_only, text_buffers
from stages.kernels.components import components
from stages.kernels.minhash import distinct, folding, shingles, survivors
from stages.near_dedup import NearDedup, optimal_banding
from tests import oracles
from tests.conftest import Cli

HOSTILE = st.text(
    st.sampled_from("ab Ａé中文ไทยか_9,.\u0301\u200d𠀀😀İΣ\x00\n\t") | st.characters(codec="utf-8"), max_size=60
)


def hashed(texts: list[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    values, ends = distinct(*shingles(data, offsets, folding(), n))
    return read_only(values), read_only(ends)


@given(st.lists(HOSTILE, min_size=1, max_size=6), st.integers(1, 6))
@example(["", "a", "İstanbul ΣΑΣ", "中文字 mixed 文"], 2)
@settings(deadline=None)
def test_two_texts_share_shingles_as_their_sets_do(texts: list[str], n: int) -> None:
    values, ends = hashed(texts, n)
    sets = [oracles.shingle_set(text, n) for text in texts]
    mine = [set(values[a:b].tolist()) for a, b in pairwise(ends)]
    assert [len(s) for s in mine] == [len(s) for s in sets]
    for a in range(len(texts)):
        for b in range(a):
            assert len(mine[a] & mine[b]) == len(sets[a] & sets[b])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 12), min_size=1)), max_size=14),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
@settings(deadline=None)
def test_the_survivor_is_the_exact_one(rows: list[tuple[int, set[int]]], similarity: float) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    clusters = [cluster for cluster, _ in rows]
    mixed = [sorted((x * 0x9E3779B97F4A7C15) % 2**64 for x in values) for _, values in rows]
    flat = np.array([x for one in mixed for x in one], np.uint64)
    ends = np.cumsum([0, *map(len, mixed)]).astype(np.int64)
    chosen, scores = survivors(read_only(flat), read_only(ends), read_only(np.array(clusters, np.uint64)), similarity)
    sets = [{(str(x),) for x in values} for _, values in rows]
    assert chosen.tolist() == oracles.greedy(sets, clusters, similarity)
    assert scores.tolist() == [oracles.jaccard(sets[k], sets[j]) for k, j in enumerate(chosen.tolist())]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
@settings(deadline=None)
def test_components_are_those_of_flooding(edges: list[tuple[int, int]]) -> None:
    left, right = (np.array([e[k] for e in edges], np.int64) for k in (0, 1))
    assert components(10, read_only(left), read_only(right)).tolist() == oracles.components(10, edges)


def test_the_default_banding_finds_what_it_should() -> None:
    bands, rows = optimal_banding(0.8, 128)
    assert bands * rows <= 128
    assert 1 - (1 - 0.8**rows) ** bands > 0.94
    assert NearDedup(preset="14x8").banding() == (14, 8)


def corpus(seed: int) -> list[str]:
    """Documents with families of edited copies, short ones and Chinese ones among them."""
    chance = random.Random(seed)
    texts = []
    for family in range(40):
        base = [f"w{chance.randrange(5000)}" for _ in range(chance.choice([1, 3, 60, 200]))]
        for _ in range(chance.randrange(1, 6)):
            copy = [w if chance.random() > 0.02 else f"x{chance.randrange(99)}" for w in base]
            texts.append(" ".join(copy))
        zh = "".join(chr(0x4E00 + chance.randrange(500)) for _ in range(80))
        texts += [zh, zh[:-1] + "。"] if family % 4 == 0 else []
    chance.shuffle(texts)
    return texts


def test_the_stage_removes_what_is_similar_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    texts = corpus(5)
    for shard in range(3):
        part = [{"id": f"{shard}-{k}", "text": t} for k, t in enumerate(texts[shard::3])]
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"in-{shard}.parquet")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stages:\n  - use: ingest\n    inputs: ['in-*.parquet']\n    id_field: id\n  - use: near_dedup\n")
    done = cli("run", recipe)
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/run/02-near_dedup"
    drops = pa.concat_tables(pq.read_table(p) for p in sorted(stage.glob("drops/*.parquet"))).to_pylist()
    kept = {i for p in stage.glob("part-*.parquet") for i in pq.read_table(p)["id"].to_pylist()}
    sets = {f"{s}-{k}": oracles.shingle_set(t, 5) for s in range(3) for k, t in enumerate(texts[s::3])}
    for row in drops:
        exact = oracles.jaccard(sets[row["id"]], sets[row["duplicate_of"]])
        assert row["duplicate_of"] in kept
        assert exact >= 0.8
        assert abs(exact - row["similarity"]) < 1e-6
    pairs = [(a, b) for a in sets for b in sets if a < b and oracles.jaccard(sets[a], sets[b]) >= 0.8]
    both = [pair for pair in pairs if pair[0] in kept and pair[1] in kept]
    assert len(pairs) > 40
    assert len(both) <= 0.01 * len(pairs)
    assert cli("verify", "runs/run").returncode == 0
    assert "near_duplicate" in cli("explain", "runs/run", drops[0]["id"]).stdout


def test_a_giant_cluster_is_cut_and_counted(cli: Cli, tmp_path: Path) -> None:
    same = "one two three four five six seven eight nine ten " * 2000
    rows = [{"id": str(k), "text": f"{same} {' '.join(f'u{k}n{j}' for j in range(9000))}"} for k in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "stages:\n  - use: ingest\n    inputs: [in.parquet]\n    id_field: id\n"
        "  - use: near_dedup\n    bands: 40\n    rows: 1\n    block_bytes: 1048576\n"
    )
    done = cli("run", recipe)
    assert done.returncode == 0, done.stderr
    shown = pq.read_table(tmp_path / "runs/run/02-near_dedup/part-00000.parquet")
    assert len(shown) == 40, "they share a template, not their text"
