"""A decoder-only Transformer over flat batches: documents end to end, with no batch dimension and no mask.

Reads token ids, gives hidden states, logits or the loss. Parameters are named and shaped as `transformers` names
Qwen3's (Llama's, without QK-norm), so that export is a copy. RoPE (Su et al. 2021), RMSNorm before each half of a block
(Zhang & Sennrich 2019), QK-norm (Henry et al. 2020), grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer
2020). Weights stay in fp32 and are cast to the model's `dtype` where they are used; the stream has that dtype: bf16
keeps 8 bits of a number and multiplies 4 to 5 times as fast on a CPU with AVX512-BF16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from pipeline import seeds
from stages.train.attention import Attend
from stages.train.loss import nats, summed_loss

EPSILON = 1e-6
"""Added to the mean square in every norm."""


@dataclass(frozen=True)
class Shape:
    """The numbers that make a model."""

    vocab: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    qk_norm: bool = True
    rope_theta: float = 10_000.0
    tied: bool = True

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


class RMSNorm(nn.Module):
    """x / rms(x) · weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → the same."""
        return fn.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPSILON)


class Linear(nn.Linear):
    """A product with a weight that is cast to its input's dtype; no bias."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inside] → [..., outside]."""
        return fn.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Projections, QK-norm and rotary positions around attention itself."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head = shape.head
        self.q_proj = Linear(shape.width, shape.heads * shape.head)
        self.k_proj = Linear(shape.width, shape.kv_heads * shape.head)
        self.v_proj = Linear(shape.width, shape.kv_heads * shape.head)
        self.o_proj = Linear(shape.heads * shape.head, shape.width)
        self.q_norm = RMSNorm(shape.head) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head) if shape.qk_norm else nn.Identity()

    def heads(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[N, width] → q [N, heads, head], k and v [N, kv_heads, head]."""
        q, k, v = (project(x).unflatten(1, (-1, self.head)) for project in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(self.q_norm(q), rotary), rotate(self.k_norm(k), rotary), v


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.width, shape.ffn)
        self.up_proj = Linear(shape.width, shape.ffn)
        self.down_proj = Linear(shape.ffn, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width] → the same."""
        out: Tensor = self.down_proj(fn.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a norm, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(shape.width), Attention(shape)
        self.post_attention_layernorm, self.mlp = RMSNorm(shape.width), MLP(shape)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend, layer: int) -> Tensor:
        """[N, width] → the same."""
        return self.after(x, attend(*self.before(x, rotary), layer))

    def compile_halves(self) -> None:
        """Has torch.compile make what lies on both sides of attention."""
        self.before = torch.compile(self.before)  # type: ignore[method-assign]
        self.after = torch.compile(self.after)  # type: ignore[method-assign]

    def before(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before attention: q, k, v."""
        return self.self_attn.heads(self.input_layernorm(x), rotary)

    def after(self, x: Tensor, seen: Tensor) -> Tensor:
        """What comes after it. seen [N, heads, head]."""
        x = x + self.self_attn.o_proj(seen.flatten(1))
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width)


class Model(nn.Module):
    """The whole: token ids → hidden states → logits or loss."""

    def __init__(self, shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        """Matrices are normal with deviation 0.02, those that write into the stream smaller by √(2 · depth) (GPT-2)."""
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.model = Trunk(shape)
        self.lm_head: nn.Module
        if not shape.tied:
            self.lm_head = Linear(shape.width, shape.vocab)
        generator = torch.Generator().manual_seed(seeds.number("train.weights", seed))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, 0, 0.02 / (2 * shape.depth if writes else 1) ** 0.5, generator)

    @property
    def head(self) -> Tensor:
        """The weight that makes logits: float32 [vocab, width]."""
        return self.model.embed_tokens.weight if self.shape.tied else self.get_parameter("lm_head.weight")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    @property
    def blocks(self) -> list[Block]:
        """The layers in order."""
        return [layer for layer in self.model.layers if isinstance(layer, Block)]

    def forward(
        self, ids: Tensor, positions: Tensor, attend: Attend, labels: Tensor | None = None, z: float | None = 0.0
    ) -> Tensor:
        """ids, positions int64 [N] → hidden states [N, width] of the model's dtype, or with labels their loss.

        labels: int64 [N], negative where nothing is predicted; gives the summed loss with a z-loss of weight z, or
        where z is None the loss of each labelled token [labelled] without a gradient.
        """
        rotary = angles(positions, self.shape.head, self.shape.rope_theta, self.dtype)
        x = self.model.embed_tokens(ids).to(self.dtype)
        for layer, block in enumerate(self.model.layers):
            x = block(x, rotary, attend, layer)
        hidden: Tensor = self.model.norm(x)
        if labels is None:
            return hidden
        known = torch.nonzero(labels >= 0)[:, 0]
        hidden, labels = hidden.index_select(0, known), labels.index_select(0, known)
        return nats(hidden, self.head, labels) if z is None else summed_loss(hidden, self.head, labels, z)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] → float32 [..., vocab]."""
        if "lm_head" in self._modules:
            return self.lm_head(hidden).float()  # type: ignore[no-any-return]
        return fn.linear(hidden, self.head.to(hidden.dtype)).float()


def angles(positions: Tensor, head: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding: [N, 1, head] each, both halves alike, computed in float32."""
    powers = torch.arange(0, head, 2, dtype=torch.float32, device=positions.device) / head
    turns = positions[:, None].float() * theta**-powers
    both = torch.cat([turns, turns], -1)[:, None, :]
    return both.cos().to(dtype), both.sin().to(dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + head / 2) of [N, heads, head] by their position's angle."""
    cos, sin = rotary
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
