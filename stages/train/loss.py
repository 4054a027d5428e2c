"""Cross-entropy straight from hidden states: the logits of a batch never exist as a whole.

Reads hidden states, the output matrix and labels; gives the summed loss, with its gradient made on the way, chunk by
chunk while the logits are in cache. Memory is one chunk's logits instead of tokens × vocabulary, and the price is that
the gradient is made even where nobody asks for it: use `nats` for that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 21
"""Logits at once."""


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, z: float) -> Tensor:
        weight, rows = head.to(hidden.dtype), max(1, min(len(hidden), CHUNK // len(head)))
        dhidden, dhead, dpart = torch.empty_like(hidden), torch.zeros_like(head), torch.empty_like(weight)
        wide = torch.empty_like(dhead)
        made = hidden.new_empty(rows, len(head))
        scores, shares = (torch.empty_like(made, dtype=torch.float32) for _ in range(2))
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        parts = zip(torch.split(hidden, rows), torch.split(labels, rows), torch.split(dhidden, rows), strict=True)
        for states, wanted, dstates in parts:
            slope, logits, share = (room[: len(wanted)] for room in (made, scores, shares))
            logits.copy_(torch.mm(states, weight.t(), out=slope))
            torch.softmax(logits, -1, out=share)
            norm = logits.amax(-1, keepdim=True) - share.amax(-1, keepdim=True).log()
            total += (norm[:, 0] - logits.gather(1, wanted[:, None])[:, 0] + z * norm[:, 0] ** 2).sum(dtype=total.dtype)
            if z:
                share *= 1 + 2 * z * norm
            share.scatter_add_(1, wanted[:, None], share.new_full((len(wanted), 1), -1.0))
            torch.mm(slope.copy_(share), weight, out=dstates)
            dhead += wide.copy_(torch.mm(slope.t(), states, out=dpart))
        ctx.save_for_backward(dhidden, dhead)
        return total.float()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dhidden, dhead = ctx.saved_tensors
        return dhidden.mul_(scale.to(dhidden.dtype)), dhead.mul_(scale), None, None


def summed_loss(hidden: Tensor, head: Tensor, labels: Tensor, z: float = 0.0) -> Tensor:
    """Σ −log p(label) + z · log² Σ exp(logit), in nats; float32 scalar, to be differentiated once.

    hidden [N, width], head [vocab, width], labels int64 [N]. z: weight of the z-loss (Chowdhery et al. 2022, PaLM).
    """
    loss: Tensor = _Loss.apply(hidden, head, labels, z)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def nats(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """−log p(label) of each label: float32 [N]."""
    weight, rows = head.to(hidden.dtype), max(1, CHUNK // len(head))
    parts = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
    found = [
        torch.nn.functional.cross_entropy(torch.mm(states, weight.t()).float(), wanted, reduction="none")
        for states, wanted in parts
    ]
    return torch.cat(found) if found else hidden.new_empty(0, dtype=torch.float32)
