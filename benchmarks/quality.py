"""The English quality rules, all scored, against datatrove's filters: quality.py CORPORA [--peer-python PYTHON].

The four rule sets judge the same texts, drops and scores included: prose, code, and web pages (the field `html` of
CORPORA/html) by the text that resiliparse finds in them. datatrove runs its four filters with their defaults,
set by set on the text as it is; each stops at the first rule broken, where the stage scores all of them. Answers: the
share of documents that each set decides alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from resiliparse.extract.html2text import extract_plain_text

from benchmarks.harness import (
    Row,
    arguments,
    batches,
    documents,
    in_turn,
    megabytes,
    peer,
    reading_and_writing,
    show,
    step_of,
)
from stages.quality import Quality

SETS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
PEER = """
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
)
filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
def decide(one, text):
    try:
        return one.filter(Document(text=text, id="")) is True
    except ZeroDivisionError:
        return False
def run(texts):
    return [[decide(one, text) for one in filters] for text in texts]
"""


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "")
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """A row for English prose, one for web pages, and one for code, which most rules drop."""
    for kind in ("english", "html", "code"):
        read = pages if kind == "html" else documents
        texts = read(given.corpora, kind, given.megabytes)
        found, run = batches(texts), step_of(Quality())
        turn = peer(given.peer_python, PEER, texts, given.core)
        ours, theirs, _, their = in_turn(lambda run=run, found=found: run(found), turn, given.turns)
        yield Row(
            "quality, English",
            kind,
            megabytes(texts),
            "datatrove",
            ours,
            theirs,
            agreement(found, their),
            reading_and_writing(found),
        )


def pages(corpora: Path, kind: str, most: float) -> list[str]:
    """The main text of the first web pages of CORPORA/kind, about so many megabytes."""
    texts, room = [], most * 1e6
    for path in sorted((corpora / kind).glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["html"]):
            for html in filter(None, batch["html"].to_pylist()):
                text = extract_plain_text(html, main_content=True)
                if room > 0 and text:
                    texts.append(text)
                    room -= len(text.encode())
            if room <= 0:
                return texts
    return texts


def agreement(found: list[pa.RecordBatch], their: list[list[bool]]) -> str:
    """The share of documents that each rule set decides alike."""
    shares = []
    for k, name in enumerate(SETS):
        stage = Quality(rules=(name,))
        judged = [stage._judge(batch["text"], batch["lang"])[0] for batch in found]
        kept = np.concatenate([~np.logical_or.reduce([score.broken for _, score in scores]) for scores in judged])
        shares.append(f"{name} {np.mean(kept == np.array([row[k] for row in their])):.2%}")
    return "decided alike: " + ", ".join(shares)


if __name__ == "__main__":
    main()
