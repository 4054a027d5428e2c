"""Weights in 8 bits for reading aloud: a quarter of the bytes of fp32 per token, a product 4 times as fast as bf16's.

Changes a model in place. Each row of a matrix is scaled to ±127 and rounded (weight-only, absolute maximum per output
channel: Dettmers et al. 2022, section 2.1); inputs stay bf16. Measured on one core for 2,048 × 8,192 and one token:
0.38 ms against bf16's 1.6 and fp32's 2.9; from about 30 tokens at once, a prompt, bf16 is the faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.train.model import Linear, Model


class Int8Linear(nn.Module):
    """A product with 8-bit weights; inputs and outputs bf16, no bias."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: float [outside, inside]."""
        super().__init__()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inside] → [..., outside]."""
        out = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        return out.view(*x.shape[:-1], -1)


@torch.no_grad()
def quantise(model: Model) -> None:
    """Puts every matrix of the blocks and the output layer into 8 bits, the rest into bf16; the embedding stays one."""
    head = model.head.float()
    for block in model.blocks:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, Linear):
                    setattr(part, name, Int8Linear(layer.weight.float()))
    model.to(torch.bfloat16)
    model.dtype = torch.bfloat16
    model.lm_head = Int8Linear(head)
