"""How fast are the four English rule sets with every score, and do they decide as datatrove does?

Reads folders or files of Parquet (with a `text` column) and draws documents of about `--mb` from each; runs this
project's stage and datatrove's four filters on them in turn, pinned to one core, and prints MB of text per CPU second
of each, the ratio, and the share of documents decided alike by each set. datatrove runs with its defaults in a process
of its own, in an environment that has it (`--peer-python`), set by set on the text as it is; each filter stops at the
first rule broken, where the stage scores all of them.

    python benchmarks/quality.py --peer-python peer/bin/python --mb 10 CORPUS...
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SETS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
)
filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
texts = json.load(open(sys.argv[1]))
for one in filters:
    one.filter(Document(text="A text to start with.", id=""))
begin, decisions = time.process_time(), []
for text in texts:
    row = []
    for one in filters:
        try:
            row.append(one.filter(Document(text=text, id="")) is True)
        except ZeroDivisionError:
            row.append(False)
    decisions.append(row)
json.dump([time.process_time() - begin, decisions], open(sys.argv[2], "w"))
"""


def draw(path: Path, size: int) -> list[str]:
    """Texts of about so many bytes, in an order that depends on nothing but the files."""
    import pyarrow.parquet as pq

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    texts = [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist() if text]
    random.Random(0).shuffle(texts)
    total = 0
    for k, text in enumerate(texts):
        total += len(text.encode())
        if total >= size:
            return texts[: k + 1]
    return texts


def ours(texts: list[str]) -> tuple[float, list[list[bool]]]:
    """CPU seconds of the stage on all sets in one batch, and its decisions by each set alone."""
    import numpy as np
    import pyarrow as pa

    from pipeline.stage import DOCUMENT, Task
    from stages.quality import Quality

    rows = [{"id": str(k), "text": text, "source": ""} for k, text in enumerate(texts)]
    batch = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    task = Task("quality", 0, 0, 1, Path(), Path())
    Quality()._run(batch.slice(0, 1), task)
    begin = time.process_time()
    Quality()._run(batch, task)
    seconds = time.process_time() - begin
    kept = []
    for name in SETS:
        scores, _, _ = Quality(rules=(name,))._judge(batch["text"], batch["lang"])
        kept.append(~np.logical_or.reduce([score.broken for _, score in scores]))
    return seconds, np.array(kept).T.tolist()


def theirs(texts: list[str], python: str) -> tuple[float, list[list[bool]]]:
    """CPU seconds of datatrove's filters, one after the other on each text, and their decisions."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "texts.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(texts))
        subprocess.run([python, "-c", PEER, str(given), str(answer)], check=True, stderr=subprocess.DEVNULL)
        seconds, decisions = json.loads(answer.read_text())
    return seconds, decisions


def main() -> None:
    """Prints a line for each corpus."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", nargs="+", type=Path, metavar="CORPUS")
    parser.add_argument("--peer-python", required=True, help="the Python of an environment with datatrove[processing]")
    parser.add_argument("--mb", type=float, default=10, help="MB of text from each corpus")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    call = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    os.sched_setaffinity(0, {call.core})
    for corpus in call.corpora:
        texts = draw(corpus, int(call.mb * 1e6))
        size = sum(len(text.encode()) for text in texts) / 1e6
        turns = [(ours(texts), theirs(texts, call.peer_python)) for _ in range(call.turns)]
        speeds = [[size / seconds for (seconds, _) in side] for side in zip(*turns, strict=True)]
        ratio = median(a / b for a, b in zip(*speeds, strict=True))
        (_, mine), (_, peers) = turns[0]
        alike = {name: sum(a[k] == b[k] for a, b in zip(mine, peers, strict=True)) for k, name in enumerate(SETS)}
        print(f"{corpus}: {len(texts):,} documents, {size:.1f} MB")
        for name, speed in zip(("gristmill", "datatrove"), speeds, strict=True):
            print(f"  {name}: {median(speed):.2f} MB/s ({min(speed):.2f} to {max(speed):.2f})")
        print(f"  ratio: {ratio:.0f}")
        print("  decided alike: " + ", ".join(f"{name} {100 * n / len(texts):.2f} %" for name, n in alike.items()))


if __name__ == "__main__":
    main()
