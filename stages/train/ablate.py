"""What a recipe is worth: the same small model trained on each one's rows, measured on the same held-out text.

Reads packed runs; writes a folder for each model and gives a table. All get the same model, steps, batch and row
length, so the same number of tokens, and every byte of the same documents is foretold, whatever the tokenizer. A
document is measured only if no recipe trains on it or on half of its shingles: without that, whoever keeps copies would
be paid for them. Unless a set is given, documents are measured that every recipe keeps: what a filter drops is not
asked for, which favours filters a little. The intervals are over seeds alone, not over documents or sizes of model.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from pipeline.shards import read_batches, read_manifest
from stages.encoder import Encoder
from stages.kernels.arrow import text_buffers
from stages.train import Train
from stages.train.command import packed, settings_of, train_into
from stages.train.data import Rows
from stages.train.export import load_model, write_json
from stages.train.loop import dtype_of, steps_of
from stages.train.model import Model
from stages.train.parallel import World
from stages.train.tasks import likelihoods

SHINGLE = 5
KNOWN = 0.5
"""Share of a held-out document's shingles that may be known to a recipe's training documents."""
MOST_DOCUMENTS = 20_000
MOST_BYTES = 1_000_000
CUT_BYTES = 8192
"""Bytes measured: of all documents, chosen by the hash of their ids, and of each."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """A recipe that has been run up to its packed rows. held: ids of the documents that it holds out."""

    name: str
    pack: Path
    tokenizer: Path
    shards: list[Path]
    held: pa.Array

    @classmethod
    def of(cls, name: str, run: Path) -> Arm:
        """Raises ValueError where a run has no packed rows, or packs without BOS: a first token is not foretold then"""
        pack, tokenizer = packed(run)
        manifest = read_manifest(pack)
        parent = read_manifest(run / manifest.parent) if manifest and manifest.parent else None
        if manifest is None or manifest.parent is None or parent is None:
            raise ValueError(f"{pack}: the documents that it packed are not in the run")
        arm = cls(name, pack, tokenizer, [run / manifest.parent / name for name in parent.shards], _held_ids(pack))
        if not arm.rows().meta["bos"]:
            raise ValueError(f"{pack}: `ablate` needs `bos: true`")
        return arm

    def rows(self) -> Rows:
        """Its packed rows."""
        return Rows(sorted(self.pack.glob("part-*.parquet")), 0)

    def documents(self) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Its documents batch by batch, and which of them it holds out."""
        for shard in self.shards:
            for batch in read_batches(shard, columns=["id", "text", "lang"]):
                yield batch, pc.is_in(batch["id"], self.held)


def _held_ids(pack: Path) -> pa.Array:
    files = sorted((pack / "validation").glob("[!.]*.parquet"))
    ids = [pc.list_flatten(column) for path in files for column in pq.read_table(path)["doc_ids"].chunks]
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *ids]))


