"""Proves the books of a run from its files alone.

Reads `run.json`, every manifest and every file that it names; writes nothing. Of a run: it is finished, and each of its
stages is there, with the manifest that it had when the run ended. Of a stage: its identity gives its fingerprint and
names that of the stage it reads; each file's sha256, size and rows are those written down, and no file is missing or
extra; drops and tokens are as many as the manifest says; and the multiset of ids going in (the parent's kept rows)
equals that of kept, dropped and quarantined rows together, compared by a sum of 128-bit hashes: 16 bytes of memory
whatever the size. Where stages were fused the proof spans them all; where ingest was fused too, no ids that came in are
on disk, and only their number is proved.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline.queries import QueryError
from pipeline.shards import MANIFEST, RUN, Damaged, Manifest, count_rows, read_manifest, sha256_file
from pipeline.terminal import printable

MASK = (1 << 128) - 1
LOST = "the documents that came in are not those kept, dropped and quarantined"
AGAIN = "run the recipe again: what is missing or damaged is made again"
REPLACED = "remove it, or give that run a folder of its own"
COUNTERS = {"rows": "rows", "tokens": "tokens_packed"}
"""What is counted in packed rows → its counter."""
Found = dict[str, Manifest]


def verify_run(out: Path) -> tuple[list[str], int]:
    """Everything that does not hold, each a message with the file and what to do, and the number of files checked.
    Raises QueryError where there is no run."""
    if not (out / RUN).exists() and next(out.glob(f"*/{MANIFEST}"), None) is None:
        raise QueryError(f"{out}: no finished stage here; is it a run's folder?")
    found, problems = _manifests(out)
    problems += _run(out, found)
    damaged: set[str] = set()
    checked = 0
    for folder, manifest in found.items():
        wrong = _chain(out, folder, manifest, found)
        broken, count = _files(out / folder, manifest)
        checked += count
        problems += [*wrong, *broken]
        if broken:
            damaged.add(folder)
        elif not wrong and damaged.isdisjoint((manifest.parent, *(m.stage for m in _fused(manifest, found)))):
            problems += _books(out, folder, manifest, found)
    return [printable(problem) for problem in problems], checked


def _manifests(out: Path) -> tuple[Found, list[str]]:
    """The manifests that can be read, and a message for each that cannot."""
    found: Found = {}
    problems = []
    for path in sorted(out.glob(f"*/{MANIFEST}")):
        folder = path.parent
        try:
            if folder.is_symlink() or path.is_symlink():
                problems.append(f"{path}: is reached by a link; a run's folder holds its own files: remove the link")
            elif (manifest := read_manifest(folder)) is not None:
                found[folder.name] = manifest
        except Damaged as damaged:
            problems.append(f"{out}/{damaged}: {AGAIN}")
    return found, problems


def _run(out: Path, found: Found) -> list[str]:
    """What `run.json` and the stages' folders say of each other."""
    path = out / RUN
    try:
        told = json.loads(path.read_bytes())
        stages = {str(entry["stage"]): entry for entry in told["stages"]}
        finished = told["finished"] is True
    except FileNotFoundError:
        return [f"{path}: missing, so the run is not finished: run the recipe again"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return [f"{path}: damaged: run the recipe again, which writes it anew"]
    problems = [] if finished else [f"{out}: the run is not finished: run the recipe again to go on"]
    for folder, entry in stages.items():
        manifest = found.get(folder)
        if manifest is None and not (out / folder / MANIFEST).exists():
            what = "has no manifest" if (out / folder).is_dir() else "is missing as a whole"
            problems += [f"{out / folder}: the stage {what}: {AGAIN}"] if finished else []
        elif manifest is not None and manifest.fingerprint != entry.get("fingerprint"):
            problems.append(f"{out / folder / MANIFEST}: not of the stage that {RUN} names: {AGAIN}")
        elif manifest is not None and finished and sha256_file(out / folder / MANIFEST) != entry.get("manifest"):
            problems.append(f"{out / folder / MANIFEST}: changed since the run ended: {_anew(folder)}")
    strangers = sorted(found.keys() - stages.keys())
    return problems + [f"{out / folder}: a stage that is not in {RUN}: {REPLACED}" for folder in strangers]


def _anew(folder: str) -> str:
    return f"run the recipe again with --force {folder.partition('-')[2] or folder}"


def _chain(out: Path, folder: str, manifest: Manifest, found: Found) -> list[str]:
    """Whether a manifest is what its identity says, and follows from that of the stage it reads."""
    path = out / folder / MANIFEST
    if manifest.stage != folder:
        return [f"{path}: it is of {manifest.stage}, but lies in {folder}: name the folder {manifest.stage} again"]
    if manifest.identity.fingerprint != manifest.fingerprint:
        return [f"{path}: its fingerprint is not that of what it describes: {_anew(folder)}"]
    parent, wanted = found.get(manifest.parent or ""), manifest.identity.parent
    if (wanted is None) != (manifest.parent is None):
        return [f"{path}: it and its identity do not name the same stage as read: {_anew(folder)}"]
    if manifest.parent is not None and parent is None:
        return [f"{path}: it read {manifest.parent}, which is not here: {AGAIN}"]
    if parent is not None and parent.fingerprint != wanted:
        return [f"{path}: it read another {manifest.parent} than the one here: {AGAIN}"]
    return []


def _files(folder: Path, manifest: Manifest) -> tuple[list[str], int]:
    """Files that are not as the manifest says, and how many it names."""
    files = manifest.all_files()
    named = {folder / file.name for file in files}
    problems = [f"{folder / file.name}: listed twice: {_anew(folder.name)}" for file in files[len(named) :]]
    for file in files:
        path = folder / file.name
        if fault := file.fault(folder):
            problems.append(f"{path}: {fault.removeprefix(file.name).strip()}: {AGAIN}")
        elif sha256_file(path) != file.sha256:
            problems.append(f"{path}: not the bytes that were written: remove it, and {AGAIN}")
        elif path.suffix == ".parquet" and count_rows(path) != file.rows:
            problems.append(f"{path}: {count_rows(path)} rows, {file.rows} in the manifest: {_anew(folder.name)}")
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path not in named]
    problems += [f"{path}: is a link; a run's folder holds its own files: remove the link" for path in links]
    extra = [path for path in folder.rglob("*") if path not in named and path.is_file() and not _log(path, folder)]
    problems += [f"{path}: in no manifest: remove it" for path in sorted(extra)]
    return problems, len(named)


