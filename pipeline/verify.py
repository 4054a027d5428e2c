"""Proves the books of a run from its files alone.

Reads every manifest and every file that it names; writes nothing. Two proofs a stage: each file's sha256, size and rows
are those written down and no file is missing or extra; and the multiset of ids going in (the parent's kept rows) equals
that of kept, dropped and quarantined rows together, compared by a sum of 128-bit hashes: 16 bytes of memory whatever
the size. Where stages were fused the proof spans them all; where ingest was fused too, no ids that came in are on disk,
and only their number is proved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import xxhash

from pipeline.queries import QueryError, manifests
from pipeline.shards import MANIFEST, Manifest, count_rows, sha256_file

LOGS = frozenset({".jsonl"})
MASK = (1 << 128) - 1
LOST = "the documents that came in are not those kept, dropped and quarantined"


def verify_run(out: Path) -> tuple[list[str], int]:
    """Everything that does not hold, as messages, and the number of files checked. Raises QueryError where there is
    no run."""
    found = manifests(out)
    if not found:
        raise QueryError(f"{out}: no finished stage here")
    problems: list[str] = []
    damaged: set[str] = set()
    checked = 0
    for folder, manifest in found.items():
        broken, count = _files(out / folder, manifest)
        checked += count
        problems += broken
        if broken:
            damaged.add(folder)
        elif damaged.isdisjoint(m.stage for m in _fused(manifest, found)) and manifest.parent not in damaged:
            problems += _books(out, folder, manifest, found)
    return problems, checked


def _files(folder: Path, manifest: Manifest) -> tuple[list[str], int]:
    problems, named = [], set()
    for file in (file for files in manifest.files.values() for file in files):
        path = folder / file.name
        named.add(path)
        if not path.exists():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
            problems.append(f"{path}: not the file that the manifest describes")
        elif path.suffix == ".parquet" and count_rows(path) != file.rows:
            problems.append(f"{path}: {count_rows(path)} rows, {file.rows} in the manifest")
    extra = [p for p in folder.rglob("*.parquet") if p not in named and p.name != MANIFEST]
    problems += [f"{path}: in no manifest" for path in sorted(extra)]
    return problems, len(named)


def _books(out: Path, folder: str, manifest: Manifest, found: dict[str, Manifest]) -> list[str]:
    rows, here = manifest.rows, out / folder
    if not rows.balanced:
        return [
            f"{here}: read {rows.read}, but kept {rows.kept}, dropped {rows.dropped}, quarantined {rows.quarantined}"
        ]
    gone = {name: sum(f.rows for f in manifest.files.get(name, [])) for name in ("drops", "quarantine")}
    if (rows.dropped, rows.quarantined) != (gone["drops"], gone["quarantine"]):
        told = f"dropped {rows.dropped}, quarantined {rows.quarantined}, but its files hold"
        return [f"{here}: {told} {gone['drops']} and {gone['quarantine']}"]
    parent = found.get(manifest.parent or "")
    if parent is not None and parent.rows.kept != rows.read:
        return [f"{here}: read {rows.read} rows, {manifest.parent} kept {parent.rows.kept}"]
    if parent is None or manifest.gives == "artifact" or manifest.fused_bytes is not None:
        return []
    return [] if _all_there(out, manifest, found) else [f"{here}: {LOST}"]


def _fused(manifest: Manifest, found: dict[str, Manifest]) -> list[Manifest]:
    """A stage and those fused in front of it, the first one last."""
    chain = [manifest]
    while (parent := found.get(chain[-1].parent or "")) is not None and parent.fused_bytes is not None:
        chain.append(parent)
    return chain


def _all_there(out: Path, manifest: Manifest, found: dict[str, Manifest]) -> bool:
    """Whether the documents that came into a stage, or into the first of those fused with it, are those that went."""
    chain = _fused(manifest, found)
    streams = [(m, name) for m in chain for name in ("drops", "quarantine")]
    gone = itertools.chain.from_iterable(_ids(out / m.stage, m, name) for m, name in streams)
    here = out / manifest.stage
    kept = _ids(here, manifest, "rows") if manifest.gives == "documents" else _packed(here, manifest)
    went = _sum(itertools.chain(kept, gone))
    origin = found.get(chain[-1].parent or "")
    if origin is None:
        return went[0] == chain[-1].rows.read
    return went == _sum(_ids(out / origin.stage, origin, "rows"))


def _ids(folder: Path, manifest: Manifest, stream: str) -> Iterator[str]:
    for file in manifest.files.get(stream, []):
        for batch in pq.ParquetFile(folder / file.name).iter_batches(columns=["id"]):
            yield from batch["id"].to_pylist()


def _packed(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The id of each document whose first token is in a packed row, train and validation."""
    for stream in ("rows", "validation"):
        for file in manifest.files.get(stream, []):
            for batch in pq.ParquetFile(folder / file.name).iter_batches(columns=["doc_ids", "doc_offsets"]):
                ids, starts = batch["doc_ids"].flatten().to_pylist(), batch["doc_offsets"].flatten().to_pylist()
                yield from (i for i, start in zip(ids, starts, strict=True) if start == 0)


def _sum(ids: Iterator[str]) -> tuple[int, int]:
    """Count and order-free digest of a multiset of ids."""
    count = total = 0
    for i in ids:
        count += 1
        total = (total + xxhash.xxh3_128_intdigest(i.encode())) & MASK
    return count, total
