"""near_dedup against datatrove's MinHash chain and rensa: near_dedup.py CORPORA [--peers PY].

The first documents of CORPORA/neardup_truth/subset.parquet go through each in turn, on one core. PY is the python of a
venv with `datatrove[processing] spacy rensa`; without it we run alone. datatrove: its four steps with 14 × 8 hashes,
its defaults. rensa: RMinHashDeduplicator at 0.8 with 128 hashes over word 5-grams made in Python, as it has no
shingling of its own. Recall is the share of known pairs of Jaccard ≥ 0.8 that end with at most one side kept; a false
removal has no known pair ≥ 0.8 with any kept document.
"""

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = "stages:\n  - {{use: ingest, inputs: [{path}], id_field: id}}\n  - use: near_dedup\n"
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


def judge(kept: set[str], ids: set[str], pairs: dict[tuple[str, str], float]) -> str:
    """Recall and false removals by the known pairs."""
    inside = [(a, b) for (a, b), j in pairs.items() if j >= LIMIT and a in ids and b in ids]
    apart = sum(not (a in kept and b in kept) for a, b in inside)
    linked = {x for a, b in inside for x, y in ((a, b), (b, a)) if y in kept}
    gone = ids - kept
    return f"removed {len(gone):,}, recall {apart / len(inside):.4f}, false removals {len(gone - linked):,}"


def measure(truth: Path, documents: int, turns: int, peers: str | None) -> None:
    """Runs all in turn and prints."""
    import dedup_rounds as bench
    import pyarrow.parquet as pq

    bench.pin()
    columns = pq.read_table(truth / "pairs.parquet").to_pydict()
    pairs = {(a, b): j for a, b, j in zip(columns["id_a"], columns["id_b"], columns["jaccard"], strict=True)}

    def ours(folder: Path) -> dict[str, Any]:
        docs = bench.sample(truth / "subset.parquet", documents, folder)
        cost, stage = bench.run(RECIPE.format(path=docs), folder / "run")
        kept = [i for path in stage.glob("part-*.parquet") for i in pq.read_table(path)["id"].to_pylist()]
        copied = bench.copying(stage.parent / "01-ingest", folder / "copy")
        return {"seconds": cost, "kept": kept, "copying": copied}

    def other(name: str, folder: Path) -> dict[str, Any]:
        bench.sample(truth / "subset.parquet", documents, folder)
        return bench.peer(str(peers), Path(__file__), name, folder)

    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))  # compiles, and fills the page cache
        table = pq.read_table(bench.sample(truth / "subset.parquet", documents, Path(folder)))
    size, ids = sum(len(text.encode()) for text in table["text"].to_pylist()) / 1e6, set(table["id"].to_pylist())
    names = ("datatrove", "rensa") if peers else ()
    contenders = {name: lambda folder, name=name: other(name, folder) for name in names}
    results = bench.rounds(turns, {"gristmill": ours, **contenders})
    print(f"{len(ids):,} documents, {size:.1f} MB, one core, {turns} turns")
    best = {name: min(one["seconds"] for one in found) for name, found in results.items()}
    for name, found in results.items():
        said = judge(set(found[0]["kept"]), ids, pairs)
        ratio = "" if name == "gristmill" else f"; we take {best[name] / best['gristmill']:.1f} times less"
        print(bench.line(name, [one["seconds"] for one in found], size, said + ratio))
    copied = min(one["copying"] for one in results["gristmill"])
    print(f"reading and writing once: {size / copied:.0f} MB/s, {copied / best['gristmill']:.0%} of our time")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peers", help="python of the peers' venv")
    parser.add_argument("--peer", choices=["datatrove", "rensa"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        print(json.dumps({"datatrove": datatrove, "rensa": rensa}[given.peer](given.corpora)))
    else:
        measure(given.corpora / "neardup_truth", given.documents, given.turns, given.peers)


main()
