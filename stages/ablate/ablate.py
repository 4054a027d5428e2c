"""Models that differ in their recipe alone, and the table of what each recipe is worth.

Reads packed runs; writes a folder for each model and gives a table. All get the same model, steps, batch and row
length, so the same number of tokens, and every byte of the same documents is predicted, whatever the tokenizer. The
intervals are over seeds alone, not over documents or sizes of model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards import discard
from stages.ablate.held_out import Arm, HeldOut, hold_out
from stages.encoder import Encoder
from stages.inference.tasks import likelihoods
from stages.train import Train
from stages.train.command import settings_of, train_into
from stages.train.export import load_model, write_json
from stages.train.loop import dtype_of, steps_of
from stages.train.model import Model
from stages.train.parallel import World

Tell = Callable[[str], None]


def measure(model: Model, encoder: Encoder, held: HeldOut, bos: int, longest: int) -> NDArray[np.float64]:
    """Bits that a model needs for each text, all of its bytes: float64[n].

    A text over the model's length is read in windows that overlap by half, each token being predicted once.
    """
    ids, offsets = encoder.encode(held.texts)
    pieces = [windows(ids[low:high].tolist(), bos, longest) for low, high in pairwise(offsets)]
    answers = likelihoods(model, [window for one in pieces for window in one])
    nats = np.array([-answer.logp for answer in answers])
    firsts = np.cumsum([0, *(len(one) for one in pieces[:-1])])
    found: NDArray[np.float64] = np.add.reduceat(nats, firsts) / math.log(2)
    return found


def windows(ids: list[int], bos: int, longest: int) -> list[tuple[list[int], int]]:
    """(tokens, how many at the end are to be predicted) of windows that together predict each of `ids` once."""
    tokens, end = [bos, *ids], min(len(ids) + 1, longest)
    found = [(tokens[:end], end - 1)]
    while end < len(tokens):
        further = min(end + longest // 2, len(tokens))
        found.append((tokens[further - longest : further], further - end))
        end = further
    return found


def ablate(
    runs: Mapping[str, Path],
    base: Mapping[str, Any],
    changes: Sequence[str],
    seeds: int,
    out: Path,
    files: Sequence[Path],
    tell: Tell,
) -> dict[str, Any]:
    """Trains and measures each run with each seed, or takes up what was done before; the numbers of the table.

    base, changes: settings of `train`; without `max_steps`, as many steps as the smallest has for one pass.
    """
    stage = settings_of(base, changes)
    arms = [Arm.of(name, run) for name, run in runs.items()]
    length = _length(arms)
    steps = min(steps_of(stage, arm.rows()) for arm in arms)
    stage = stage.model_copy(update={"max_steps": steps, "prompts": ()})
    held = hold_out(arms, files)
    tell(f"held out: {len(held.langs):,} documents, {held.sizes.sum():,} bytes; {held.left_out:,} known, left out")
    bits: dict[str, list[list[float]]] = {arm.name: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            folder = out / f"{arm.name}-seed-{seed}"
            bits[arm.name].append(_result(arm, stage, held, seed, folder, tell))
            tell(f"{arm.name}, seed {seed}: {sum(bits[arm.name][-1]) / held.sizes.sum():.4f} bits per byte")
    found = [_arm_numbers(arm, np.array(bits[arm.name]), held, stage) for arm in arms]
    for one in found[1:]:
        one["difference"] = interval(np.subtract(one["bits_per_byte"], found[0]["bits_per_byte"]))
    size = {"documents": len(held.langs), "bytes": int(held.sizes.sum()), "left_out": held.left_out}
    tokens = steps * stage.batch * length
    return {"held_out": size, "tokens": tokens, "steps": steps, "seeds": seeds, "recipes": found}


def _length(arms: Sequence[Arm]) -> int:
    """Tokens of a row, which must be the same for all."""
    lengths = {arm.rows().length for arm in arms}
    if len(lengths) > 1:
        raise ValueError(f"rows of {sorted(lengths)} tokens: `sequence_length` must be the same in all recipes")
    return lengths.pop()


def _result(arm: Arm, stage: Train, held: HeldOut, seed: int, folder: Path, tell: Tell) -> list[float]:
    """Bits for each held-out text, by a model trained in `folder`, now or before."""
    rows, file = arm.rows(), folder / "held_out.json"
    same = {"rows": rows.fingerprint(), "settings": stage.deciding(), "steps": stage.max_steps, "seed": seed}
    same |= {"held_out": held.digest(), "version": stage.version}
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if old is None or old["same"] != same:
        if old is not None:
            discard(folder)
        tell(f"training on {arm.name}, seed {seed}")
        train_into(stage, arm.pack, arm.tokenizer, folder, seed)
        model, config = load_model(folder / "model", dtype_of(stage, World().device))
        bits = measure(model, Encoder(arm.tokenizer), held, config["bos_token_id"], rows.length)
        old = {"same": same, "bits": bits.tolist()}
        write_json(file, old)
        shutil.rmtree(folder / "checkpoints")
    found: list[float] = old["bits"]
    return found


def _arm_numbers(arm: Arm, bits: NDArray[np.float64], held: HeldOut, stage: Train) -> dict[str, Any]:
    """What the table says of an arm. bits: float64[seeds, texts]."""
    rows, langs = arm.rows(), np.array(held.langs)
    scores = bits.sum(1) / held.sizes.sum()
    places = {lang: langs == lang for lang in sorted(set(held.langs))}
    return {
        "recipe": arm.name,
        "documents": sum(len(batch) for batch, _ in arm.documents()),
        "tokens": rows.total * rows.length,
        "passes": (stage.max_steps or 0) * stage.batch / rows.total,
        "bits_per_byte": scores.tolist(),
        **interval(scores),
        "by_language": {k: float(bits[:, at].mean(0).sum() / held.sizes[at].sum()) for k, at in places.items()},
    }


def interval(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean and half the width of its 95 % confidence interval (Student's t); None for a single value."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"mean": float(values.mean()), "half": half}


def as_text(found: Mapping[str, Any]) -> str:
    """The table for people."""
    held, lines = found["held_out"], []
    for one in found["recipes"]:
        difference = _plus_minus(one["difference"], "+.4f") if "difference" in one else ""
        lines.append(
            f"{one['recipe']:<24}{one['documents']:>11,}{one['tokens'] / 1e6:>10,.1f}{one['passes']:>8.2f}"
            f"{_plus_minus(one, '.4f'):>20}{difference:>21}"
        )
    head = f"{'recipe':<24}{'documents':>11}{'M tokens':>10}{'passes':>8}{'bits per byte':>20}{'to the first':>21}"
    return "\n".join(
        [
            head,
            *lines,
            f"each model: {found['tokens'] / 1e6:,.1f} M tokens in {found['steps']:,} steps; {found['seeds']} seeds, "
            "± 95 % over seeds, differences paired by seed",
            f"held out: {held['documents']:,} documents, {held['bytes'] / 1e6:,.2f} MB; {held['left_out']:,} more left "
            "out, since a recipe trains on half of one's shingles",
        ]
    )


def _plus_minus(one: Mapping[str, Any], form: str) -> str:
    half = "" if one["half"] is None else f" ± {one['half']:.4f}"
    return f"{one['mean']:{form}}{half}"
