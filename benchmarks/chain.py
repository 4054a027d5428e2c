"""The chain against datatrove's, whole commands: chain.py CORPORA [--peer-python PYTHON] [--tokenizer TOKENIZER].

Both read the same Parquet file and a tokenizer.json, repair text, label languages by py3langid's model, judge by the
four English rule sets, remove near-duplicates (14 bands of 8) and write tokens; Gristmill also packs. One process each,
pinned to one core; CPU seconds of all that the command starts, imports too. datatrove runs once, as it takes minutes;
its own language filter fetches a model, so it calls py3langid here. Gristmill runs with every stage's shards kept, then
fused, then fused with documents scored until they break a rule, as datatrove's filters do; all three must write the
same bytes. It runs as often before datatrove as after it, since a machine's speed may change; then on a single
document, which shows what starting costs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks.harness import Measure, Row, arguments, documents, megabytes, show, tokenizer, write
from pipeline.engines.processes import ONE_THREAD

WANTED = {"keep": 40, "fuse": 100, "fuse, until_broken": 100}
RECIPE = """\
intermediates: {how}
stages:
  - use: ingest
    inputs: ["{path}"]
    id_field: id
  - use: clean
  - use: language
  - use: quality
    scores: {scores}
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
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter, LambdaFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import ParquetWriter
from py3langid.langid import MODEL_FILE, LanguageIdentifier

source, out, tokenizer = sys.argv[1:]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

def label(doc):
    doc.metadata["language"], score = model.classify(doc.text)
    doc.metadata["language_score"] = float(score)
    return True

chains = [
    [
        ParquetReader(source), FTFYFormatter(), LambdaFilter(label), GopherRepetitionFilter(), GopherQualityFilter(),
        C4QualityFilter(), FineWebQualityFilter(), ParquetWriter(out + "/filtered"),
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
    given = arguments(__doc__ or "", megabytes=320, encodes=True)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row | Measure]:
    """Three rows: shards kept, fused, and scored no further than needed; then where our time went."""
    texts, file = documents(given.corpora, "english", given.megabytes), tokenizer(given)
    folder = Path(tempfile.mkdtemp())
    docs, one = write(texts, folder / "in/documents.parquet"), write(texts[:1], folder / "one/documents.parquet")
    for how in WANTED:
        ours(one, how, file, folder)  # compiles, and fills the page cache
    before = {how: [ours(docs, how, file, folder) for _ in range(given.turns)] for how in WANTED}
    theirs = cpu([given.peer_python, "-c", PEER, folder / "in", folder / "peer", file])
    details, packed = [], set[bytes]()
    for how, wanted in WANTED.items():
        runs = before[how] + [ours(docs, how, file, folder) for _ in range(given.turns)]
        packed.add(b"".join(path.read_bytes() for path in sorted((folder / "run").glob("*-pack/**/*.parquet"))))
        if len(packed) > 1:
            raise SystemExit(f"{how}: other bytes than with shards kept")
        kept = sum(path.rows for path in rows_of(folder / "run/05-near_dedup"))
        other = sum(pq.read_metadata(path).num_rows for path in (folder / "peer/filtered").glob("*.parquet"))
        answers = f"by the rules and near_dedup ours keeps {kept:,} of {len(texts):,}, by its filters alone the peer "
        answers += f"{other:,}; wanted: {wanted} ×"
        yield Row(f"chain, {how}", "english", megabytes(texts), "datatrove", runs, [theirs], answers)
        start = median(ours(one, how, file, folder / "start") for _ in range(given.turns))
        details.append(
            Measure(f"CPU seconds, {how}", "english", spent(folder / "run", runs[-1], start, megabytes(texts)))
        )
    yield from details
    shutil.rmtree(folder)


def ours(docs: Path, how: str, file: Path, folder: Path) -> float:
    """CPU seconds of our command on a Parquet file; its run is left in `folder`/run."""
    folder.mkdir(exist_ok=True)
    recipe, (shards, _, scores) = folder / "recipe.yaml", how.partition(", ")
    recipe.write_text(RECIPE.format(how=shards, scores=scores or "all", path=docs, tokenizer=file))
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, "-m", "pipeline.cli", "run", recipe, "--workers", 1, "--quiet", "--out", folder / "run"]
    return cpu(command)


def rows_of(stage: Path) -> list[argparse.Namespace]:
    """The shards that a stage's manifest lists."""
    manifest = json.loads((stage / "_manifest.json").read_text())
    return [argparse.Namespace(**file) for file in manifest["files"].get("rows", [])]


def spent(run: Path, whole: float, start: float, size: float) -> str:
    """Where a run's CPU seconds went: each stage by its events, and of it all what a run of one document costs.

    size: MB of text.
    """
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    stages = {event["stage"]: event["cpu_seconds"] for event in events if event["event"] == "StageDone"}
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items())
    return (
        f"{whole:.2f}: {parts}, outside stages {whole - sum(stages.values()):.2f}; "
        f"a run of one document takes {start:.2f}, beyond which {size / (whole - start):.1f} MB take a second"
    )


def cpu(command: Sequence[object]) -> float:
    """CPU seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = {**os.environ, **ONE_THREAD, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