@dataclass(frozen=True)
class HeldOut:
    """The text that all are measured on. texts: each cut to `CUT_BYTES`; left_out: documents that a recipe knows."""

    texts: pa.Array
    langs: list[str]
    left_out: int

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each text: int64[n]."""
        found: NDArray[np.int64] = pc.binary_length(self.texts).to_numpy()
        return found

    def digest(self) -> str:
        """Its identity."""
        return hashlib.sha256(json.dumps([self.texts.to_pylist(), self.langs]).encode()).hexdigest()


def hold_out(arms: Sequence[Arm], files: Sequence[Path]) -> HeldOut:
    """The documents of `files` (Parquet with `text`), or those that every arm holds out, as the first one has them."""
    if files:
        rows = [row for path in files for row in pq.read_table(path).to_pylist()]
        documents = [(str(k), row["text"], row.get("lang") or "") for k, row in enumerate(rows)]
    else:
        documents = _held_by_all(arms)
    documents.sort(key=lambda one: xxhash.xxh3_64_intdigest(one[0].encode()))
    chosen = pa.array([_cut(text) for _, text, _ in documents[:MOST_DOCUMENTS]], pa.large_string())
    fresh = ~known(chosen, arms)
    sizes = np.where(fresh, pc.binary_length(chosen).to_numpy(), 0)
    taken = np.flatnonzero(fresh & (sizes > 0) & (np.cumsum(sizes) <= MOST_BYTES))
    if not len(taken):
        raise ValueError("no document is held out by every recipe: raise `validation` of `pack`, or give --held-out")
    langs = [documents[k][2] for k in taken]
    return HeldOut(chosen.take(pa.array(taken)), langs, int((~fresh).sum()))


def _held_by_all(arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    """(id, text, language) of the documents that every arm holds out."""
    common = arms[0].held
    for arm in arms[1:]:
        common = common.filter(pc.is_in(common, arm.held))
    found = []
    for batch, held in arms[0].documents():
        rows = batch.filter(held)
        rows = rows.filter(pc.is_in(rows["id"], common)).to_pylist()
        found += [(row["id"], row["text"], row["lang"] or "") for row in rows]
    return found


def _cut(text: str) -> str:
    """Its first `CUT_BYTES`, to a whole character."""
    return text.encode()[:CUT_BYTES].decode(errors="ignore")


def known(texts: pa.Array, arms: Sequence[Arm]) -> NDArray[np.bool_]:
    """Whether some arm trains on documents that together have `KNOWN` of a text's shingles: bool[n]."""
    from stages.kernels.minhash import folding, shingles

    values, ends = shingles(*text_buffers(texts), folding(), SHINGLE)
    table, places = np.unique(values, return_inverse=True)
    found = np.zeros(len(texts), np.bool_)
    if not len(table):
        return found
    for arm in arms:
        seen = np.zeros(len(table), np.bool_)
        for batch, held in arm.documents():
            theirs, _ = shingles(*text_buffers(batch["text"].filter(pc.invert(held))), folding(), SHINGLE)
            at = np.minimum(np.searchsorted(table, theirs), len(table) - 1)
            seen[at[table[at] == theirs]] = True
        hits = np.concatenate([[0], np.cumsum(seen[places])])
        found |= np.diff(hits[ends]) > KNOWN * np.maximum(np.diff(ends), 1)
    return found


def measure(model: Model, encoder: Encoder, held: HeldOut, bos: int, longest: int) -> NDArray[np.float64]:
    """Bits that a model needs for each text, all of its bytes: float64[n].

    A text over the model's length is read in windows that overlap by half, each token being foretold once.
    """
    ids, offsets = encoder.encode(held.texts)
    pieces = [windows(ids[low:high].tolist(), bos, longest) for low, high in pairwise(offsets)]
    answers = likelihoods(model, [window for one in pieces for window in one])
    nats = np.array([-answer.logp for answer in answers])
    firsts = np.cumsum([0, *(len(one) for one in pieces[:-1])])
    found: NDArray[np.float64] = np.add.reduceat(nats, firsts) / math.log(2)
    return found


def windows(ids: list[int], bos: int, longest: int) -> list[tuple[list[int], int]]:
    """(tokens, how many at the end are to be foretold) of windows that together foretell each of `ids` once."""
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
    lengths = {arm.rows().length for arm in arms}
    if len(lengths) > 1:
        raise ValueError(f"rows of {sorted(lengths)} tokens: `sequence_length` must be the same in all recipes")
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
    tokens = steps * stage.batch * lengths.pop()
    return {"held_out": size, "tokens": tokens, "steps": steps, "seeds": seeds, "recipes": found}


def _result(arm: Arm, stage: Train, held: HeldOut, seed: int, folder: Path, tell: Tell) -> list[float]:
    """Bits for each held-out text, by a model trained in `folder`, now or before."""
    rows, file = arm.rows(), folder / "held_out.json"
    same = {"rows": rows.fingerprint(), "settings": stage.deciding(), "steps": stage.max_steps, "seed": seed}
    same |= {"held_out": held.digest()}
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if old is None or old["same"] != same:
        if old is not None:
            shutil.rmtree(folder)
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
