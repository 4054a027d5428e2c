"""FineWeb-2's rules on Chinese by jieba's words: quality_chinese.py CORPORA [--peer-python PYTHON].

Reads CORPORA/chinese. Ours is the stage `quality` with `rules: [fineweb2]` on documents labelled `zh`; datatrove's are
the three filters of FineWeb-2's pipeline for cmn_Hani, whose words are jieba's through spaCy. Each of its filters stops
at the first rule broken, and a document at the first filter, where the stage scores all rules. A second row compares
the words alone: our kernel, and `jieba.cut`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

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
from stages.jieba import cut_texts
from stages.kernels.arrow import text_buffers
from stages.quality import Quality, profiles
from stages.words import classes

FILTERS = """
import json
from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
p, zh = json.loads({profile!r}), "cmn_Hani"
filters = [
    GopherRepetitionFilter(
        language=zh, dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0, dup_line_frac=p["dup_line_frac"],
        top_n_grams=[(int(n), x) for n, x in p["top_n_grams"].items()],
        dup_n_grams=[(int(n), x) for n, x in p["dup_n_grams"].items()],
    ),
    FineWebQualityFilter(
        language=zh, short_line_thr=999, char_duplicates_ratio=0.1, line_punct_thr=p["line_punct"],
        new_line_ratio=p["new_lines"],
    ),
    GopherQualityFilter(
        language=zh, min_avg_word_length=p["word_length"][0], max_avg_word_length=p["word_length"][1],
        stop_words=p["stop_words"], max_non_alpha_words_ratio=p["alphabetic"], min_stop_words=2,
    ),
]
def run(texts):
    return [all(one.filter(Document(text=text, id="x")) is True for one in filters) for text in texts]
"""
WORDS = """
import hashlib, jieba
jieba.setLogLevel(60)
def run(texts):
    return [
        hashlib.sha256("\\n".join(word for word in jieba.cut(text) if not word.isspace()).encode()).hexdigest()
        for text in texts
    ]
"""


def kept(found: Sequence[pa.RecordBatch], n: int) -> list[bool]:
    """Which documents the stage keeps."""
    stage, gone = Quality(rules=("fineweb2",)), np.zeros(n, np.bool_)
    for batch in found:
        places = np.array(batch["id"].to_pylist(), np.int64)
        for rows, score in stage._judge(batch["text"], batch["lang"])[0]:
            gone[places[rows]] |= score.broken
    return (~gone).tolist()


def cut(found: Sequence[pa.RecordBatch]) -> list[tuple[Any, Any, Any, Any]]:
    """The words of every batch, as the kernel gives them."""
    answers = []
    for batch in found:
        data, offsets = text_buffers(batch["text"])
        starts, ends, _, firsts = cut_texts(data, offsets[:-1], offsets[1:], classes())
        answers.append((data, starts, ends, firsts))
    return answers


def digests(found: Sequence[pa.RecordBatch]) -> Iterator[str]:
    """A digest of each document's words."""
    for data, starts, ends, firsts in cut(found):
        raw = bytes(data)
        for k in range(len(firsts) - 1):
            words = [raw[starts[j] : ends[j]] for j in range(firsts[k], firsts[k + 1])]
            yield hashlib.sha256(b"\n".join(words)).hexdigest()


def share(ours: Sequence[object], theirs: Sequence[object]) -> str:
    """How many answers are alike."""
    alike = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return f"{alike:,} of {len(ours):,} documents alike ({alike / len(ours):.2%})"


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "")
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """A row for the rules and one for the words."""
    texts = documents(given.corpora, "chinese", given.megabytes)
    found, size = batches(texts, ["zh"] * len(texts)), megabytes(texts)
    run, script = step_of(Quality(rules=("fineweb2",))), FILTERS.format(profile=json.dumps(profiles()["zh"]))
    turn = peer(given.peer_python, script, texts, given.core)
    ours, theirs, _, their = in_turn(lambda: run(found), turn, given.turns)
    answers = f"decided alike: {share(kept(found, len(texts)), their)}, {sum(their):,} kept"
    yield Row("quality, Chinese", "chinese", size, "datatrove", ours, theirs, answers, reading_and_writing(found))
    turn = peer(given.peer_python, WORDS, texts, given.core)
    ours, theirs, _, their = in_turn(lambda: cut(found), turn, given.turns)
    yield Row(
        "words, Chinese", "chinese", size, "jieba", ours, theirs, f"words alike: {share(list(digests(found)), their)}"
    )


if __name__ == "__main__":
    main()
