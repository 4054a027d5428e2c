"""Do other trainers' own readers see a run's packed rows as they are? formats.py RUN --peer-python PYTHON.

Exports the rows of RUN as nanoGPT, Megatron and MDS and reads each back in a Python that has numpy, megatron-core and
mosaicml-streaming: nanoGPT's `np.memmap`, Megatron's `IndexedDataset`, MosaicML's `LocalDataset`. Prints for each how
many rows or segments it found and whether every token is the same; exit 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from stages.formats import export_rows
from stages.packed_rows import METADATA, training_shards
from stages.train.command import rows_folder

READERS = {
    "nanogpt": """
import numpy as np
found = np.memmap(f"{folder}/nanogpt/train.bin", dtype=np.uint16 if small else np.uint32, mode="r").tolist()
tell("nanogpt", len(found), found == [token for segment in segments for token in segment])
""",
    "megatron": """
from megatron.core.datasets.indexed_dataset import IndexedDataset
found = IndexedDataset(f"{folder}/megatron/train")
same = all(found[k].tolist() == segment for k, segment in enumerate(segments))
tell("megatron", len(found), len(found) == len(segments) and same)
""",
    "mds": """
from streaming import LocalDataset
found = LocalDataset(f"{folder}/mds/train")
pairs = ((found[k]["tokens"].tolist(), found[k]["seq_lengths"].tolist()) for k in range(len(found)))
same = all([*pair] == row for pair, row in zip(pairs, rows))
tell("mds", len(found), len(found) == len(rows) and same)
""",
}
START = """
import json, sys
folder = sys.argv[1]
rows, small = json.load(open(f"{folder}/rows.json"))
segments = []
for ids, lengths in rows:
    for length in lengths:
        segments.append(ids[:length])
        ids = ids[length:]
def tell(name, count, same):
    print(f"{name}: {count:,} read, {'every token the same' if same else 'NOT the same'}")
    sys.exit(not same)
"""


def main() -> int:
    """Exports, reads, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--peer-python", default=sys.executable, help="has megatron-core and mosaicml-streaming")
    given = parser.parse_args()
    pack = rows_folder(given.run)
    shards = training_shards(pack)
    tables = [pq.read_table(path, columns=["input_ids", "seq_lengths"]) for path in shards]
    rows = [pair for t in tables for pair in zip(t["input_ids"].to_pylist(), t["seq_lengths"].to_pylist(), strict=True)]
    meta = json.loads(pq.read_metadata(shards[0]).metadata[METADATA.encode()])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.json").write_text(json.dumps([rows, meta["vocab_size"] <= 1 << 16]))
        for kind, reader in READERS.items():
            export_rows(pack, Path(folder) / kind, kind)
            command = [given.peer_python, "-W", "ignore", "-c", START + reader, folder]
            failed += subprocess.run(command, check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
