"""Causal attention within documents that lie end to end without padding; the only file that knows how it is done.

Reads q, k, v of a flat batch [N, heads, head] and the `Layout` of its documents; gives [N, heads, head]. Documents of
like length are attended together, their queries in tiles of 128 that see only the keys before them, so that the work
is each document's own triangle. Of tiles that see no more than 512 keys the weights are kept for the backward pass (at
most 512 numbers a token and head); of others they are computed anew there (Dao et al. 2022, FlashAttention, section
3.1), a third more products. On CUDA in half precision torch's varlen kernel does it.
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
KEPT = 512
"""Keys a tile may see whose attention weights are kept for the backward pass; those of more are computed anew."""
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
    """Where the documents of a flat batch lie. edges: int32 [documents + 1]; longest: tokens of the longest one;
    padded: whether a bucket has places without a token."""

    buckets: tuple[Bucket, ...]
    edges: Tensor
    longest: int
    padded: bool

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
    return Layout(tuple(buckets), edges, int(sizes.max()), bool((classes != sizes).any()))


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
        head, ctx.where, ctx.shapes = q.shape[-1], where, (q.shape, k.shape, v.shape)
        q, k, v = (_rows(x, where) for x in (q * head**-0.5, k, v))
        out, kept = torch.empty_like(q), list[Tensor]()
        for bucket in where.buckets:
            keys, values = (x.index_select(0, bucket.keys).view(-1, bucket.length, head) for x in (k, v))
            kept += (keys, values)
            for low, end, rows in _tiles(bucket):
                queries = q.index_select(0, rows).view(len(keys), -1, head)
                shares = _weights(queries, keys, low, end)
                out.index_copy_(0, rows, torch.bmm(shares, values[:, :end]).view(-1, head))
                kept += (queries, shares if end <= KEPT else shares.new_empty(0))
        ctx.save_for_backward(*kept)
        return _tokens(out, ctx.shapes[0])

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        where, kept, head = ctx.where, iter(ctx.saved_tensors), dout.shape[-1]
        dout = _rows(dout, where)
        dq, dk, dv = (dout.new_empty(n * heads + where.padded, head) for n, heads, _ in ctx.shapes)
        for bucket in where.buckets:
            keys, values = next(kept), next(kept)
            for low, end, rows in _tiles(bucket):
                queries, shares = next(kept), next(kept)
                if end > KEPT:
                    shares = _weights(queries, keys, low, end)
                dtile = dout.index_select(0, rows).view(queries.shape)
                dshares = torch.bmm(dtile, values[:, :end].transpose(1, 2))
                dscores = torch._softmax_backward_data(dshares, shares, -1, shares.dtype)
                dq.index_copy_(0, rows, torch.bmm(dscores, keys[:, :end]).view(-1, head))
                parts = torch.bmm(dscores.transpose(1, 2), queries), torch.bmm(shares.transpose(1, 2), dtile)
                if end == bucket.length:
                    sums = [part.float() if low else part for part in parts]
                else:
                    for whole, part in zip(sums, parts, strict=True):
                        whole[:, :end] += part
            for rows_of, whole in zip((dk, dv), sums, strict=True):
                rows_of.index_copy_(0, bucket.keys, whole.to(dout.dtype).view(-1, head))
        dq, dk, dv = map(_tokens, (dq.mul_(head**-0.5), dk, dv), ctx.shapes)
        return dq, dk, dv, None


def _tiles(bucket: Bucket) -> list[tuple[int, int, Tensor]]:
    """(first query, end of the keys it may see, rows of q) of each tile, from the last, which sees all keys."""
    lows = range(0, bucket.length, TILE)
    return [(low, min(low + TILE, bucket.length), rows) for low, rows in zip(lows, bucket.queries, strict=True)][::-1]


def _rows(x: Tensor, where: Layout) -> Tensor:
    """[N, heads, head] → [N · heads, head], and a last row of zeros where the layout has padding."""
    rows = x.reshape(-1, x.shape[2])
    return torch.cat([rows, rows.new_zeros(1, x.shape[2])]) if where.padded else rows


def _tokens(rows: Tensor, shape: torch.Size) -> Tensor:
    """The way back."""
    return rows[: shape[0] * shape[1]].view(shape)


def _weights(queries: Tensor, keys: Tensor, low: int, end: int) -> Tensor:
    """Attention weights of a tile: [documents · kv_heads, group · tile, end]; queries are scaled."""
    scores = torch.bmm(queries, keys[:, :end].transpose(1, 2))
    later = torch.full((end - low, end - low), float("-inf"), dtype=scores.dtype, device=scores.device).triu(1)
    scores.view(len(keys), -1, end - low, end)[..., low:] += later
    return torch.softmax(scores, -1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    long, edges = where.longest, where.edges
    out = varlen_attn(q, k, v, edges, edges, long, long, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)  # noqa: S101 - the other type comes with return_aux only
    return out
