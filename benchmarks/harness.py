"""What the benchmarks share: documents of a corpus, turns of us and of a peer on one core, and the rows they print.

Reads the Parquet files under CORPORA/<kind>/ (any folder of files with a `text` column will do). Both sides hold the
same documents in memory and are timed by CPU seconds, in turn, after one turn that is not counted; a peer runs in its
own Python (`--peer-python`), which has it installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards import ShardWriter, read_batches
from pipeline.stage import DOCUMENT, Each, Stage, Task

TURNS = 3
PEER = """
import json, os, sys, time
os.sched_setaffinity(0, {{{core}}})
texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
{script}
for line in sys.stdin:
    began = time.process_time()
    answers = run(texts)
    took = time.process_time() - began
    print(json.dumps({{"seconds": took, "answers": answers if line.strip() == "answers" else None}}), flush=True)
"""


@dataclass
class Row:
    """One comparison. seconds: CPU seconds of each turn; answers: how ours and the peer's agree, in words."""

    name: str
    corpus: str
    megabytes: float
    peer: str
    ours: list[float]
    theirs: list[float]
    answers: str
    reading_and_writing: float | None = None

    def text(self) -> str:
        """The row as a line of a Markdown table."""
        ours, theirs = self.megabytes / median(self.ours), self.megabytes / median(self.theirs)
        spread = (max(self.ours) - min(self.ours)) / median(self.ours)
        disk = f"{self.megabytes / self.reading_and_writing:,.0f}" if self.reading_and_writing else ""
        return (
            f"| {self.name} | {self.corpus} | {self.megabytes:,.1f} | {ours:,.1f} (± {spread / 2:.0%}) | {self.peer} | "
            f"{theirs:,.2f} | {ours / theirs:,.0f} × | {disk} | {self.answers} |"
        )


HEAD = (
    "| what | corpus | MB | ours, MB/s | peer | peer, MB/s | ratio | read + write, MB/s | answers |\n"
    "|---|---|--:|--:|---|--:|--:|--:|---|"
)


def arguments(about: str, peer: bool = True) -> argparse.Namespace:
    """The command line of every benchmark: the corpora, how much of them, the peer's Python, the core."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("corpora", type=Path, help="a folder with a folder of Parquet files for each kind of text")
    parser.add_argument("--megabytes", type=float, default=8, help="how much text of each kind [8]")
    parser.add_argument("--core", type=int, default=0, help="the core that both sides are pinned to [0]")
    parser.add_argument("--json", action="store_true", help="rows as JSON lines")
    if peer:
        parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="has the peer installed")
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})
    pa.set_cpu_count(1)
    return given


def documents(corpora: Path, kind: str, megabytes: float) -> list[str]:
    """The first texts of CORPORA/kind, about so many megabytes, taken from all its files alike."""
    files = sorted((corpora / kind).glob("*.parquet"))
    texts: list[str] = []
    for path in files:
        size = 0.0
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["text"]):
            for text in batch["text"].to_pylist():
                if size < megabytes * 1e6 / len(files) and text and len(text) < 1 << 20:
                    texts.append(text)
                    size += len(text.encode())
    return texts


def megabytes(texts: Sequence[str]) -> float:
    """Size of texts in millions of bytes of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def batches(texts: Sequence[str], langs: Sequence[str] | None = None) -> list[pa.RecordBatch]:
    """Documents as the engine hands them to a stage: batches of about 8 MB."""
    found: list[pa.RecordBatch] = []
    begin = size = 0
    for k, text in enumerate(texts, 1):
        size += len(text.encode())
        if size >= 8 << 20 or k == len(texts):
            part = texts[begin:k]
            columns: dict[str, list[Any]] = {name: [None] * len(part) for name in DOCUMENT.names}
            columns |= {"id": [str(n) for n in range(begin, k)], "text": list(part), "source": ["x:0"] * len(part)}
            columns |= {"lang": list(langs[begin:k])} if langs else {}
            found.append(pa.record_batch(columns, schema=DOCUMENT))
            begin, size = k, 0
    return found


def step_of(stage: Stage) -> Callable[[Sequence[pa.RecordBatch]], list[Any]]:
    """Runs the first step of a stage in this process; all that it emits."""
    step = stage.steps()[0]
    if not isinstance(step, Each):
        raise TypeError(f"{type(stage).__name__} does not begin with an Each")
    folder = Path(tempfile.mkdtemp())
    task = Task(stage="00-bench", seed=0, index=0, count=1, folder=folder, scratch=folder)
    return lambda found: list(step.run(iter(found), task))


def peer(python: Path, script: str, texts: Sequence[str], core: int) -> Callable[[bool], tuple[float, Any]]:
    """A peer that waits for its turns. script: Python that defines `run(texts)`; the call gives (seconds, answers)."""
    file = Path(tempfile.mkdtemp()) / "texts.jsonl"
    file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    source = PEER.format(core=core, script=script)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    process = subprocess.Popen(
        [python, "-c", source, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=quiet,
    )

    def turn(answers: bool = False) -> tuple[float, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("answers\n" if answers else "turn\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith('{"seconds"'):
                told = json.loads(line)
                return told["seconds"], told["answers"]
        raise RuntimeError(f"the peer ended with {process.wait()}")

    return turn


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[bool], tuple[float, Any]], turns: int = TURNS
) -> tuple[list[float], list[float], Any, Any]:
    """CPU seconds of ours and theirs, one after the other, and the answers of a first turn that is not counted."""
    mine, (_, their) = ours(), theirs(True)
    own, other = [], []
    for _ in range(turns):
        began = time.process_time()
        ours()
        own.append(time.process_time() - began)
        other.append(theirs(False)[0])
    return own, other, mine, their


def reading_and_writing(found: Sequence[pa.RecordBatch]) -> float:
    """CPU seconds to write the documents to a shard and to read it: what no stage can be faster than."""
    folder = Path(tempfile.mkdtemp())
    began = time.process_time()
    with ShardWriter(folder, folder, "part", found[0].schema) as writer:
        for batch in found:
            writer.write(batch)
    for _ in read_batches(folder / "part.parquet"):
        pass
    return time.process_time() - began


def show(given: argparse.Namespace, rows: Iterator[Row]) -> None:
    """Prints each row as it comes."""
    if not given.json:
        print(HEAD)
    for row in rows:
        print(json.dumps(asdict(row), ensure_ascii=False) if given.json else row.text(), flush=True)
