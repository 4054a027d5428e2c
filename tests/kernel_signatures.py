"""What the kernels are called with: `python -m tests.kernel_signatures` writes `stages/kernels/signatures.json` anew.

Runs every stage that has kernels, with settings that make it call each of them, in this process, and writes the types
of the arguments. Kernels that only other kernels call are left out: those of `stages/kernels/leaf.py`, and others by
their names, which begin with `_`.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import load_recipe
from pipeline.engines import Report
from pipeline.engines.work import TaskResult, TaskSpec, run_task
from pipeline.plan import make_plan
from pipeline.runner import execute

ROOT = Path(__file__).parent.parent
FILE = ROOT / "stages/kernels/signatures.json"
INPUTS = f"""
max_bad: 1
stages:
  - use: ingest
    inputs: ["{ROOT}/sample_data/docs/*.zst", "{ROOT}/sample_data/wiki-like/*.parquet"]
    id_field: id
"""
ALL = """
  - use: clean
  - use: language
  - {use: quality, rules: [gopher_repetition, c4, gopher_quality, fineweb, fineweb2]}
  - use: exact_dedup
  - {use: near_dedup, similarity: 0.5}
  - {use: tokenizer, vocab_size: 600}
  - {use: pack, sequence_length: 256}
"""
OTHERWISE = """
  - {use: language, backend: langdetect, max_chars: 100}
  - {use: quality, rules: [c4, fineweb2], chinese: characters}
  - {use: exact_dedup, normalise: text}
  - {use: near_dedup, verify: false, keep: longest}
  - {use: tokenizer, vocab_size: 600, pattern: "[a-z]+|[^a-z]+", compare_gpt2: false, balance: lang}
  - {use: pack, sequence_length: 256, algorithm: concat}
"""
DOCUMENTS = 150
"""Enough for near-duplicates and for a table of words that grows."""


class Here:
    """An engine without processes that loads the stages anew for each step, and notes what their kernels are called
    with: by module and kernel, and the modules by stage."""

    def __init__(self) -> None:
        self.called: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.by_stage: dict[str, set[str]] = defaultdict(set)

    def run(self, specs: Sequence[TaskSpec], report: Report) -> Iterator[TaskResult]:
        for name in [name for name in sys.modules if name.partition(".")[0] == "stages"]:
            del sys.modules[name]
        results = [run_task(spec, report) for spec in specs]
        for module, kernel, value in kernels():
            if value.signatures:
                self.called[module][kernel] |= {f"({', '.join(map(repr, types))})" for types in value.signatures}
                self.by_stage[specs[0].use].add(module)
        return iter(results)

    def close(self) -> None:
        """Nothing to end."""

    def text(self) -> str:
        """What the file is to hold: by the module's last name and the kernel's, its signatures."""
        found = {
            module.rpartition(".")[2]: {kernel: sorted(types) for kernel, types in sorted(kernels.items())}
            for module, kernels in sorted(self.called.items())
        }
        return json.dumps(found, indent=1) + "\n"


def kernels() -> Iterator[tuple[str, str, object]]:
    """The kernels of the loaded modules that Python may call: (module, name, the kernel)."""
    for module, loaded in list(sys.modules.items()):
        for name, value in list(vars(loaded).items()) if module.startswith("stages.kernels.") else ():
            own = getattr(value, "__module__", "") == module and hasattr(value, "signatures")
            if own and name[0] != "_" and not value.targetoptions.get("no_cpython_wrapper"):
                yield module, name, value


def record() -> tuple[Here, dict[str, set[str]]]:
    """Runs the recipes: (what was called, the modules that each stage names)."""
    engine, named = Here(), defaultdict[str, set[str]](set)
    with tempfile.TemporaryDirectory() as folder:
        for k, stages in enumerate((ALL, OTHERWISE)):
            recipe = Path(folder) / f"{k}.yaml"
            recipe.write_text(INPUTS + stages)
            plan = make_plan(load_recipe(recipe), Path(folder) / str(k), DOCUMENTS)
            execute(plan, engine, lambda _: None)
            for planned in plan.stages:
                named[planned.use.ref] |= set(planned.stage.kernels())
    return engine, named


if __name__ == "__main__":
    FILE.write_text(record()[0].text())
