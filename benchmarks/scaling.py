"""What size and workers cost: scaling.py CORPORA [--megabytes LARGEST] [--tokenizer TOKENIZER].

Runs one recipe on a twentieth, a half and all of LARGEST megabytes (2,000 unless said otherwise) of English, many
languages and code in equal shares at each size: MB of text a second of each stage, which should not depend on the size,
and the greatest peak of a worker's memory. At a half also with one worker and with two, in turn: how many times less
wall time each stage takes with two, its merges aside, which one task does; how many cores it kept at work, which says
what the stage itself makes of two, whatever the machine's cores lose to each other; and, as what the machine gives at
all, how much more two runs of one worker each, which share nothing, get done at once. On a virtual machine, also what
its host kept of all cores' time meanwhile: what it gives to others, two workers miss more than one.
quality comes last, so that all documents reach the other stages. Where there is not enough text it comes again with its
Latin vowels moved on by one, so that no copy is a duplicate of another; the figures say how much of it is such.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks.harness import Measure, arguments, show, tokenizer, write

FILES = 160
"""Files of equal size that all the text is in."""
SHARES = {1.0: 1, 0.5: 2, 0.05: 20}
"""Each size and which of the files make it up: every n-th, of as many of each kind."""
PAIRED = 0.5
"""The size at which one worker and two are compared."""
KINDS = ("english", "multi", "code", "english")
RECIPE = """\
stages:
  - use: ingest
    inputs: {files}
    id_field: id
  - use: clean
  - use: language
  - use: exact_dedup
  - use: near_dedup
  - use: pack
    tokenizer: "{tokenizer}"
  - use: quality
