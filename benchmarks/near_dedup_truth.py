"""Near-duplicates against known pairs: near_dedup_truth.py CORPORA [RUN].

CORPORA/neardup_truth holds `subset.parquet` (id, text) and `pairs.parquet` (id_a, id_b, jaccard ≥ 0.5, brute force over
lower-cased `\\w+` word 5-grams). Runs exact_dedup and near_dedup at 0.8 into RUN; prints recall, and of how many
removals the Jaccard, worked out again here, is under the limit: by the truth's shingles, and by the stage's, those of
the slow twin in the tests. They differ in two things. To the truth a run of Chinese is one word, however long, so it
leaves out documents labelled as of scripts without spaces; a few without a label are in it. To the stage each character
of these scripts is a word, and combining marks are parts of words.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.oracles_near_dedup import jaccard, shingle_set

LIMIT = 0.8
RECIPE = """\
stages:
  - use: ingest
    inputs: [{path}]
    id_field: id
  - use: exact_dedup
  - use: near_dedup
    similarity: {limit}
"""


def shingles(text: str) -> set[tuple[str, ...]]:
    """The truth's: 5 lower-cased `\\w+` words in a row; all of them where there are fewer."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))}


def rows(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The rows of all shards that match."""
    return [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def main() -> None:
    """Runs and prints; exit code 1 where recall is under 0.99 or a removal is false."""
    truth = Path(sys.argv[1]).resolve() / "neardup_truth"
    out = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()) / "run"
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe = out.parent / "near.yaml"
    recipe.write_text(RECIPE.format(path=truth / "subset.parquet", limit=LIMIT))
    subprocess.run([sys.executable, "-m", "pipeline.cli", "run", recipe, "--out", out], check=True)
    columns = pq.read_table(truth / "pairs.parquet").to_pydict()
    exact = {(a, b): j for a, b, j in zip(columns["id_a"], columns["id_b"], columns["jaccard"], strict=True)}
    stage = out / "03-near_dedup"
    kept = {row["id"] for row in rows(stage, "part-*.parquet")}
    recall = {}
    for limit in (LIMIT, 0.9):
        pairs = [pair for pair, j in exact.items() if j >= limit]
        recall[limit] = sum(not (a in kept and b in kept) for a, b in pairs) / len(pairs)
        print(f"recall at {limit}: {recall[limit]:.4f} of {len(pairs):,} pairs")
    text = {row["id"]: row["text"] for row in rows(truth, "subset.parquet")}
    drops, alike, unlike, furthest = rows(stage, "drops/*.parquet"), [], [], 0.0
    for row in drops:
        one, other = text[row["id"]], text[row["duplicate_of"]]
        scores = jaccard(shingles(one), shingles(other)), jaccard(shingle_set(one, 5), shingle_set(other, 5))
        (alike if scores[0] == scores[1] else unlike).append(scores)
        furthest = max(furthest, abs(scores[1] - row["similarity"]))
    low = [sum(score[k] < LIMIT for score in alike + unlike) for k in (0, 1)]
    print(
        f"kept {len(kept):,}, removed {len(drops):,}, {len(unlike)} of them of another Jaccard by the stage's shingles"
    )
    print(f"removals under {LIMIT} by the truth's shingles: {low[0]}; by the stage's: {low[1]}")
    print(f"the similarity written is at most {furthest:.1e} from that of these shingles")
    sys.exit(recall[LIMIT] < 0.99 or low[1] > 0)


main()
