"""Whether three libraries agree on a run's tokenizer: tokenizer_agreement.py RUN CORPORA [documents].

Takes 10,000 documents, a third each of CORPORA's english, chinese and multi (other languages than these two), up to
20,000 characters of each. transformers' PreTrainedTokenizerFast and tiktoken load the files of RUN's tokenizer; their
ids must be those of `tokenizers`, and decoding must give the text back. Exits with 1 where anything differs.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from stages.tokenizer_files import load_tiktoken

CHARACTERS = 20_000
KINDS = ("english", "chinese", "other languages")


def main() -> None:
    """Runs and prints."""
    run, corpora = Path(sys.argv[1]), Path(sys.argv[2])
    share = -(-int(sys.argv[3] if len(sys.argv) > 3 else 10_000) // 3)
    (file,) = run.glob("*/tokenizer.json")
    exact = Tokenizer.from_file(str(file))
    fast, encoding = PreTrainedTokenizerFast.from_pretrained(file.parent), load_tiktoken(file.parent)
    differs: Counter[str] = Counter()
    tried = tokens = 0
    for kind in KINDS:
        texts = list(documents(corpora, kind, share))
        for text in texts:
            ids = exact.encode(text, add_special_tokens=False).ids
            differs["transformers"] += fast(text, add_special_tokens=False)["input_ids"] != ids
            differs["tiktoken"] += encoding.encode(text, allowed_special="all") != ids
            differs["decoding by tokenizers"] += exact.decode(ids, skip_special_tokens=False) != text
            differs["decoding by transformers"] += fast.decode(ids) != text
            differs["decoding by tiktoken"] += encoding.decode(ids) != text
            tokens += len(ids)
        tried += len(texts)
        print(f"{kind}: {len(texts):,} documents, {sum(len(text.encode()) for text in texts):,} bytes")
    print(f"{tried:,} documents, {tokens:,} tokens of {json.loads(file.read_bytes())['model']['type']}, {file}")
    for what, count in differs.items():
        print(f"differs: {what}: {count:,}")
    sys.exit(1 if any(differs.values()) or tried < 3 * share else 0)


def documents(corpora: Path, kind: str, count: int) -> Iterator[str]:
    """`count` texts of a kind, evenly from its shards."""
    folder = corpora / (kind if kind in {"english", "chinese"} else "multi")
    paths = sorted(folder.glob("*.parquet"))
    table = pq.ParquetDataset(paths).read(columns=["text", "lang"])
    langs = table["lang"].to_pylist()
    rows = [k for k, lang in enumerate(langs) if kind != KINDS[2] or (lang or "en")[:2] not in {"en", "zh"}]
    for row in rows[:: max(1, len(rows) // count)][:count]:
        yield table["text"][row].as_py()[:CHARACTERS]


main()
