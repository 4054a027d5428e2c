"""exact_dedup against plain pyarrow and hashlib: exact_dedup.py CORPORA [--documents N] [--turns K].

The first N documents of CORPORA/english go through each in turn, on one core; "compute" is our digests alone. The peer
is the short script anybody would write: read the Parquet file, hash each text with its runs of blanks evened out, keep
the first of each, write. It holds everything in memory, and says of a dropped document neither whose copy it is nor
where it came from.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import dedup_rounds as bench
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards import read_batches
from pipeline.stage import Task
from stages.exact_dedup import ExactDedup

RECIPE = "stages:\n  - {{use: ingest, inputs: [{path}], id_field: id}}\n  - use: exact_dedup\n"


def plain(docs: Path, out: Path) -> dict[str, Any]:
    """Reads, hashes text by text with hashlib, writes what is new: CPU seconds and the ids kept."""
    begun = time.process_time()
    table, seen, mask = pq.read_table(docs), set(), []
    for text in table["text"].to_pylist():
        key = hashlib.sha256(" ".join(text.split()).encode()).digest()
        mask.append(key not in seen)
        seen.add(key)
    kept = table.filter(pa.array(mask))
    pq.write_table(kept, out, compression="zstd", compression_level=1)
    return {"seconds": time.process_time() - begun, "kept": kept["id"].to_pylist()}


def ours(docs: Path, folder: Path) -> dict[str, Any]:
    """The stage by the real plan, and its digests alone."""
    cost, stage = bench.run(RECIPE.format(path=docs), folder / "run")
    kept = [i for path in sorted(stage.glob("part-*.parquet")) for i in pq.read_table(path)["id"].to_pylist()]
    source = stage.parent / "01-ingest"
    batches = [batch for path in sorted(source.glob("part-*.parquet")) for batch in read_batches(path)]
    task = Task("02-exact_dedup", 0, 0, 1, folder, folder)
    begun = time.process_time()
    for _ in ExactDedup()._hash(iter(batches), task):
        pass
    compute = time.process_time() - begun
    return {"seconds": cost, "kept": kept, "compute": compute, "copying": bench.copying(source, folder / "copy")}


def main() -> None:
    """Runs all in turn and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    bench.pin()
    source = sorted((given.corpora / "english").glob("*.parquet"))[0]
    with tempfile.TemporaryDirectory() as held:
        docs = bench.sample(source, given.documents, Path(held))
        ours(docs, Path(held))  # compiles, and fills the page cache
        size = sum(len(text.encode()) for text in pq.read_table(docs)["text"].to_pylist()) / 1e6
        contenders = {
            "gristmill": lambda folder: ours(docs, folder),
            "pyarrow and hashlib": lambda folder: plain(docs, folder / "kept.parquet"),
        }
        results = bench.rounds(given.turns, contenders)
    kept = {name: found[0]["kept"] for name, found in results.items()}
    best = {name: min(one["seconds"] for one in found) for name, found in results.items()}
    same = "the same documents kept" if len({json.dumps(ids) for ids in kept.values()}) == 1 else "ANSWERS DIFFER"
    print(f"{given.documents:,} documents, {size:.1f} MB, one core, {given.turns} turns; {same}")
    for name, found in results.items():
        ratio = "" if name == "gristmill" else f"; we take {best[name] / best['gristmill']:.1f} times less"
        print(bench.line(name, [one["seconds"] for one in found], size, f"kept {len(kept[name]):,}{ratio}"))
    print(bench.line("gristmill, compute alone", [one["compute"] for one in results["gristmill"]], size))
    copied = min(one["copying"] for one in results["gristmill"])
    print(f"reading and writing once: {size / copied:.0f} MB/s, {copied / best['gristmill']:.0%} of our time")


main()
