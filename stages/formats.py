"""Packed shards as other trainers read them: nanoGPT's `.bin`, Megatron's `.bin` and `.idx`, MosaicML's MDS.

Reads packed shards, writes one folder; ids take two bytes where the vocabulary allows, else four. The first two have no
rows, so there a padding goes, each segment is a document, and what attention may see is lost; MDS keeps rows and their
segments' lengths.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.packed_rows import Group, PackedRows, held_out_shards, training_shards

MEGATRON = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1)
"""Magic and version of an .idx (NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py)."""
MEGATRON_TYPES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}


def nanogpt(rows: PackedRows, folder: Path, name: str) -> None:
    """`NAME.bin`: all tokens, segment after segment, without a header, as uint16 or uint32 (nanoGPT, train.py)."""
    wide = np.uint16 if rows.meta["vocab_size"] <= 1 << 16 else np.uint32
    with (folder / f"{name}.bin").open("wb") as file:
        for group in _groups(rows):
            file.write(_tokens(group).astype(wide).tobytes())


def megatron(rows: PackedRows, folder: Path, name: str) -> None:
    """`NAME.bin` and `NAME.idx`: each segment a sequence and a document of its own."""
    narrow = np.dtype(np.uint16 if rows.meta["vocab_size"] <= 1 << 16 else np.int32)
    lengths = []
    with (folder / f"{name}.bin").open("wb") as file:
        for group in _groups(rows):
            file.write(_tokens(group).astype(narrow).tobytes())
            lengths.append(group.lengths)
    sizes = np.concatenate(lengths).astype(np.int32)
    starts = (np.cumsum(sizes, dtype=np.int64) - sizes) * narrow.itemsize
    with (folder / f"{name}.idx").open("wb") as file:
        file.write(MEGATRON + struct.pack("<BQQ", MEGATRON_TYPES[narrow], len(sizes), len(sizes) + 1))
        for array in (sizes, starts, np.arange(len(sizes) + 1, dtype=np.int64)):
            file.write(array.tobytes())


def mds(rows: PackedRows, folder: Path, name: str) -> None:
    """`NAME/`: an MDS shard per row group, samples of `tokens` and `seq_lengths` (mosaicml/streaming, format/mds)."""
    narrow = "uint16" if rows.meta["vocab_size"] <= 1 << 16 else "int32"
    about: dict[str, object] = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": None,
        "column_names": ["seq_lengths", "tokens"],
        "column_encodings": ["ndarray:int32", f"ndarray:{narrow}:{rows.length}"],
        "column_sizes": [None, rows.length * np.dtype(narrow).itemsize],
    }
    (folder / name).mkdir(parents=True, exist_ok=True)
    index = []
    for number, group in enumerate(_groups(rows)):
        samples = [_sample(*group.row(k), narrow) for k in range(len(group.ids))]
        path = folder / name / f"shard.{number:05}.mds"
        path.write_bytes(_mds_shard(samples, json.dumps(about, sort_keys=True).encode()))
        data = {"basename": path.name, "bytes": path.stat().st_size, "hashes": {}}
        index.append({**about, "samples": len(samples), "raw_data": data, "zip_data": None})
    (folder / name / "index.json").write_text(json.dumps({"version": 2, "shards": index}, sort_keys=True))


def _sample(ids: NDArray[np.int32], lengths: NDArray[np.int32], narrow: str) -> bytes:
    """A row: the size of what has no fixed one, then the columns; an array is (axes << 2 | width of its shape), shape,
    values."""
    first = struct.pack("<BI", 1 << 2 | 2, len(lengths)) + lengths.astype(np.int32).tobytes()
    return struct.pack("<I", len(first)) + first + ids.astype(narrow).tobytes()


def _mds_shard(samples: Sequence[bytes], about: bytes) -> bytes:
    sizes = np.array([0, *map(len, samples)]).cumsum()
    offsets = (sizes + 4 + 4 * len(sizes) + len(about)).astype(np.uint32)
    return struct.pack("<I", len(samples)) + offsets.tobytes() + about + b"".join(samples)


def _groups(rows: PackedRows) -> Iterator[Group]:
    return map(rows.group, range(len(rows.groups)))


def _tokens(group: Group) -> NDArray[np.int32]:
    """A group's tokens without padding."""
    real = np.add.reduceat(group.lengths, group.edges[:-1])
    return group.ids[np.arange(group.ids.shape[1]) < real[:, None]]


WRITERS: Mapping[str, Callable[[PackedRows, Path, str], None]] = {"nanogpt": nanogpt, "megatron": megatron, "mds": mds}


def export_rows(pack: Path, folder: Path, kind: str) -> list[Path]:
    """Writes a `pack` folder's rows as `train` and its held-out rows as `val`; the files written.

    kind: "nanogpt", "megatron" or "mds", else a ValueError.
    """
    if kind not in WRITERS:
        raise ValueError(f"--format {kind}: known are hf, {', '.join(WRITERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, shards in {"train": training_shards(pack), "val": held_out_shards(pack)}.items():
        if shards:
            WRITERS[kind](PackedRows(shards), folder, name)
    return sorted(path for path in folder.rglob("*") if path.is_file())
