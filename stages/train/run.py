"""A training as a whole: from packed rows and a tokenizer to a model on disk, measured before and after.

Reads packed shards and the tokenizer; writes everything of the stage's folder, of which checkpoints and metrics are the
loop's. The weights are gathered in each process at the end, so that must hold them whole once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer
from torch import Tensor

from stages.encoder import digest, spelling, tokenizer_file
from stages.packed_rows import held_out_shards
from stages.train.data import Rows
from stages.train.evaluate import HeldOut
from stages.train.export import export, write_json
from stages.train.loop import Loop, dtype_of, shape_of
from stages.train.model import Model
from stages.train.ngram import Ngrams, training_batches
from stages.train.parallel import World, keep_freed_memory, whole
from stages.train.sample import samples

if TYPE_CHECKING:
    from pipeline.stage import Task
    from stages.train import Train

HELD_OUT_ROWS = 8
"""Rows of a held-out batch."""


def train(stage: Train, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
    """Trains and writes everything into `task.folder`. Returns counters: steps, tokens (labelled ones), parameters."""
    keep_freed_memory()
    world, rows = World(), Rows(shards, task.seed)
    file = tokenizer_file(task.artifacts["tokenizer"])
    if rows.meta["tokenizer_sha256"] != digest(file):
        raise ValueError(f"{shards[0].parent} was packed with another tokenizer than {file}")
    tokenizer = Tokenizer.from_file(str(file))
    held = _held_out(shards[0].parent, stage.validation_rows, tokenizer)
    model = Model(shape_of(stage, rows.meta["vocab_size"]), task.seed, dtype_of(stage, world.device)).to(world.device)
    before = held.measure(model, world) if held else {}
    loop = Loop(stage, task, model, rows, held, world)
    after = loop.run()
    weights = {name: whole(value).cpu() for name, value in model.state_dict().items()}
    counts = {"parameters": sum(map(Tensor.numel, weights.values())), "steps": loop.steps, "tokens": loop.tokens}
    if world.rank == 0:
        export(model.shape, weights, task.folder / "model", file, rows.meta)
        plain = Model(model.shape, dtype=model.dtype)
        plain.load_state_dict(weights)
        texts = samples(plain, tokenizer, stage.prompts, stage.sample_tokens, rows.meta, task.seed)
        summary = {**counts, "refused_steps": loop.guard.refused, "loss": round(loop.loss, 4)}
        scores = _scores(before, after, held, rows) if held else {}
        _tell(task.folder, summary, scores, texts)
    world.wait()
    return counts


def _held_out(pack: Path, most: int, tokenizer: Tokenizer) -> HeldOut | None:
    """At most so many of the rows that `pack` held out; None where there are none."""
    files = [path for path in held_out_shards(pack) if pq.read_metadata(path).num_rows]
    return HeldOut.of(Rows(files, 0).in_order(most, HELD_OUT_ROWS), spelling(tokenizer)) if files else None


def _scores(before: Mapping[str, float], after: Mapping[str, float], held: HeldOut, rows: Rows) -> dict[str, Any]:
    """Bits per byte of the held-out rows: before and after, by group, and what they are to be seen beside."""
    counted = Ngrams(training_batches(rows), rows.meta["vocab_size"])
    return {
        "bits_per_byte_before": round(before[""], 4),
        "bits_per_byte_after": round(after[""], 4),
        "bits_per_byte": {name: round(score, 4) for name, score in after.items() if name},
        **held.baselines(counted),
    }


def _tell(
    folder: Path, summary: Mapping[str, float], scores: Mapping[str, Any], texts: Sequence[Mapping[str, str]]
) -> None:
    """Writes what came of it: `summary.json`, `samples.json`, and of both what is wanted first, `highlights.json`."""
    write_json(folder / "summary.json", {**summary, **({"validation": scores} if scores else {})})
    write_json(folder / "samples.json", texts)
    notes = {"model": f"{summary['parameters']:,} parameters, {summary['tokens']:,} tokens, loss {summary['loss']}"}
    if scores:
        notes["validation bits per byte"] = (
            f"{scores['bits_per_byte_before']} before training, {scores['bits_per_byte_after']} after; "
            f"xz -9e on the same bytes {scores['xz_bits_per_byte']}, a trigram model {scores['trigram_bits_per_byte']}"
        )
    shown = {f"sample {text['prompt']!r}": text["text"] for text in texts}
    write_json(folder / "highlights.json", notes | shown)
