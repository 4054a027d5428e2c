"""All benchmarks, one after the other: python -m benchmarks CORPORA [--peer-python PYTHON] [--quick] [--only NAME …].

Runs each script with `--json`, prints its rows and its time, and writes RESULTS.md beside this file: machine, versions,
date, one table a question. A script that fails has a row that says so, and the rest run. `benchmarks.train` measures
the trainer, apart.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import HEADS, Measure, Row, parse

HERE = Path(__file__).parent
SIZES = {
    "quality": (8.0, 0.3),
    "quality_chinese": (8.0, 0.3),
    "language": (8.0, 0.5),
    "clean": (8.0, 0.5),
    "near_dedup": (60.0, 4.0),
    "near_dedup_scripts": (2.0, 0.1),
    "exact_dedup": (88.0, 4.0),
    "tokenizer_training": (50.0, 1.0),
    "pack": (8.0, 0.5),
    "chain": (320.0, 1.0),
    "startup": (0.5, 0.2),
    "scaling": (2000.0, 20.0),
}
"""Each script and its `--megabytes`, in full and with `--quick`."""
ALONE = ("near_dedup_scripts", "startup", "scaling")
"""Scripts without a peer."""
LIBRARIES = ("gristmill", "numpy", "numba", "pyarrow", "tokenizers", "gigatoken", "ftfy")
PEERS = ("datatrove", "spacy", "ftfy", "py3langid", "pycld2", "rensa", "tokenizers", "gigatoken", "jieba")
LONGEST = 3600
"""Seconds after which a script is given up."""


def main() -> None:
    """Runs and writes."""
    given = options()
    sections = []
    for name in given.only or SIZES:
        began = time.perf_counter()
        rows, fault = run(name, given)
        took = time.perf_counter() - began
        print(f"{name}: {took:,.0f} s{'; ' + fault if fault else ''}", flush=True)
        sections.append(section(name, rows, fault, took))
    if given.only is None or given.out != HERE / "RESULTS.md":
        given.out.write_text("\n\n".join([heading(given), *sections]) + "\n", encoding="utf-8")
        print(f"wrote {given.out.name}")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpora", type=Path, help="a folder with a folder of Parquet files for each kind of text")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="has the peers installed")
    parser.add_argument("--quick", action="store_true", help="small texts, one turn: to see that all runs")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), help="these alone; RESULTS.md stays as it is")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="where the results go")
    return parser.parse_args()


def run(name: str, given: argparse.Namespace) -> tuple[list[Row | Measure], str]:
    """A script's rows as it prints them, and what went wrong, if anything."""
    command = [sys.executable, "-m", f"benchmarks.{name}", str(given.corpora), "--json"]
    command += ["--megabytes", str(SIZES[name][given.quick])]
    command += ["--turns", "1"] if given.quick else []
    if name not in (*ALONE, "pack", "exact_dedup", "tokenizer_training"):
        command += ["--peer-python", str(given.peer_python)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err += f"\ngiven up after {LONGEST} s"
    rows = [parse(line) for line in out.splitlines() if line.startswith("{")]
    for row in rows:
        print(row.text(), flush=True)
    if process.returncode == 0:
        return rows, ""
    why = (err.strip().splitlines() or ["no word of why"])[-1]
    return rows, "did not run to its end: " + re.sub(r"(?<!\S)/\S+", "…", why)[:200]


def section(name: str, rows: Sequence[Row | Measure], fault: str, took: float) -> str:
    """A question, and its answers as Markdown: a table for each kind of row."""
    title, _, about = question(name).partition(": ")
    lines = [f"## {title}", "", f"`benchmarks/{name}.py`, {took:,.0f} s. {about}".rstrip()]
    for kind, head in HEADS.items():
        if found := [row.text() for row in rows if type(row) is kind]:
            lines += ["", head, *found]
    return "\n".join([*lines, "", f"**{fault}**"] if fault else lines)


def question(name: str) -> str:
    """The docstring of a script: its title, and what comes after its first line."""
    path = HERE / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    first, _, rest = (text or name).partition("\n")
    return f"{first.partition(':')[0]}: {' '.join(rest.split())}"


def heading(given: argparse.Namespace) -> str:
    """What was measured where: nothing that tells one machine of a kind from another."""
    names = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"""# Results

Written by `make bench{" QUICK=1" if given.quick else ""}` on {datetime.date.today().isoformat()}: {processor()}, \
{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}. {names}. Peers: \
{peers(given.peer_python)}.

Rates are of CPU time (user and system) on one core, medians of several turns and, where there are several, ± half of
their spread; both sides have the same texts, in turn. MB is 10^6 bytes of UTF-8 text. "ours takes": as many times as
long as reading and writing the same shard."""


def processor() -> str:
    """The CPU's model, as the kernel names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peers(python: Path) -> str:
    """The peers' versions in their own Python."""
    script = "import importlib.metadata as m, sys\nfor n in sys.argv[1:]:\n  print(n, m.version(n))"
    names = [subprocess.run([python, "-c", script, n], capture_output=True, text=True, check=False) for n in PEERS]
    return ", ".join(done.stdout.strip() for done in names if done.returncode == 0) or "none"


if __name__ == "__main__":
    main()
