"""Training, from the first step or from the newest checkpoint, to the model on disk.

AdamW (decay on matrices only), linear warm-up and cosine, clipped gradients, the loss averaged over the batch's
labelled tokens.
Logits are made for labelled tokens only. A run killed at any moment and run again ends with the same weights, bit
for bit.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional as fn

from stages.encoder import byte_lengths
from stages.train import checkpoint
from stages.train.data import IGNORED, Batch, Rows
from stages.train.evaluate import baselines, bits_per_byte
from stages.train.generate import sample_text
from stages.train.model import Model, Shape, document_mask

if TYPE_CHECKING:
    from pipeline.stage import Task
    from stages.train import Train


def train(stage: Train, shards: Sequence[Path], task: Task) -> Mapping[str, int]:
    """Trains and writes everything into `task.folder`. Returns counters: steps, tokens, parameters."""
    rows = Rows(shards, task.seed)
    tokenizer = _tokenizer(task)
    model = Model(_shape(stage, rows.meta["vocab_size"]), task.seed)
    optimizer = _optimizer(stage, model)
    steps = stage.max_steps or max(1, round(stage.epochs * rows.total / stage.batch))
    lengths = byte_lengths(tokenizer)
    held = _held_out(shards, stage)
    before = bits_per_byte(model, held, lengths) if held else math.nan
    loss = _Loop(stage, task, model, optimizer, rows, steps).run()
    summary: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * stage.batch * rows.length,
        "loss": round(loss, 4),
    }
    if held:
        after = bits_per_byte(model, held, lengths)
        scores = {"bits_per_byte_before": round(before, 4), "bits_per_byte_after": round(after, 4)}
        summary["validation"] = {**baselines(tokenizer, held, lengths), **scores}
    _write(task.folder / "summary.json", summary)
    export(model, task.folder / "model", _folder(task), rows.meta, rows.length)
    texts = [
        {"prompt": p, "text": sample_text(model, tokenizer, p, rows.meta, stage.sample_tokens, task.seed)}
        for p in stage.prompts
    ]
    _write(task.folder / "samples.json", texts)
    _write(task.folder / "highlights.json", _highlights(summary, texts))
    return {name: int(summary[name]) for name in ("parameters", "steps", "tokens")}


def _highlights(summary: Mapping[str, Any], texts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What a person wants to see first."""
    notes = {"model": f"{summary['parameters']:,} parameters, {summary['tokens']:,} tokens, loss {summary['loss']}"}
    if v := summary.get("validation"):
        notes["validation bits per byte"] = (
            f"{v['bits_per_byte_before']} before training, {v['bits_per_byte_after']} after; "
            f"xz -9e on the same bytes {v['xz_bits_per_byte']}"
        )
    return notes | {f"sample {text['prompt']!r}": text["text"] for text in texts}


