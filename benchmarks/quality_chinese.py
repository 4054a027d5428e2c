"""How fast are FineWeb-2's rules on Chinese, by jieba's words, and do they decide as datatrove does?

Reads CORPORA/chinese. Ours is the stage `quality` with `rules: [fineweb2]` on documents labelled `zh`; datatrove's are
the three filters of FineWeb-2's pipeline for cmn_Hani, whose words are jieba's through spaCy. Each of its filters stops
at the first rule broken, and a document at the first filter, where the stage scores all rules. A second row compares
the words alone: our kernel, and `jieba.cut`.

    python benchmarks/quality_chinese.py CORPORA --peer-python peer/bin/python
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

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


def cut(found: Sequence[pa.RecordBatch]) -> list[tuple[bytes, list[int], list[int], list[int]]]:
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
    """Prints a row for the rules and one for the words."""
    given = arguments(__doc__)
    texts = documents(given.corpora, "chinese", given.megabytes)
    found, size = batches(texts, ["zh"] * len(texts)), megabytes(texts)

    def rows() -> Iterator[Row]:
        run, script = step_of(Quality(rules=("fineweb2",))), FILTERS.format(profile=json.dumps(profiles()["zh"]))
        ours, theirs, _, their = in_turn(lambda: run(found), peer(given.peer_python, script, texts, given.core))
        answers = f"{share(kept(found, len(texts)), their)}, {sum(their):,} kept"
        disk = reading_and_writing(found)
        yield Row("quality: fineweb2, zh", "chinese", size, "datatrove, jieba", ours, theirs, answers, disk)
        ours, theirs, _, their = in_turn(lambda: cut(found), peer(given.peer_python, WORDS, texts, given.core))
        yield Row("words, zh", "chinese", size, "jieba", ours, theirs, share(list(digests(found)), their))

    show(given, rows())


if __name__ == "__main__":
    main()
