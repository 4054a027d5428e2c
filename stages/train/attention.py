"""Causal attention within documents that lie end to end without padding; the only file that knows how it is done.

Reads q, k, v of a flat batch [N, heads, head] and the `Layout` of its documents; gives [N, heads, head]. Documents of
like length are attended together, their queries in tiles of 128 that see only the keys before them, so that the work
is each document's own triangle. The backward pass computes the weights anew (Dao et al. 2022, FlashAttention, section
3.1): memory is one tile's scores, the price a third more products there. On CUDA in half precision torch's
varlen kernel does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE = 128
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Attention as a model sees it: (q [N, heads, head], k, v [N, kv_heads, head], layer) → [N, heads, head]."""


@dataclass(frozen=True)
class Bucket:
    """Documents attended together, each padded on the right to `length` tokens; a padded place points at a zero row.

    queries: per tile, int64 [documents · heads · tile], rows of q as [N · heads + 1, head]; keys: int64 [documents ·
    kv_heads · length], rows of k and v as [N · kv_heads + 1, head].
    """

    length: int
    queries: tuple[Tensor, ...]
    keys: Tensor


@dataclass(frozen=True)
class Layout:
    """Where the documents of a flat batch lie. edges: int32 [documents + 1]; longest: tokens of the longest one."""

    buckets: tuple[Bucket, ...]
    edges: Tensor
    longest: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int = 0) -> Tensor:
        """softmax(q kᵀ / √head) v within each document; q [N, heads, head], k and v [N, kv_heads, head]."""
        if q.is_cuda and q.dtype != torch.float32:
            return _varlen(q, k, v, self)
        out: Tensor = _Attention.apply(q, k, v, self)  # type: ignore[no-untyped-call]
        return out


def layout(lengths: Sequence[int], heads: int, kv_heads: int, device: torch.device | str = "cpu") -> Layout:
    """Documents of these lengths, end to end, → how `heads` query and `kv_heads` key heads attend in them."""
    sizes = np.asarray(lengths, np.int64)
    starts = np.cumsum(sizes) - sizes
    classes = np.array([_padded(int(size)) for size in sizes])
    buckets = []
    for length in np.unique(classes):
        place, here = np.arange(length), classes == length
        rows = np.where(place < sizes[here, None], starts[here, None] + place, sizes.sum())
        buckets.append(_bucket(rows, int(sizes.sum()), heads, kv_heads, device))
    edges = torch.from_numpy(np.append(starts, sizes.sum()).astype(np.int32)).to(device)
    return Layout(tuple(buckets), edges, int(sizes.max()))


def _padded(length: int) -> int:
    """The next of 4, 6, 8, 12, 16, 24, … 128, then the next multiple of 64: at most a third is padding."""
    if length > TILE:
        return -(-length // 64) * 64
    power = max(4, 1 << (length - 1).bit_length())
    return 3 * power // 4 if power > 4 and length <= 3 * power // 4 else power


def _bucket(rows: NDArray[np.int64], total: int, heads: int, kv_heads: int, device: torch.device | str) -> Bucket:
    """rows [documents, length]: which token is where, `total` for none."""
    length, group = rows.shape[1], heads // kv_heads
    keys = np.minimum(rows[:, None, :] * kv_heads + np.arange(kv_heads)[:, None], total * kv_heads)
    head = np.arange(heads).reshape(kv_heads, group, 1)
    tiles = [rows[:, None, None, low : low + TILE] * heads + head for low in range(0, length, TILE)]
    queries = [torch.from_numpy(np.minimum(tile, total * heads).reshape(-1)).to(device) for tile in tiles]
    return Bucket(length, tuple(queries), torch.from_numpy(keys.reshape(-1)).to(device))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
        shape, head = q.shape, q.shape[-1]
        q, k, v = _with_zero(q), _with_zero(k), _with_zero(v)
        out = torch.empty_like(q)
        for bucket in where.buckets:
            keys, values = (x.index_select(0, bucket.keys).view(-1, bucket.length, head) for x in (k, v))
            for low, end, rows in _tiles(bucket):
                shares = _weights(q.index_select(0, rows), keys, low, end)
                out.index_copy_(0, rows, torch.bmm(shares, values[:, :end]).view(-1, head))
        ctx.where, ctx.shape = where, shape
        ctx.save_for_backward(q, k, v)
        return out[:-1].view(shape)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        tokens, head, dout = ctx.shape[0], ctx.shape[-1], _with_zero(dout)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for bucket in ctx.where.buckets:
            keys, values = (x.index_select(0, bucket.keys).view(-1, bucket.length, head) for x in (k, v))
            dkeys, dvalues = torch.zeros_like(keys, dtype=torch.float32), torch.zeros_like(keys, dtype=torch.float32)
            for low, end, rows in _tiles(bucket):
                queries = q.index_select(0, rows)
                shares = _weights(queries, keys, low, end)
                dtile = dout.index_select(0, rows).view(len(keys), -1, head)
                dvalues[:, :end] += torch.bmm(shares.transpose(1, 2), dtile)
                dshares = torch.bmm(dtile, values[:, :end].transpose(1, 2))
                dscores = torch._softmax_backward_data(dshares, shares, -1, shares.dtype)
                dq.index_copy_(0, rows, torch.bmm(dscores, keys[:, :end]).view(-1, head))
                dkeys[:, :end] += torch.bmm(dscores.transpose(1, 2), queries.view(len(keys), -1, head))
            dk.index_copy_(0, bucket.keys, dkeys.to(k.dtype).view(-1, head))
            dv.index_copy_(0, bucket.keys, dvalues.to(k.dtype).view(-1, head))
        scale = head**-0.5
        return (
            dq[:-1].mul_(scale).view(ctx.shape),
            dk[:-1].mul_(scale).view(tokens, -1, head),
            dv[:-1].view(tokens, -1, head),
            None,
        )


def _tiles(bucket: Bucket) -> list[tuple[int, int, Tensor]]:
    """(first query, end of the keys it may see, rows of q) of each tile."""
    lows = range(0, bucket.length, TILE)
    return [(low, min(low + TILE, bucket.length), rows) for low, rows in zip(lows, bucket.queries, strict=True)]


def _with_zero(x: Tensor) -> Tensor:
    """[N, heads, head] → [N · heads + 1, head], the last row zero."""
    rows = x.reshape(-1, x.shape[2])
    return torch.cat([rows, rows.new_zeros(1, x.shape[2])])


def _weights(queries: Tensor, keys: Tensor, low: int, end: int) -> Tensor:
    """Attention weights of a tile: [documents · kv_heads, group · tile, end]."""
    head = keys.shape[-1]
    scores = torch.bmm((queries * head**-0.5).view(len(keys), -1, head), keys[:, :end].transpose(1, 2))
    later = torch.full((end - low, end - low), float("-inf"), dtype=scores.dtype, device=scores.device).triu(1)
    scores.view(len(keys), -1, end - low, end)[..., low:] += later
    return torch.softmax(scores, -1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    long, edges = where.longest, where.edges
    out = varlen_attn(q, k, v, edges, edges, long, long, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)  # noqa: S101 - the other type comes with return_aux only
    return out
