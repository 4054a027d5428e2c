"""What is in a stage's quarantine, in few words: reasons with their counts, and the first records.

Reads quarantine shards; writes nothing. The one trade-off: the reasons of all bad records are read, a column of a few
bytes a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.terminal import one_line

FIRST = 3


@dataclass
class Faults:
    """count: bad records. reasons: how many by reason. first: place and detail of the first `FIRST`."""

    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def line(self) -> str:
        """All of it on one line."""
        if not self.count:
            return "nothing in quarantine"
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.reasons.most_common(5))
        return f"{self.count:,} in quarantine ({reasons}): {'; '.join(self.first)}"


def faults(folder: Path, files: Sequence[str]) -> Faults:
    """What the quarantine shards `files` of a stage's folder hold, in their order."""
    found = Faults()
    for name in files:
        with pq.ParquetFile(folder / name) as file:
            reasons = file.read(columns=["reason"], use_threads=False)["reason"].to_pylist()
            if len(found.first) < FIRST and reasons:
                for row in next(file.iter_batches(FIRST - len(found.first), columns=["source", "detail"])).to_pylist():
                    found.first.append(one_line(f"{row['source']}: {row['detail']}"[:300]))
        found.reasons.update(reasons)
        found.count += len(reasons)
    return found
