"""exact_dedup against plain pyarrow and hashlib: exact_dedup.py CORPORA.

The first English documents go through each in turn, on one core. The peer is the short script anybody would write: read
the Parquet file, hash each text with its runs of blanks evened out, keep the first of each, write. It holds everything
in memory, and says of a dropped document neither whose copy it is nor where it came from. One figure tells what the
stage does in a second beyond what reading and writing the shard alone takes; another, what it would do if it took no
time itself: it reads twice, since it must know all hashes before it writes.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.dedup_rounds import copying, kept_ids, reading, rounds, run, sample, seconds
from benchmarks.harness import AGAIN, Measure, Row, arguments, megabytes, show

RECIPE = "stages:\n  - {{use: ingest, inputs: ['{path}'], id_field: id}}\n  - use: exact_dedup\n"


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "", megabytes=88)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row | Measure]:
    """A row; then the stage without reading and writing, and those without the stage."""
    source = sorted((given.corpora / "english").glob("*.parquet"))[0]
    with tempfile.TemporaryDirectory() as held:
        docs = sample(source, given.megabytes, Path(held) / "docs.parquet")
        ours(docs, Path(held))  # compiles, and fills the page cache
        size = megabytes(pq.read_table(docs)["text"].to_pylist())
        contenders = {
            "ours": lambda folder: ours(docs, folder),
            "plain": lambda folder: plain(docs, folder / "kept.parquet"),
        }
        found = rounds({"ours": AGAIN * given.turns, "plain": given.turns}, contenders)
    mine, theirs = found["ours"], found["plain"]
    same = "the same documents kept" if mine[0]["kept"] == theirs[0]["kept"] else "OTHER DOCUMENTS KEPT"
    disk = median(one["copying"] for one in mine)
    yield Row("exact_dedup", "english", size, "pyarrow and hashlib", seconds(mine), seconds(theirs), same, disk)
    twice = size / (disk + median(one["reading"] for one in mine))
    alone = size / (median(seconds(mine)) - disk)
    yield Measure("beyond reading and writing", "english", f"{alone:,.0f} MB/s", "at least 200 MB/s")
    yield Measure(
        "reading twice and writing once, alone", "english", f"{twice:,.0f} MB/s", "the stage at least 100 MB/s"
    )


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
    """The stage by the real plan: CPU seconds, the ids kept, and the cost of reading and writing alone."""
    cost, stage = run(RECIPE.format(path=docs), folder / "run")
    before = stage.parent / "01-ingest"
    alone = {"copying": copying(before, folder / "copy"), "reading": reading(before)}
    return {"seconds": cost, "kept": kept_ids(stage), **alone}


if __name__ == "__main__":
    main()
