"""Makes quality_chinese.jsonl.gz: datatrove's decisions on Chinese documents, for tests/test_quality.py.

Runs where datatrove 0.10 is installed with spaCy and jieba: make_quality_chinese.py FOLDER_OF_PARQUET. Documents are
twelve of each Debian package that the column `source` begins with (Chinese manuals, handbooks, help pages and fortunes,
all under free licences), at most 3,000 characters of each. Filters are called as FineWeb-2's pipeline does for cmn_Hani
(fineweb-2-pipeline.py), and with their defaults but for the language.
"""

import gzip
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

ZH = "cmn_Hani"
PROFILE = json.loads((Path(__file__).parents[2] / "stages/data/fineweb2.json").read_text("utf-8"))["zh"]
FILTERS = {
    "gopher_repetition": [GopherRepetitionFilter(language=ZH)],
    "gopher_quality": [GopherQualityFilter(language=ZH)],
    "c4": [C4QualityFilter(language=ZH)],
    "fineweb": [FineWebQualityFilter(language=ZH)],
    "fineweb2": [
        GopherRepetitionFilter(
            language=ZH,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            dup_line_frac=PROFILE["dup_line_frac"],
            top_n_grams=[(int(n), limit) for n, limit in PROFILE["top_n_grams"].items()],
            dup_n_grams=[(int(n), limit) for n, limit in PROFILE["dup_n_grams"].items()],
        ),
        FineWebQualityFilter(
            language=ZH,
            short_line_thr=999,
            char_duplicates_ratio=0.1,
            line_punct_thr=PROFILE["line_punct"],
            new_line_ratio=PROFILE["new_lines"],
        ),
        GopherQualityFilter(
            language=ZH,
            min_avg_word_length=PROFILE["word_length"][0],
            max_avg_word_length=PROFILE["word_length"][1],
            stop_words=PROFILE["stop_words"],
            max_non_alpha_words_ratio=PROFILE["alphabetic"],
            min_stop_words=2,
        ),
    ],
}


def decide(filters, text):
    """What a row of filters says: `kept`, or the first one's reason."""
    for one in filters:
        answer = one.filter(Document(text=text, id="x"))
        if answer is not True:
            return answer[1]
    return "kept"


def main() -> None:
    """Writes one line a document: its text, and per rule set whether it is kept, or datatrove's reason."""
    rng, by_package, lines = random.Random(0), defaultdict(list), []
    for file in sorted(Path(sys.argv[1]).glob("*.parquet")):
        table = pq.read_table(file, columns=["source", "text"])
        for source, text in zip(table["source"].to_pylist(), table["text"].to_pylist(), strict=True):
            by_package[source.split("/")[0]].append(text)
    for package, found in sorted(by_package.items()):
        if not package.startswith("pypi-"):
            for text in rng.sample(found, min(12, len(found))):
                row = {name: decide(filters, text[:3000]) for name, filters in FILTERS.items()}
                lines.append(json.dumps({"text": text[:3000], **row}, ensure_ascii=False, sort_keys=True))
    with Path(__file__).with_name("quality_chinese.jsonl.gz").open("wb") as file:
        file.write(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