"""
VOWELS = [str.maketrans("aeiouAEIOU", "aeiouAEIOU"[k:5] + "aeiou"[:k] + "AEIOU"[k:] + "AEIOU"[:k]) for k in range(5)]
Stages = dict[str, dict[str, Any]]


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "", peer=False, megabytes=2000, pin=False, encodes=True)
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Measure]:
    """Figures of each stage: by size, then by workers."""
    folder = Path(tempfile.mkdtemp())
    files, salted = build(given, folder)
    file = tokenizer(given)
    run(files[:1], file, folder, 1)  # compiles
    turns = [turn(files[:: SHARES[PAIRED]], file, folder) for _ in range(given.turns)]
    found = {share: run(files[::step], file, folder, 2) for share, step in SHARES.items() if share != PAIRED}
    sizes = {share: f"{given.megabytes * share:,.0f} MB" for share in reversed(SHARES)}
    said = f"{', '.join(sizes.values())}; {salted:.0%} with vowels moved"
    yield from by_size(found | {PAIRED: turns[0].two}, sizes, said)
    yield from by_workers(turns, sizes[PAIRED])
    shutil.rmtree(folder)


def by_size(found: dict[float, Stages], sizes: dict[float, str], said: str) -> Iterator[Measure]:
    """What each stage costs at each size, and the greatest memory. said: all the sizes, and of what text, in words."""
    for stage in found[1.0]:
        rates = [found[share][stage]["bytes_in"] / found[share][stage]["cpu_seconds"] / 1e6 for share in sizes]
        figures = ", ".join(f"{rate:,.1f}" for rate in rates)
        yield Measure(f"{stage}, MB for a CPU second", said, figures, "the same at each size")
    for share, size in sizes.items():
        peaks = {stage: costs["peak"] / 1e6 for stage, costs in found[share].items()}
        heaviest = max(peaks, key=lambda stage: peaks[stage])
        yield Measure("greatest memory of a worker", size, f"{peaks[heaviest]:,.0f} MB ({heaviest})", "under 1,000 MB")


@dataclass
class Turn:
    """A run with one worker, one with two, and two at once with one each. kept: of the first two, the share of all
    cores' time that the machine's host kept for others."""

    one: Stages
    two: Stages
    apart: list[Stages]
    kept: tuple[float, float]


def turn(files: Sequence[Path], file: Path, folder: Path) -> Turn:
    """Runs them, one after the other."""
    one, kept = watched(lambda: run(files, file, folder, 1))
    two, kept_of_two = watched(lambda: run(files, file, folder, 2))
    both = [start(files, file, folder, 1, name) for name in ("run", "other")]
    return Turn(one, two, [costs(*each) for each in both], (kept, kept_of_two))


def by_workers(turns: Sequence[Turn], size: str) -> Iterator[Measure]:
    """How many times faster two workers are, and what stands in their way."""
    for stage in turns[0].one:
        times = sorted(alone(turn.one[stage]) / alone(turn.two[stage]) for turn in turns)
        one_works, two_work = (
            median(run[stage]["cpu_seconds"] / run[stage]["seconds"] for run in runs)
            for runs in ([turn.one for turn in turns], [turn.two for turn in turns])
        )
        whole = median(turn.one[stage]["seconds"] for turn in turns)
        most = 2 * whole / median(one[stage]["seconds"] for turn in turns for one in turn.apart)
        merging = median(turn.one[stage]["merging"] for turn in turns)
        aside = f"; {merging:.1f} of {whole:.1f} s are merges" if merging > 0.01 * whole else ""
        yield Measure(
            f"{stage}, two workers for one",
            size,
            f"{median(times):.2f} × ({times[0]:.2f} to {times[-1]:.2f}; cores at work {two_work:.2f} for "
            f"{one_works:.2f}; two runs {most:.2f} ×{aside})",
            "at least 1.8 × but for merges",
        )
    one, two = (
        ", ".join(f"{share:.1%}" for share in kept) for kept in zip(*(turn.kept for turn in turns), strict=True)
    )
    yield Measure("cores' time kept by the machine's host", size, f"one worker {one}; two workers {two}")


def build(given: argparse.Namespace, folder: Path) -> tuple[list[Path], float]:
    """The files, of each kind in turn, and the share of them that was altered."""
    files, altered = [], 0
    readers = {kind: stream(given.corpora, kind) for kind in KINDS}
    for k in range(FILES):
        # Every fourth file must not be of one kind: each round of kinds begins with another.
        kind = KINDS[(k + k // len(KINDS)) % len(KINDS)]
        texts, size = [], 0
        while size < given.megabytes * 1e6 / FILES:
            turn, text = next(readers[kind])
            texts.append(text)
            size += len(text.encode())
        files.append(write(texts, folder / f"in/{k:03}-{kind}.parquet"))
        altered += turn > 0
    return files, altered / FILES


def stream(corpora: Path, kind: str) -> Iterator[tuple[int, str]]:
    """Texts of a kind without end, as they are in turn 0, with vowels moved on in those that follow."""
    paths = sorted((corpora / kind).glob("*.parquet"))
    for turn in range(len(VOWELS)):
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(64, columns=["text"]):
                for text in filter(None, batch["text"].to_pylist()):
                    yield turn, text.translate(VOWELS[turn]) if turn else text


def run(files: Sequence[Path], file: Path, folder: Path, workers: int) -> Stages:
    """What each stage cost."""
    return costs(*start(files, file, folder, workers))


def start(
    files: Sequence[Path], file: Path, folder: Path, workers: int, name: str = "run"
) -> tuple[subprocess.Popen[str], Path]:
    """A run that has begun, and its folder."""
    recipe, out = folder / f"{name}.yaml", folder / name
    recipe.write_text(RECIPE.format(files=json.dumps([str(path) for path in files]), tokenizer=file))
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--out", str(out), "--quiet"]
    command += ["--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), out


def costs(process: subprocess.Popen[str], out: Path) -> Stages:
    """What each stage of a run cost, once it has ended."""
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said[-2000:])
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    found = {event["stage"].partition("-")[2]: event for event in events if event["event"] == "StageDone"}
    return {stage: {**done, "merging": merging(events, done)} for stage, done in found.items()}


def watched(work: Callable[[], Stages]) -> tuple[Stages, float]:
    """What work gives, and the share of all cores' time that this machine's host kept meanwhile (Linux; else 0)."""
    before = spent()
    found = work()
    after = spent()
    return found, (after[0] - before[0]) / max(after[1] - before[1], 1)


def spent() -> tuple[int, int]:
    """Ticks of all cores since the machine began: those its host kept (`steal` in proc(5)), and all of them."""
    stat = Path("/proc/stat")
    ticks = [int(field) for field in stat.read_text().partition("\n")[0].split()[1:9]] if stat.exists() else [0] * 8
    return ticks[7], sum(ticks)


def merging(events: list[dict[str, Any]], done: dict[str, Any]) -> float:
    """Seconds of a stage's steps that one task does after others."""
    steps = [event for event in events if event["event"] == "StepStarted" and event["stage"] == done["stage"]]
    ends = [step["at"] for step in steps[1:]] + [done["at"]]
    took = [(step["tasks"], end - step["at"]) for step, end in zip(steps, ends, strict=True)]
    return sum(seconds for tasks, seconds in took if tasks == 1 < took[0][0])


def alone(stage: dict[str, Any]) -> float:
    """Seconds of a stage but for its merges."""
    return float(stage["seconds"] - stage["merging"])


if __name__ == "__main__":
    main()
