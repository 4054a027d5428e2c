"""The chain against datatrove's, whole commands: chain.py CORPORA TOKENIZER [--peer-python PYTHON].

Both read the same Parquet file and a tokenizer.json, repair text, judge it by the four English rule sets, remove
near-duplicates (14 bands of 8) and write tokens; Gristmill also labels languages and packs. One process each, pinned to
one core; CPU seconds of all that the command starts. Gristmill runs once with every stage's shards kept, once fused.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, arguments, documents, megabytes, show

RECIPE = """\
intermediates: {how}
stages:
  - use: ingest
    inputs: ["{path}"]
    id_field: id
  - use: clean
  - use: language
  - use: quality
  - use: near_dedup
    preset: 14x8
  - use: pack
    tokenizer: "{tokenizer}"
"""
PEER = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import ParquetWriter

source, out, tokenizer = sys.argv[1:]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
chains = [
    [
        ParquetReader(source), FTFYFormatter(), GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(),
        FineWebQualityFilter(), ParquetWriter(out + "/filtered"),
    ],
    [ParquetReader(out + "/filtered"), MinhashDedupSignature(out + "/signatures", config=config)],
    [MinhashDedupBuckets(out + "/signatures", out + "/buckets", config=config)],
    [MinhashDedupCluster(out + "/buckets", out + "/remove", config=config)],
    [
        ParquetReader(out + "/filtered"), MinhashDedupFilter(out + "/remove"),
        DocumentTokenizer(out + "/tokens", tokenizer_name_or_path=tokenizer, local_working_dir=out + "/work"),
    ],
]
for k, chain in enumerate(chains):
    tasks = config.num_buckets if k == 2 else 1
    LocalPipelineExecutor(chain, tasks=tasks, workers=1, logging_dir=f"{out}/logs{k}").run()
"""


def main() -> None:
    """Runs and prints."""
    tokenizer = Path(sys.argv.pop(2)).resolve()
    given = arguments(__doc__ or "")
    show(given, rows(given, tokenizer))


def rows(given: argparse.Namespace, tokenizer: Path) -> Iterator[Row]:
    """Two rows: shards kept, and fused."""
    texts = documents(given.corpora, "english", given.megabytes)
    folder = Path(tempfile.mkdtemp())
    (folder / "in").mkdir()
    columns = {"id": [str(k) for k in range(len(texts))], "text": texts}
    pq.write_table(pa.table(columns), folder / "in/documents.parquet", row_group_size=1000)
    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    theirs = cpu([given.peer_python, "-c", PEER, folder / "in", folder / "peer", file])
    for how in ("keep", "fuse"):
        recipe = folder / f"{how}.yaml"
        recipe.write_text(RECIPE.format(how=how, path=folder / "in/documents.parquet", tokenizer=file))
        command = [sys.executable, "-m", "pipeline.cli", "run", recipe, "--workers", 1, "--quiet", "--out"]
        ours = [cpu([*command, folder / f"{how}-{turn}"]) for turn in range(3)]
        kept = sum(pq.read_metadata(path).num_rows for path in (folder / "keep-0/05-near_dedup").glob("*.parquet"))
        answers = f"ours keeps {kept:,} of {len(texts):,} documents"
        yield Row(f"chain, {how}", "english", megabytes(texts), "datatrove", ours, [theirs], answers)


def cpu(command: Sequence[object]) -> float:
    """CPU seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
