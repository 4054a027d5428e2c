"""Near-duplicates against known pairs: near_dedup_truth.py CORPORA [RUN].

CORPORA/neardup_truth holds `subset.parquet` (id, text) and `pairs.parquet` (id_a, id_b, jaccard ≥ 0.5, brute force over
lower-cased `\\w+` word 5-grams). Runs exact_dedup and near_dedup at 0.8 into RUN and prints recall and false removals.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

RECIPE = """\
stages:
  - use: ingest
    inputs: [{path}]
    id_field: id
  - use: exact_dedup
  - use: near_dedup
"""


def main() -> None:
    """Runs and prints."""
    truth = Path(sys.argv[1]).resolve() / "neardup_truth"
    out = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()) / "run"
    recipe = out.parent / "near.yaml"
    recipe.write_text(RECIPE.format(path=truth / "subset.parquet"))
    subprocess.run([sys.executable, "-m", "pipeline.cli", "run", recipe, "--out", out], check=True)
    columns = pq.read_table(truth / "pairs.parquet").to_pydict()
    exact = {(a, b): j for a, b, j in zip(columns["id_a"], columns["id_b"], columns["jaccard"], strict=True)}
    stage = out / "03-near_dedup"
    kept = {i for path in stage.glob("part-*.parquet") for i in pq.read_table(path)["id"].to_pylist()}
    for limit in (0.8, 0.9):
        pairs = [pair for pair, j in exact.items() if j >= limit]
        apart = sum(not (a in kept and b in kept) for a, b in pairs)
        print(f"recall at {limit}: {apart / len(pairs):.4f} of {len(pairs):,} pairs")
    drops = [row for path in stage.glob("drops/*.parquet") for row in pq.read_table(path).to_pylist()]
    pairs_of = [(row["id"], row["duplicate_of"]) for row in drops]
    low = [p for p in pairs_of if max(exact.get(p, 0), exact.get(p[::-1], 0)) < 0.8]
    print(f"removed {len(drops):,}, of them {len(low)} under 0.8 by the truth's shingles; kept {len(kept):,}")


main()
