"""How fast a model reads and writes: time to first token, time per token, and the share of the memory's bandwidth.

Reads a model's folder, gives numbers. Writing one text is bound by reading every weight once per token, so the share
of the measured bandwidth says how much is left to win; the price of more texts at once is only their caches.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from stages.inference.generate import Weights, ready
from stages.train.model import Model
from stages.train.sample import Cache

BANDWIDTH_BYTES = 128 << 20
ROUNDS = 3


@torch.no_grad()
def bench_inference(folder: Path, prompt: int, count: int, texts: int, weights: Weights) -> dict[str, float]:
    """Reads `texts` prompts of `prompt` tokens, writes `count` tokens after each; the best of three rounds.

    Seconds to the first token and per token, tokens per second of all texts, bytes read per token of weights and cache,
    and their share of the bandwidth at which this process reads memory.
    """
    model, _ = ready(folder, weights)
    first, each = (
        min(times) for times in zip(*(_round(model, prompt, count, texts) for _ in range(ROUNDS)), strict=True)
    )
    size = _bytes_per_turn(model, prompt + count // 2, texts)
    return {
        "first_token_seconds": first,
        "token_seconds": each,
        "tokens_per_second": texts / each,
        "prompt_tokens_per_second": texts * prompt / first,
        "bytes_per_token": size,
        "bandwidth_share": size / each / _bandwidth(model.device),
    }


def _round(model: Model, prompt: int, count: int, texts: int) -> tuple[float, float]:
    cache = Cache(model, texts, prompt + count)
    ids = torch.arange(prompt, device=model.device).expand(texts, -1) % model.shape.vocab
    began = time.perf_counter()
    hidden = cache.read(ids, torch.arange(prompt, device=model.device).expand(texts, -1))[:, -1]
    tokens = model.logits(hidden).argmax(-1).cpu()
    first = time.perf_counter()
    for place in range(prompt, prompt + count - 1):
        where = torch.full((texts, 1), place, device=model.device)
        tokens = model.logits(cache.read(tokens[:, None].to(model.device), where)[:, 0]).argmax(-1).cpu()
    return first - began, (time.perf_counter() - first) / max(count - 1, 1)


def _bytes_per_turn(model: Model, seen: int, texts: int) -> int:
    """Weights but the embedding's rows, once; keys and values of each text."""
    shape = model.shape
    tensors = {name: value for name, value in model.state_dict().items() if name != "model.embed_tokens.weight"}
    size: int = sum(value.numel() * value.itemsize for value in tensors.values())
    if not any(name.startswith("lm_head") for name in tensors):
        size += model.head.numel() * model.head.itemsize
    return size + texts * shape.depth * 2 * shape.kv_heads * shape.head * seen * model.dtype.itemsize


def _bandwidth(device: torch.device) -> float:
    """Bytes per second of a sum over more than the caches hold."""
    block, times = torch.ones(BANDWIDTH_BYTES // 4, device=device), []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        block.sum().item()
        times.append(time.perf_counter() - began)
    return BANDWIDTH_BYTES / min(times)
