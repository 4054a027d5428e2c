"""What starting costs: startup.py CORPORA [--tokenizer TOKENIZER].

The first time, the kernels are compiled, on all cores before the first stage: wall and CPU seconds of a run of all
stages with an empty kernel cache, less those of the same run with a full one, the median of several; and whether the
run says so and compiles nothing later. Every later time: wall seconds from the command to the end of each stage's first
batch, in runs that have done all before that stage. Not pinned: a run has the machine it finds.
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
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.harness import Measure, arguments, documents, show, write

RECIPE = """\
stages:
  - use: ingest
    inputs: ["{path}"]
    id_field: id
  - use: clean
  - use: language
  - {{use: quality, rules: [gopher_repetition, gopher_quality, c4, fineweb, fineweb2]}}
  - use: exact_dedup
  - use: near_dedup
  - {{use: tokenizer, vocab_size: 2048}}
  - use: pack
"""
COMPILED, LATER = "compiling kernels", "not compiled ahead"


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "", peer=False, megabytes=0.5, pin=False)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Measure]:
    """The first start, then a figure for each stage."""
    folder = Path(tempfile.mkdtemp())
    recipe, out = folder / "start.yaml", folder / "run"
    texts = [text for kind in ("english", "chinese") for text in documents(given.corpora, kind, given.megabytes)]
    recipe.write_text(RECIPE.format(path=write(texts, folder / "documents.parquet")))
    costs, said = [], []
    for turn in range(given.turns):
        os.environ["NUMBA_CACHE_DIR"] = str(folder / f"kernels{turn}")
        cold, warm = timed(recipe, out), timed(recipe, out)
        costs.append((cold[0] - warm[0], cold[1] - warm[1]))
        said.append(cold[2])
    cpu, wall = map(median, zip(*costs, strict=True))
    told = "and the run says so" if all(COMPILED in words for words in said) else "AND THE RUN DOES NOT SAY SO"
    told += "; SOME ARE COMPILED LATER" if any(LATER in words for words in said) else "; none is compiled later"
    yield Measure("compiling all kernels", "both", f"{wall:.1f} s ({cpu:.1f} CPU s), {told}", "at most 25 s")
    for stage in sorted(path.parent.name for path in out.glob("*/_manifest.json")):
        name = stage.partition("-")[2]
        took = [first_batch(recipe, out, stage) for _ in range(given.turns)]
        spread = f"{min(took):.2f} to {max(took):.2f}"
        yield Measure(f"first batch of {name}", "both", f"{median(took):.2f} s ({spread})", "at most 1.5 s")
    shutil.rmtree(folder)


def timed(recipe: Path, out: Path) -> tuple[float, float, str]:
    """CPU and wall seconds of a run into an empty folder, and what it said."""
    shutil.rmtree(out, ignore_errors=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = start(recipe, out)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began, said


def first_batch(recipe: Path, out: Path, stage: str) -> float:
    """Seconds from the command to the first finished task of a stage that is to run again."""
    began = time.time()
    start(recipe, out, "--force", stage.partition("-")[2])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    done = [event["at"] for event in events if event["event"] == "TaskDone" and event["stage"] == stage]
    return min(at for at in done if at > began) - began


def start(recipe: Path, out: Path, *more: str) -> str:
    """Runs the recipe to its end with one worker; what it said."""
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--out", str(out), "--workers", "1", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stderr


if __name__ == "__main__":
    main()
