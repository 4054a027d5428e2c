"""near_dedup against datatrove's MinHash chain and rensa: near_dedup.py CORPORA [--peer-python PYTHON].

The first documents of CORPORA/neardup_truth/subset.parquet go through each in turn, on one core; the peers' Python has
`datatrove[processing] spacy rensa`. datatrove: its four steps with 14 × 8 hashes, its defaults, once, since it takes
minutes. rensa: RMinHashDeduplicator at 0.8 with 128 hashes over word 5-grams made in Python, as it has no shingling of
its own. Recall is the share of known pairs of Jaccard ≥ 0.8 that end with at most one side kept; a false removal has no
known pair ≥ 0.8 with any kept document.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE = "stages:\n  - {{use: ingest, inputs: ['{path}'], id_field: id}}\n  - use: near_dedup\n"
LIMIT = 0.8


def datatrove(folder: Path) -> dict[str, Any]:
    """datatrove's MinHash chain over `folder/docs.parquet`: CPU seconds and the ids kept."""
    import pyarrow.parquet as pq
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config, work = MinhashConfig(), folder / "datatrove"
    read = ParquetReader(str(folder), glob_pattern="docs.parquet")
    chain = {
        "sign": ([read, MinhashDedupSignature(str(work / "sign"), config)], 1),
        "buckets": ([MinhashDedupBuckets(str(work / "sign"), str(work / "buckets"), config=config)], 14),
        "cluster": ([MinhashDedupCluster(str(work / "buckets"), str(work / "cluster"), config=config)], 1),
        "filter": ([read, MinhashDedupFilter(str(work / "cluster")), ParquetWriter(str(work / "out"))], 1),
    }
    warm = MinhashDedupSignature(str(work / "warm"), config)
    warm.word_tokenizer.word_tokenize("spaCy builds its rules on first use.")
    begun = time.process_time()
    for name, (steps, tasks) in chain.items():
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(work / f"log-{name}")).run()
    cost = time.process_time() - begun
    kept = [i for path in (work / "out").glob("*.parquet") for i in pq.read_table(path)["id"].to_pylist()]
    return {"seconds": cost, "kept": kept}


def rensa(folder: Path) -> dict[str, Any]:
    """rensa's deduplicator over `folder/docs.parquet`, kept documents written: CPU seconds and the ids kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from rensa import RMinHash, RMinHashDeduplicator

    pa.set_cpu_count(1)
    begun = time.process_time()
    table = pq.read_table(folder / "docs.parquet")
    seen, mask = RMinHashDeduplicator(LIMIT, 128, True), []
    for key, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
        words = re.findall(r"\w+", text.lower())
        sketch = RMinHash(128, 42)
        sketch.update([" ".join(words[k : k + 5]) for k in range(max(1, len(words) - 4))])
        mask.append(seen.add(key, sketch))
    kept = table.filter(pa.array(mask))
    pq.write_table(kept, folder / "kept.parquet", compression="zstd", compression_level=1)
    return {"seconds": time.process_time() - begun, "kept": kept["id"].to_pylist()}


def main() -> None:
    """Runs and prints; in the peers' Python, as `--peer NAME FOLDER`, one round of a peer."""
    if sys.argv[1:2] == ["--peer"]:
        print(json.dumps({"datatrove": datatrove, "rensa": rensa}[sys.argv[2]](Path(sys.argv[3]))))
        return
    from benchmarks.harness import arguments, show

    given = arguments(__doc__ or "", megabytes=88)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Any]:
    """A row for each peer; then what signing alone does."""
    from statistics import median

    import pyarrow.parquet as pq

    from benchmarks.dedup_rounds import copying, kept_ids, peer, rounds, run, sample, seconds
    from benchmarks.harness import Measure, Row, batches, bench_task, megabytes, timed
    from stages.near_dedup import NearDedup

    truth = given.corpora / "neardup_truth"
    columns = pq.read_table(truth / "pairs.parquet").to_pydict()
    pairs = {(a, b): j for a, b, j in zip(columns["id_a"], columns["id_b"], columns["jaccard"], strict=True)}
    held = Path(tempfile.mkdtemp())
    docs = sample(truth / "subset.parquet", given.megabytes, held / "docs.parquet")
    table = pq.read_table(docs)
    texts, ids = table["text"].to_pylist(), set(table["id"].to_pylist())
    size = megabytes(texts)

    def ours(folder: Path) -> dict[str, Any]:
        cost, stage = run(RECIPE.format(path=docs), folder / "run")
        copied = copying(stage.parent / "01-ingest", folder / "copy")
        return {"seconds": cost, "kept": kept_ids(stage), "copying": copied}

    def other(name: str, folder: Path) -> dict[str, Any]:
        (folder / "docs.parquet").symlink_to(docs)
        return peer(given.peer_python, Path(__file__), name, folder)

    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))  # compiles, and fills the page cache
    peers = ("datatrove", "rensa")
    contenders = {name: lambda folder, name=name: other(name, folder) for name in peers}
    turns = {"ours": given.turns, "datatrove": 1, "rensa": given.turns}
    found = rounds(turns, {"ours": ours, **contenders})
    disk = median(one["copying"] for one in found["ours"])
    mine = judge(set(found["ours"][0]["kept"]), ids, pairs)
    for name in peers:
        answers = f"ours {mine}; {name} {judge(set(found[name][0]['kept']), ids, pairs)}"
        yield Row(
            "near_dedup", "neardup_truth", size, name, seconds(found["ours"]), seconds(found[name]), answers, disk
        )
    task, read = bench_task(), batches(texts)
    signed = median(timed(lambda: list(NearDedup()._sign(iter(read), task))) for _ in range(given.turns))
    yield Measure("signatures and their bands", "neardup_truth", f"{size / signed:,.0f} MB/s", "at least 150 MB/s")


def judge(kept: set[str], ids: set[str], pairs: dict[tuple[str, str], float]) -> str:
    """Recall and false removals by the known pairs."""
    inside = [(a, b) for (a, b), j in pairs.items() if j >= LIMIT and a in ids and b in ids]
    apart = sum(not (a in kept and b in kept) for a, b in inside)
    linked = {x for a, b in inside for x, y in ((a, b), (b, a)) if y in kept}
    gone = ids - kept
    recall = f"{apart / len(inside):.4f}" if inside else "of no pairs"
    return f"removed {len(gone):,}, recall {recall}, {len(gone - linked):,} false"


if __name__ == "__main__":
    main()
