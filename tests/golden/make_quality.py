"""Makes quality.jsonl.gz: datatrove's decisions on documents, for tests/test_quality.py.

Runs where datatrove 0.10 is installed with its processing extra: make_quality.py FOLDER_OF_PARQUET... Documents are the
first 40 by id of each folder's first file, at most 6,000 characters of each.
"""

import gzip
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

FILTERS = {
    "gopher_repetition": GopherRepetitionFilter(),
    "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(),
    "fineweb": FineWebQualityFilter(),
}


def main() -> None:
    """Writes one line a document: its text, and per rule set whether it is kept, datatrove's reason, and c4's text."""
    lines = []
    for folder in sys.argv[1:]:
        rows = pq.read_table(sorted(Path(folder).glob("*.parquet"))[0]).slice(0, 4000).to_pylist()
        for row in sorted(rows, key=lambda row: row["id"])[:40]:
            text = row["text"][:6000]
            decisions = {}
            for name, one in FILTERS.items():
                document = Document(text=text, id="x")
                answer = one.filter(document)
                decisions[name] = "kept" if answer is True else answer[1]
                if name == "c4" and answer is True:
                    decisions["c4_text"] = document.text
            lines.append(json.dumps({"id": row["id"], "text": text, **decisions}, ensure_ascii=False, sort_keys=True))
    with Path(__file__).with_name("quality.jsonl.gz").open("wb") as file:
        file.write(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))


main()
