"""Mutated inputs of every format through whole runs: no crash, every record accounted for, good files whole.

`python -m tests.fuzz_inputs --count 20000 --seed 1` runs many; the tests run a few. Each run reads a folder of mutated
files, and beside them one good file of each format, of which every document must come out.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXTS = [
    "An ordinary document about a mill.",
    "二〇二六年的磨坊，水声不绝。",
    'It said "no", twice;\tthen left.',
    "देवनागरी में लिखा हुआ",
]
ROWS = 12
FILES = 100
"""Mutated files of one run."""
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def records() -> list[dict[str, object]]:
    """Documents with metadata of several types."""
    return [{"id": f"d{k}", "text": f"{TEXTS[k % 4]} {k}", "n": k * 10**17, "tags": ["a", k]} for k in range(ROWS)]


def _jsonl() -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records()).encode()


def _json() -> bytes:
    return json.dumps(records(), ensure_ascii=False, indent=1).encode()


def _table(delimiter: str) -> bytes:
    cells = [[str(r["id"]), str(r["text"])] for r in records()]
    if delimiter == "\t":
        rows = [[cell.replace("\t", " ") for cell in row] for row in cells]
    else:
        rows = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return "\n".join(delimiter.join(row) for row in [["id", "text"], *rows]).encode()


def _parquet() -> bytes:
    sink = io.BytesIO()
    columns = {name: [r[name] for r in records()] for name in ("id", "text", "n")}
    when = pa.array(range(ROWS), pa.timestamp("ns", tz="UTC"))
    table = pa.table({**columns, "when": when, "kind": pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode()})
    pq.write_table(table, sink, row_group_size=5)
    return sink.getvalue()


def _warc(kind: str) -> bytes:
    out = b""
    for r in records():
        body = str(r["text"]).encode()
        if kind == "response":
            page = b"<html><body><p>" + body + b"</p></body></html>"
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
        types = {"response": b"application/http; msgtype=response", "conversion": b"text/plain"}
        head = [
            b"WARC/1.0",
            b"WARC-Type: " + kind.encode(),
            b"WARC-Target-URI: http://example.org/" + str(r["id"]).encode(),
        ]
        head += [b"Content-Type: " + types[kind], b"Content-Length: " + str(len(body)).encode()]
        out += b"\r\n".join(head) + b"\r\n\r\n" + body + b"\r\n\r\n"
    return out


FORMATS: dict[str, Callable[[], bytes]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": lambda: _table(","),
    "tsv": lambda: _table("\t"),
    "txt": lambda: "\n\n".join(str(r["text"]) for r in records()).encode(),
    "md": lambda: "\n\n".join(str(r["text"]) for r in records()).encode(),
    "parquet": _parquet,
    "warc": lambda: _warc("response"),
    "wet": lambda: _warc("conversion"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: flipped, lost, doubled, foreign or zeroed bytes; of a Parquet file often in its footer."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not changed:
            break
        low = max(0, len(changed) - 600) if data[:4] == b"PAR1" and chance.random() < 0.7 else 0
        at, size = chance.randrange(low, len(changed)), chance.choice([1, 1, 2, 8, 64, 500])
        match chance.choice(["flip", "flip", "lose", "double", "foreign", "zero", "cut"]):
            case "flip":
                changed[at] ^= 1 << chance.randrange(8)
            case "lose":
                del changed[at : at + size]
            case "double":
                changed[at:at] = changed[at : at + size]
            case "foreign":
                changed[at : at + size] = chance.randbytes(size)
            case "zero":
                changed[at : at + size] = bytes(size)
            case _:
                del changed[at:]
    return bytes(changed)


def write(folder: Path, chance: random.Random, files: int = FILES) -> Path:
    """A folder of good and mutated files, and a recipe that reads them all."""
    inputs = []
    for k, (form, make) in enumerate(FORMATS.items()):
        data = make()
        (folder / form).mkdir(parents=True)
        (folder / form / f"00-good.{form}").write_bytes(data)
        for number in range(k, files, len(FORMATS)):
            suffix = chance.choice(list(COMPRESSED)) if form != "parquet" else ""
            inside = chance.random() < 0.5
            whole = COMPRESSED[suffix](mutated(data, chance) if inside else data)
            name = f"{number:04}.{form}{suffix}"
            (folder / form / name).write_bytes(whole if inside and suffix else mutated(whole, chance))
        documents = "block" if form in ("txt", "md") else "file"
        inputs.append({"path": f"{form}/*", "name": form, "documents": documents})
    stages = [{"use": "ingest", "inputs": inputs}, {"use": "extract"}, {"use": "clean"}]
    (folder / "recipe.yaml").write_text(json.dumps({"max_bad": 1, "stages": stages}))
    return folder / "recipe.yaml"


def problems(folder: Path, chance: random.Random, files: int = FILES) -> list[str]:
    """Runs one folder of mutated files; what went wrong, in words."""
    recipe = write(folder, chance, files)
    command = [sys.executable, "-m", "pipeline.cli"]
    done = subprocess.run([*command, "run", recipe.name, "--out", "out", "--workers", "2", "--quiet"], cwd=folder,
                          capture_output=True, text=True, timeout=600, check=False)  # fmt: skip
    if done.returncode != 0 or "Traceback" in done.stderr:
        return [f"run: exit {done.returncode}: {done.stderr[-600:]}"]
    checked = subprocess.run([*command, "verify", "out"], cwd=folder, capture_output=True, text=True, check=False)
    found = [] if checked.returncode == 0 else [f"verify: {checked.stdout[-600:]}"]
    kept: Counter[str] = Counter()
    for shard in sorted((folder / "out/03-clean").glob("part-*.parquet")):
        kept.update(
            source.partition(":")[0] for source in pq.read_table(shard, columns=["source"])["source"].to_pylist()
        )
    for form in FORMATS:
        name = f"{form}/00-good.{form}"
        found += [] if kept[name] == ROWS else [f"{name}: {kept[name]} of {ROWS} documents came out"]
    return found


def main() -> None:
    """Runs until `--count` files were tried; folders that went wrong are kept and named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wrong = 0
    for turn in range(-(-given.count // FILES)):
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{given.seed}-{turn}-"))
        found = problems(folder, random.Random(f"{given.seed}.{turn}"))
        wrong += bool(found)
        if found:
            sys.stdout.write(f"{folder}: {'; '.join(found)}\n")
        else:
            shutil.rmtree(folder)
        sys.stdout.flush()
    sys.stdout.write(f"{given.count} mutated files, {wrong} runs went wrong\n")


if __name__ == "__main__":
    main()
