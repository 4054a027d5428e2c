"""What a training run costs before it runs: parameters, operations, memory, time; and what size would be best.

Reads settings, gives numbers. Operations are counted as multiplications and additions of the matrix products, forward
and backward (Kaplan et al. 2020, section 2.1: 6 per weight and token), attention's causal half included. The peak is
measured, not looked up: half a second, so that MFU means this machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stages.train.attention import KEPT
from stages.train.model import Shape

TOKENS_PER_PARAMETER = 20
"""Of a compute-optimal run (Hoffmann et al. 2022, table 3)."""
REPEATS = 4
"""Passes over the same data that are nearly as good as new data (Muennighoff et al. 2023)."""
SHARE = 0.5
"""Of the peak, reached in training on two cores at width 256 (benchmarks/train.py); the time rests on it."""


def parameters(shape: Shape) -> int:
    """Weights of a model, embeddings included."""
    norms = (2 * shape.depth + 1) * shape.width + shape.qk_norm * 2 * shape.depth * shape.head
    return _blocks(shape) + norms + shape.vocab * shape.width * (1 if shape.tied else 2)


def _blocks(shape: Shape) -> int:
    attention = 2 * shape.width * shape.head * (shape.heads + shape.kv_heads)
    return shape.depth * (attention + 3 * shape.width * shape.ffn)


def flops_per_token(shape: Shape, seen: float) -> float:
    """Operations for one token, forward and backward, that attends to `seen` tokens on average."""
    return 6.0 * (_blocks(shape) + shape.vocab * shape.width) + 12.0 * shape.depth * shape.heads * shape.head * seen


def gemm_peak(dtype: torch.dtype, device: torch.device, size: int = 1024) -> float:
    """Operations per second of square matrix products: the best of nine."""
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / min(_seconds(lambda: a @ b, device) for _ in range(9))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Estimate:
    """A run's cost. flops: of the whole run; memory: bytes at the fullest moment; seconds: at half the GEMM peak."""

    parameters: int
    steps: int
    tokens: int
    flops: float
    memory: int
    peak_flops: float
    seconds: float

    def lines(self) -> list[str]:
        """The same for people."""
        hours, minutes = divmod(round(self.seconds / 60), 60)
        return [
            f"parameters  {self.parameters:,}",
            f"tokens      {self.tokens:,} in {self.steps:,} steps, {self.tokens / self.parameters:.1f} per parameter",
            f"operations  {self.flops:.2e}",
            f"memory      {self.memory / 1e9:.2f} GB",
            f"time        {hours} h {minutes:02} min at {SHARE:.0%} of {self.peak_flops / 1e9:,.0f} GFLOP/s (measured)",
        ]


def estimate(shape: Shape, batch: int, length: int, steps: int, dtype: torch.dtype, device: torch.device) -> Estimate:
    """What `steps` steps of `batch` rows of `length` tokens cost on one device."""
    weights, tokens = parameters(shape), steps * batch * length
    flops = tokens * flops_per_token(shape, length / 2)
    peak = gemm_peak(dtype, device)
    return Estimate(weights, steps, tokens, flops, _memory(shape, batch * length, dtype), peak, flops / peak / SHARE)


def _memory(shape: Shape, tokens: int, dtype: torch.dtype) -> int:
    """Weights, gradients, AdamW's two moments in fp32; what the backward pass keeps of each block; one chunk of logits.

    Per token a block keeps the stream twice, two norms, q, k, v before and after rotation, attention's output, four
    times the SwiGLU's width, and at most KEPT weights of each head.
    """
    heads = shape.heads * shape.head + shape.kv_heads * shape.head
    kept = 5 * shape.width + 5 * heads + 4 * shape.ffn + KEPT * shape.heads
    return 16 * parameters(shape) + tokens * shape.depth * kept * dtype.itemsize + (64 << 20)


def advice(shape: Shape, flops: float, available: int) -> list[str]:
    """A compute-optimal model for a budget of operations, and whether `available` tokens of data are enough for it."""
    # operations = 6 · weights · tokens with tokens = 20 · weights
    weights = math.sqrt(flops / 6 / TOKENS_PER_PARAMETER)
    tokens = weights * TOKENS_PER_PARAMETER
    lines = [
        f"compute-optimal for {flops:.1e} operations: {weights / 1e6:,.1f} M parameters on {tokens / 1e6:,.0f} M tokens"
        f" (this model: {parameters(shape) / 1e6:,.1f} M)"
    ]
    if tokens > available * REPEATS:
        lines.append(
            f"the data has {available / 1e6:,.1f} M tokens; more than {REPEATS} passes over it teach little: "
            "a smaller model, or more data"
        )
    return lines
