"""Cleaning against ftfy with the same settings: clean.py CORPORA [--peer-python PYTHON].

The stage runs with all its own rules off but the one that cannot be: every line break becomes a newline, form feeds
too. So its texts must be ftfy's, byte for byte, after that rule.
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
from stages.clean import LINE_BREAK, Clean

SCRIPT = """
import ftfy
config = ftfy.TextFixerConfig(**{settings})
def run(texts):
    return [ftfy.fix_text(text, config) for text in texts]
"""


def main() -> None:
    """Runs and prints."""
    given = arguments(__doc__ or "")
    show(given, rows(given))


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """A row for each kind of text."""
    for kind in ("english", "chinese", "multi", "code"):
        texts = documents(given.corpora, kind, given.megabytes)
        stage = plain()
        found, run = batches(texts), step_of(stage)
        turn = peer(given.peer_python, SCRIPT.format(settings=repr(ftfy_settings(stage))), texts, given.core)
        ours, theirs, mine, their = in_turn(lambda run=run, found=found: run(found), turn, given.turns)
        kept = [text for emit in mine for text in emit.rows["text"].to_pylist()]
        same = sum(a == LINE_BREAK.sub("\n", b) for a, b in zip(kept, their, strict=True))
        answers = f"{same:,} of {len(texts):,} texts equal"
        yield Row("clean", kind, megabytes(texts), "ftfy", ours, theirs, answers, reading_and_writing(found))


def plain() -> Clean:
    """The stage with none of its own rules: what is left is ftfy's repair and the normalisation form."""
    return Clean(
        control_chars="keep", zero_width="keep", soft_hyphen="keep", strip_line_ends=False, max_blank_lines=None
    )


def ftfy_settings(stage: Clean) -> dict[str, object]:
    """The same settings under ftfy's names."""
    return {**stage.ftfy.model_dump(), "normalization": stage.unicode, "explain": False}


if __name__ == "__main__":
    main()
