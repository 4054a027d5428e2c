"""A decoder-only Transformer whose parameters are named and shaped as `transformers` names Qwen3's (or Llama's,
without QK-norm).

RoPE (Su et al. 2021), RMSNorm before each block, QK-norm, grouped-query attention, SwiGLU (Shazeer 2020), tied
embeddings. Attention stays
within each packed document: one block-diagonal causal mask per batch, shared by all layers, B·L² bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


@dataclass(frozen=True)
class Shape:
    """The numbers that make a model."""

    vocab: int
    depth: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    qk_norm: bool
    rope_theta: float

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


@dataclass
class Cache:
    """Keys and values seen so far, per layer: [B, kv_heads, T, head]."""

    keys: list[Tensor | None]
    values: list[Tensor | None]
    length: int = 0


class RMSNorm(nn.Module):
    """x / rms(x) · weight (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → the same."""
        return fn.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head, shape.width, bias=False)
        if shape.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(shape.head), RMSNorm(shape.head)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        """x [B, T, width]; mask bool [B, 1, T, S], True where a query may look."""
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.shape.head)
        q, k, v = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
        if self.shape.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (rotate(q, rotary).transpose(1, 2), rotate(k, rotary).transpose(1, 2), v.transpose(1, 2))
        if cache is not None:
            before_k, before_v = cache.keys[layer], cache.values[layer]
            k = k if before_k is None else torch.cat([before_k, k], 2)
            v = v if before_v is None else torch.cat([before_v, v], 2)
            cache.keys[layer], cache.values[layer] = k, v
        y = fn.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → the same."""
        out: Tensor = self.down_proj(fn.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a norm, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(shape.width), Attention(shape)
        self.post_attention_layernorm, self.mlp = RMSNorm(shape.width), MLP(shape)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cache: Cache | None, layer: int
    ) -> Tensor:
        """[B, T, width] → the same."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache, layer)
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
    """The whole: token ids → logits through tied embeddings."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        """Weights are normal with deviation 0.02, projections into the stream smaller by √(2·depth) (GPT-2)."""
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                    weight.normal_(0, 0.02 / ((2 * shape.depth) ** 0.5 if into_stream else 1), generator=generator)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        """ids, positions int64 [B, T]; mask bool [B, 1, T, S] → hidden states [B, T, width]; `logits` finishes them."""
        rotary = angles(positions, self.shape.head, self.shape.rope_theta)
        x = self.model.embed_tokens(ids)
        for layer, block in enumerate(self.model.layers):
            x = block(x, rotary, mask, cache, layer)
        if cache is not None:
            cache.length += ids.shape[1]
        out: Tensor = self.model.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] → [..., vocab]."""
        return fn.linear(hidden, self.model.embed_tokens.weight)

    def cache(self) -> Cache:
        """An empty cache for generation."""
        return Cache([None] * self.shape.depth, [None] * self.shape.depth)


def angles(positions: Tensor, head: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding: float32 [B, T, 1, head] each, halves alike."""
    powers = torch.arange(0, head, 2, dtype=torch.float32, device=positions.device) / head
    turns = positions[..., None].float() * theta**-powers
    both = torch.cat([turns, turns], -1)[:, :, None, :]
    return both.cos(), both.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns pairs (i, i + head/2) of [B, T, heads, head] by their angle."""
    cos, sin = rotary
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat([-right, left], -1) * sin).to(x.dtype)


def document_mask(documents: Tensor) -> Tensor:
    """documents int64 [B, T]: which document each token is of → bool [B, 1, T, T], causal and within documents."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (documents[:, None, :, None] == documents[:, None, None, :]) & causal
