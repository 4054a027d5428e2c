"""Makes quality_words.json.gz: spaCy's words for chunks between blanks, for tests/test_words.py.

Runs where spaCy 3.8 is installed: make_quality_words.py FOLDER_OF_PARQUET... Chunks are the 400 commonest shapes (runs
of lower-case letters, capitals, digits and the rest written as one each) of each folder's first file, and 300 drawn
from each.
"""

import gzip
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import spacy

TOKENIZER = spacy.blank("en").tokenizer


def shape(chunk):
    """A chunk with its runs of alike characters shortened."""
    return re.sub(r"[^\x00-\x7f]+", "é", re.sub(r"[0-9]+", "0", re.sub(r"[A-Z]+", "A", re.sub(r"[a-z]+", "a", chunk))))


def main():
    """Writes [chunk, words] pairs."""
    chunks = {text: None for text in TOKENIZER.rules if not text.isspace()}
    for folder in sys.argv[1:]:
        texts = pq.read_table(sorted(Path(folder).glob("*.parquet"))[0], columns=["text"])["text"].slice(0, 3000)
        every = [chunk for text in texts.to_pylist() for chunk in text.split() if len(chunk) < 60]
        shapes = Counter(map(shape, every))
        first = {shape(chunk): chunk for chunk in reversed(every)}
        chunks |= {first[one]: None for one, _ in shapes.most_common(400)}
        chunks |= dict.fromkeys(random.Random(0).sample(sorted(set(every)), 300))
    rows = [[chunk, [token.text for token in TOKENIZER(chunk)]] for chunk in chunks]
    data = json.dumps(rows, ensure_ascii=False).encode()
    Path(__file__).with_name("quality_words.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


main()
