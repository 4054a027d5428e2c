"""Slow, plainly right twins of the kernels, and the in-memory engine that tests run a stage's steps with."""

from collections.abc import Sequence

import pyarrow as pa


def best_fit(lengths: Sequence[int], room: int) -> list[int]:
    """The room left in each bin, sorted, after best-fit of lengths in the order given."""
    bins: list[int] = []
    for need in lengths:
        fits = [k for k, left in enumerate(bins) if left >= need]
        if fits:
            bins[min(fits, key=lambda k: bins[k])] -= need
        else:
            bins.append(room - need)
    return sorted(bins)


def documents(texts: Sequence[str], prefix: str = "d") -> pa.RecordBatch:
    """Documents of the given texts."""
    from pipeline.rows import DOCUMENT

    rows = [{"id": f"{prefix}{k}", "text": text, "source": f"{prefix}:{k}"} for k, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