def _log(path: Path, folder: Path) -> bool:
    """Whether a file is none of a stage's answer: its manifest, a log, what a training resumes from, a hidden file."""
    parts = path.relative_to(folder).parts
    return path.name == MANIFEST or path.suffix == ".jsonl" or "checkpoints" in parts or parts[0].startswith(".")


def _books(out: Path, folder: str, manifest: Manifest, found: Found) -> list[str]:
    rows, here = manifest.rows, out / folder
    remedy = _anew(folder)
    if not rows.balanced:
        numbers = f"read {rows.read}, but kept {rows.kept}, dropped {rows.dropped}, quarantined {rows.quarantined}"
        return [f"{here}: {numbers}: {remedy}"]
    gone = {name: sum(f.rows for f in manifest.files.get(name, [])) for name in ("drops", "quarantine")}
    if (rows.dropped, rows.quarantined) != (gone["drops"], gone["quarantine"]):
        told = f"dropped {rows.dropped}, quarantined {rows.quarantined}, but its files hold"
        return [f"{here}: {told} {gone['drops']} and {gone['quarantine']}: {remedy}"]
    parent = found.get(manifest.parent or "")
    if parent is not None and parent.rows.kept != rows.read:
        return [f"{here}: read {rows.read} rows, {manifest.parent} kept {parent.rows.kept}: {remedy}"]
    problems = [f"{here}: {problem}: {remedy}" for problem in (*_rules(here, manifest), *_tokens(here, manifest))]
    if parent is not None and manifest.gives != "artifact" and manifest.fused_bytes is None:
        problems += [] if _all_there(out, manifest, found) else [f"{here}: {LOST}: {remedy}"]
    return problems


def _rules(here: Path, manifest: Manifest) -> list[str]:
    """Whether the drops by rule are those of the files."""
    counted: Counter[str] = Counter()
    for batch in _batches(here, manifest, ("drops",), ["rule"]):
        counted.update({row["values"]: row["counts"] for row in pc.value_counts(batch["rule"]).to_pylist()})
    return [] if counted == Counter(manifest.rules) else [f"drops by rule {manifest.rules}, its files: {dict(counted)}"]


def _tokens(here: Path, manifest: Manifest) -> list[str]:
    """Whether packed rows and their tokens are as many as counted."""
    if manifest.gives != "rows":
        return []
    rows = tokens = 0
    for batch in _batches(here, manifest, ("rows", "validation"), ["seq_lengths"]):
        rows += len(batch)
        tokens += pc.sum(batch["seq_lengths"].flatten()).as_py() or 0
    counted = {"rows": rows, "tokens": tokens}
    told = _told(manifest.counters)
    return [f"{name}: {told[name]:,} counted, {n:,} in its files" for name, n in counted.items() if told[name] != n]


def _told(counters: Mapping[str, int]) -> dict[str, int]:
    """Rows and tokens as `pack` counts them, of both splits."""
    return {name: counters.get(key, 0) + counters.get(f"{key}_validation", 0) for name, key in COUNTERS.items()}


def _fused(manifest: Manifest, found: Found) -> list[Manifest]:
    """A stage and those fused in front of it, the first one last."""
    chain = [manifest]
    while (parent := found.get(chain[-1].parent or "")) is not None and parent.fused_bytes is not None:
        chain.append(parent)
    return chain


def _all_there(out: Path, manifest: Manifest, found: Found) -> bool:
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


def _batches(folder: Path, manifest: Manifest, streams: Sequence[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in (file for stream in streams for file in manifest.files.get(stream, [])):
        yield from pq.ParquetFile(folder / file.name).iter_batches(columns=columns)


def _ids(folder: Path, manifest: Manifest, stream: str) -> Iterator[str]:
    for batch in _batches(folder, manifest, (stream,), ["id"]):
        yield from batch["id"].to_pylist()


def _packed(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The id of each document whose first token is in a packed row, train and validation."""
    for batch in _batches(folder, manifest, ("rows", "validation"), ["doc_ids", "doc_offsets"]):
        ids, starts = batch["doc_ids"].flatten().to_pylist(), batch["doc_offsets"].flatten().to_pylist()
        yield from (i for i, start in zip(ids, starts, strict=True) if start == 0)


def _sum(ids: Iterator[str]) -> tuple[int, int]:
    """Count and order-free digest of a multiset of ids."""
    count = total = 0
    for i in ids:
        count += 1
        total = (total + xxhash.xxh3_128_intdigest(i.encode())) & MASK
    return count, total
