"""Files that a stage could not read to their end: found in its quarantine alone.

Reads quarantine files, gives names, reasons and places, as they stand there; writes nothing. The one trade-off: three
columns of the whole quarantine are read, which `max_bad` bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from pipeline.terminal import one_line

REASONS = frozenset(
    {
        "ambiguous_field",
        "corrupt_stream",
        "decompression_bomb",
        "malformed_header",
        "missing_field",
        "not_utf8",
        "truncated_json",
        "truncated_stream",
        "unreadable_dataset",
        "unreadable_parquet",
        "unreadable_row_group",
    }
)
"""The reasons of quarantine that speak of a file, not of one record."""

SHOWN = 12


class GivenUp(NamedTuple):
    """A file that was not read to its end, or not as its header says: its name, where reading stopped, and why."""

    name: str
    position: str
    reason: str
    detail: str


def given_up(folder: Path, quarantine: Sequence[str]) -> list[GivenUp]:
    """The files that the quarantine of a stage that reads sources names as such, in its order."""
    found = []
    for file in quarantine:
        wanted = [("reason", "in", sorted(REASONS))]
        table = pq.read_table(folder / file, columns=["source", "reason", "detail"], filters=wanted)
        for row in table.to_pylist():
            name, _, position = row["source"].rpartition(":")
            found.append(GivenUp(name, position, row["reason"], row["detail"] or ""))
    return found


def told(files: Sequence[GivenUp]) -> list[str]:
    """A line for each of the first files, fit for a terminal, and how many more there are."""
    lines = [one_line(f"{f.name}: {f.reason} at {f.position}: {f.detail}") for f in files[:SHOWN]]
    lines += [f"and {len(files) - SHOWN:,} more"] if len(files) > SHOWN else []
    head = [f"faults of whole files ({len(files):,}):"] if files else []
    return head + [f"  {line}" for line in lines]
