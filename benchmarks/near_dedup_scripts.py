"""near_dedup in Hindi, Thai, Arabic and Chinese, against every pair: near_dedup_scripts.py CORPORA.

Takes documents of CORPORA/multi by their label, and of CORPORA/chinese, up to 1,500 characters of each, and adds edited
copies with known edits. Some must be the same text: lines wrapped anew, the decomposed form (NFD), joiners and
direction marks inside words. The others differ: in vowel signs, tone marks and points (in Chinese: in characters) or in
words, in 1 of 400 to 1 of 20 of them, or lack their end. The truth is brute force: the exact Jaccard of each pair of
documents, by the shingles of the slow twin in the tests. Recall is the share of pairs at or above 0.8 of which at most
one stays. A removal is false if its Jaccard with the document named as the survivor is under 0.8.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.dedup_rounds import run
from benchmarks.harness import Measure, arguments, show
from tests.oracles_near_dedup import jaccard, shingle_set

RECIPE = "stages:\n  - {{use: ingest, inputs: ['{path}'], id_field: id}}\n  - use: near_dedup\n"
LIMIT, SHINGLE, FEWEST, LONGEST, COPIES = 0.8, 5, 100, 1500, 4
KINDS = {"Hindi": ("multi", "hi"), "Thai": ("multi", "th"), "Arabic": ("multi", "ar"), "Chinese": ("chinese", "")}
"""The folder of each language, and the label that its documents have; all of the folder where it is empty."""
RATES = (1 / 400, 1 / 150, 1 / 50, 1 / 20)
VOWELS = {
    "Hindi": "ािीुूेैोौ",
    "Thai": "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e47\u0e48\u0e49\u0e4a\u0e4b",
    "Arabic": "\u064e\u064f\u0650\u0651\u0652",
    "Chinese": "的一是不了在人有我他",
}

Edit = Callable[[str, str, random.Random], str]


def wrapped(text: str, _: str, chance: random.Random) -> str:
    """Other line breaks where there were blanks."""
    return re.sub(r"\s+", lambda _: chance.choice([" ", "\n", "\n\n", " \n "]), text)


def decomposed(text: str, _: str, __: random.Random) -> str:
    """NFD."""
    return unicodedata.normalize("NFD", text)


def marked(text: str, _: str, chance: random.Random) -> str:
    """Direction marks and joiners where they show nothing."""
    return "".join(c + chance.choice("\u200c\u200d\u200e\u200f") if chance.random() < 1 / 30 else c for c in text)


def vowels_changed(text: str, language: str, chance: random.Random) -> str:
    """One in so many vowel signs (Arabic letters: a point added; Chinese characters) another."""
    rate, signs = chance.choice(RATES), VOWELS[language]
    if language == "Arabic":
        return "".join(c + chance.choice(signs) if c.isalpha() and chance.random() < rate / 5 else c for c in text)
    found = str.isalpha if language == "Chinese" else signs.__contains__
    return "".join(chance.choice(signs) if found(c) and chance.random() < rate else c for c in text)


def words_changed(text: str, _: str, chance: random.Random) -> str:
    """One in so many words, or runs without a blank, the reverse of itself."""
    rate = chance.choice(RATES)
    return re.sub(r"\S{2,}", lambda m: m[0][::-1] if chance.random() < rate else m[0], text)


def shortened(text: str, _: str, chance: random.Random) -> str:
    """Without its end."""
    return text[: int(len(text) * chance.uniform(0.7, 1))]


SAME: tuple[Edit, ...] = (wrapped, decomposed, marked)
OTHER: tuple[Edit, ...] = (vowels_changed, words_changed, shortened)


class Copy(NamedTuple):
    """A document of the corpus: the number of the text it was made of, by which edit (none: the text itself)."""

    text: str
    origin: int
    edit: Edit | None


def originals(corpora: Path, language: str, megabytes: float) -> list[str]:
    """Beginnings of the documents of a language, about so many megabytes."""
    folder, label = KINDS[language]
    texts = list[str]()
    for path in sorted((corpora / folder).glob("*.parquet")):
        table = pq.read_table(path, columns=["text", "lang"] if label else ["text"])
        langs = table["lang"].to_pylist() if label else [label] * len(table)
        of_it = table.filter(pa.array([lang == label for lang in langs]))
        texts += [text[:LONGEST] for text in of_it["text"].to_pylist() if len(text) >= FEWEST]
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(sizes, megabytes * 1e6)) + 1]


def corpus(texts: list[str], language: str) -> list[Copy]:
    """The texts and their copies, in an order by chance that is the same in each run."""
    chance = random.Random(language)
    rows = [Copy(text, k, None) for k, text in enumerate(texts)]
    for k, text in enumerate(texts):
        rows += [Copy(edit(text, language, chance), k, edit) for edit in chance.sample(SAME + OTHER, COPIES)]
    chance.shuffle(rows)
    return rows


def pairs(sets: list[set[tuple[str, ...]]]) -> NDArray[np.int64]:
    """All pairs whose exact Jaccard reaches the limit: int64[m, 2]."""
    posts = defaultdict[tuple[str, ...], list[int]](list)
    for k, one in enumerate(sets):
        for shingle in one:
            posts[shingle].append(k)
    lists = {shingle: np.array(docs) for shingle, docs in posts.items() if len(docs) > 1}
    sizes, found = np.array([len(one) for one in sets]), []
    for k, one in enumerate(sets):
        common = [lists[shingle] for shingle in one if shingle in lists]
        if common:
            shared = np.bincount(np.concatenate(common), minlength=len(sets))[:k]
            near = np.flatnonzero(shared / (sizes[:k] + sizes[k] - shared) >= LIMIT)
            found.append(np.column_stack([near, np.full(len(near), k)]))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def rows_of(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The rows of all shards that match."""
    return [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def measure(copies: list[Copy]) -> str:
    """What was found, in words."""
    texts = [copy.text for copy in copies]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.table({"id": [str(k) for k in range(len(texts))], "text": texts}), folder / "docs.parquet")
        stage = run(RECIPE.format(path=folder / "docs.parquet"), folder / "run")[1]
        kept = {int(row["id"]) for row in rows_of(stage, "part-*.parquet")}
        drops = [(int(row["id"]), int(row["duplicate_of"])) for row in rows_of(stage, "drops/*.parquet")]
    sets = [shingle_set(text, SHINGLE) for text in texts]
    known = pairs(sets)
    apart = sum(not (a in kept and b in kept) for a, b in known.tolist())
    false = sum(jaccard(sets[one], sets[survivor]) < LIMIT for one, survivor in drops)
    place = {copy.origin: k for k, copy in enumerate(copies) if copy.edit is None}
    same = [(k, place[copy.origin]) for k, copy in enumerate(copies) if copy.edit in SAME]
    both = sum(a in kept and b in kept for a, b in same)
    return (
        f"{len(texts):,} documents, removed {len(drops):,}; recall {apart / max(len(known), 1):.4f} of {len(known):,} "
        f"pairs, {false} false; of {len(same):,} copies that are the same text {both} stay beside it"
    )


def rows(given: argparse.Namespace) -> Iterator[Measure]:
    """A figure for each language."""
    for language in KINDS:
        told = measure(corpus(originals(given.corpora, language, given.megabytes), language))
        yield Measure(f"near_dedup, {language}", KINDS[language][0], told, "recall at least 0.99, 0 false, 0 stay")


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "", peer=False, megabytes=2)
    show(given, rows(given))


if __name__ == "__main__":
    main()
