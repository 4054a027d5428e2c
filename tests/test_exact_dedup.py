"""Exact duplicates: the first of equal content stays, whatever shards and batches it came in."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli

RECIPE = """\
stages:
  - use: ingest
    inputs: ["in-*.parquet"]
    id_field: id
  - use: exact_dedup
    normalise: {normalise}
"""


@pytest.mark.parametrize(
    ("normalise", "kept"),
    [("none", "abcdefg"), ("whitespace", "abdefg"), ("text", "abfg")],
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
    ]
    shards = [rows[:2], rows[2:5], [*rows[5:], ("again", "three")]]
    for k, shard in enumerate(shards):
        table = pa.table({"id": [i for i, _ in shard], "text": [t for _, t in shard]})
        pq.write_table(table, tmp_path / f"in-{k}.parquet")
    (tmp_path / "r.yaml").write_text(RECIPE.format(normalise=normalise))
    done = cli("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/run/02-exact_dedup"
    ids = [i for p in sorted(stage.glob("part-*.parquet")) for i in pq.read_table(p)["id"].to_pylist()]
    assert "".join(ids) == kept
    drops = [row for p in sorted(stage.glob("drops/*.parquet")) for row in pq.read_table(p).to_pylist()]
    assert {row["id"]: row["duplicate_of"] for row in drops}["again"] == "b"


def test_a_group_larger_than_a_batch_keeps_one(cli: Cli, tmp_path: Path) -> None:
    n = 30_000
    pq.write_table(pa.table({"id": [f"{k:06}" for k in range(n)], "text": ["same"] * n}), tmp_path / "in-0.parquet")
    (tmp_path / "r.yaml").write_text(RECIPE.format(normalise="none"))
    assert cli("run", "r.yaml").returncode == 0
    stage = tmp_path / "runs/run/02-exact_dedup"
    assert pq.read_table(stage / "part-00000.parquet")["id"].to_pylist() == ["000000"]
    assert set(pq.read_table(stage / "drops/part-00000.parquet")["duplicate_of"].to_pylist()) == {"000000"}