class _Loop:
    """The steps of one run."""

    def __init__(
        self, stage: Train, task: Task, model: Model, optimizer: torch.optim.Optimizer, rows: Rows, steps: int
    ) -> None:
        self.stage, self.task, self.model, self.optimizer, self.rows, self.steps = (
            stage,
            task,
            model,
            optimizer,
            rows,
            steps,
        )
        self.fingerprint = f"{rows.fingerprint()}:{stage.model_dump_json()}:{task.seed}"
        self.folder = task.folder / "checkpoints"
        self.stopping = False

    def run(self) -> float:
        """Takes the steps that are left; the last step's loss."""
        start = checkpoint.restore(self.folder, self.model, self.optimizer, self.fingerprint)
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, self._stop) if main else None
        try:
            return self._steps(start)
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)

    def _steps(self, start: int) -> float:
        loss, told, since, began = math.nan, 0.0, start, time.perf_counter()
        with (self.task.folder / "metrics.jsonl").open("a") as metrics:
            for step in range(start, self.steps):
                loss, norm = self.step(step)
                now = time.perf_counter()
                if now - told > 0.5 or step + 1 == self.steps:
                    speed = (step + 1 - since) * self.stage.batch * self.rows.length / (now - began)
                    news = {"step": step + 1, "steps": self.steps, "loss": loss, "tokens_per_second": speed}
                    self.task.report(news)
                    metrics.write(json.dumps({**news, "lr": self.rate(step), "gradient_norm": norm}) + "\n")
                    told = now
                if (step + 1) % self.stage.checkpoint_every == 0 or step + 1 == self.steps or self.stopping:
                    state = {"step": step + 1, "fingerprint": self.fingerprint, "loss": loss}
                    checkpoint.save(self.folder, self.model, self.optimizer, state, self.stage.keep_checkpoints)
                if self.stopping:
                    raise SystemExit(143)
        if start == self.steps:
            newest = sorted(self.folder.glob("step-*"))[-1]
            loss = json.loads((newest / "state.json").read_text())["loss"]
        return loss

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine to `min_lr` of the peak."""
        warm = max(1, round(self.stage.warmup * self.steps))
        if step < warm:
            return self.stage.lr * (step + 1) / warm
        share = (step - warm) / max(1, self.steps - warm)
        low = self.stage.min_lr
        return self.stage.lr * (low + (1 - low) * (1 + math.cos(math.pi * share)) / 2)

    def step(self, number: int) -> tuple[float, float]:
        """One optimiser step on batch `number`; (loss, norm of the gradient)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        loss = batch_loss(self.model, self.rows.batch(number, self.stage.batch), self.stage.precision)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {number + 1}; a lower lr may help")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.stage.clip)
        self.optimizer.step()
        return loss.item(), norm.item()


def batch_loss(model: Model, batch: Batch, precision: str = "fp32") -> torch.Tensor:
    """Mean cross-entropy over the labelled tokens of a batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        hidden = model(batch.ids, batch.positions, document_mask(batch.documents))
        known = batch.labels != IGNORED
        logits = model.logits(hidden[known])
    return fn.cross_entropy(logits.float(), batch.labels[known])


def export(model: Model, folder: Path, tokenizer: Path, meta: Mapping[str, Any], length: int) -> None:
    """Writes the model as `transformers` loads it: Qwen3ForCausalLM, or LlamaForCausalLM without QK-norm."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    kind = ("Qwen3ForCausalLM", "qwen3") if shape.qk_norm else ("LlamaForCausalLM", "llama")
    config = {
        "architectures": [kind[0]],
        "model_type": kind[1],
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "intermediate_size": shape.ffn,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "tie_word_embeddings": True,
        "max_position_embeddings": length,
        "dtype": "float32",
        **{name: meta[name] for name in ("bos_id", "eos_id", "pad_id")},
    }
    ids = {name.replace("_id", "_token_id"): config.pop(name) for name in ("bos_id", "eos_id", "pad_id")}
    _write(folder / "config.json", {**config, **ids})
    _write(folder / "generation_config.json", ids)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer / name).exists():
            (folder / name).write_bytes((tokenizer / name).read_bytes())


def _shape(stage: Train, vocab: int) -> Shape:
    width, heads, kv_heads, ffn = stage.shape()
    return Shape(vocab, stage.depth, width, heads, kv_heads, ffn, stage.qk_norm, stage.rope_theta)


def _optimizer(stage: Train, model: Model) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.95), fused=True)


def _held_out(shards: Sequence[Path], stage: Train) -> list[Batch]:
    files = sorted((shards[0].parent / "validation").glob("part-*.parquet") if shards else [])
    files = files or sorted((shards[0].parent / "validation").glob("*.parquet"))
    return Rows(files, 0).first(stage.validation_rows) if files else []


def _folder(task: Task) -> Path:
    path = task.artifacts["tokenizer"]
    return path if path.is_dir() else path.parent


def _tokenizer(task: Task) -> Tokenizer:
    return Tokenizer.from_file(str(_folder(task) / "tokenizer.json"))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
