"""Language identification against py3langid and CLD2: language.py CORPORA [--peer-python PYTHON].

Labels and confidences are py3langid's `classify` of each document; ours must be equal, the confidence but for the
rounding of its float32 sums (3.2e-4 at most). CLD2 is another model, with other labels: only its speed is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

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
from stages.language import Language

LANGID = """
from py3langid.langid import MODEL_FILE, LanguageIdentifier
model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
def run(texts):
    return [[label, float(score)] for label, score in map(model.classify, texts)]
"""
CLD2 = """
import pycld2
def run(texts):
    for text in texts:
        try:
            pycld2.detect(text)
        except pycld2.error:
            pass
"""


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "")
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Two rows for each kind of text."""
    for kind in ("english", "chinese", "multi"):
        texts = documents(given.corpora, kind, given.megabytes)
        found, run = batches(texts), step_of(Language())
        disk = reading_and_writing(found)
        for name, script in (("py3langid", LANGID), ("CLD2", CLD2)):
            turn = peer(given.peer_python, script, texts, given.core)
            ours, theirs, mine, their = in_turn(lambda run=run, found=found: run(found), turn, given.turns)
            answers = agreement(mine, their) if their else "another model"
            yield Row("language", kind, megabytes(texts), name, ours, theirs, answers, disk)


def agreement(mine: list[object], their: list[tuple[str, float]]) -> str:
    """How many labels and confidences are equal."""
    labels = [label for emit in mine for label in emit.rows["lang"].to_pylist()]  # type: ignore[attr-defined]
    scores = [score for emit in mine for score in emit.rows["lang_score"].to_pylist()]  # type: ignore[attr-defined]
    same = sum(a == b for a, (b, _) in zip(labels, their, strict=True))
    close = sum(abs(a - b) < 4e-4 for a, (_, b) in zip(scores, their, strict=True))
    return f"{same:,} of {len(their):,} labels and {close:,} confidences within 4e-4"


if __name__ == "__main__":
    main()
