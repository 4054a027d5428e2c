"""Connected components of a graph whose edges arrive in pieces: union-find in a hash table of nodes.

Nodes are uint64 other than `EMPTY`. The table holds a key and a parent for each slot, at most half of the slots filled:
32 to 64 bytes a node, and nothing for an edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.kernels.leaf import empty_array, kernel, leaf

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Marks a free slot; as a document's reference it would be the last row of the last of 2^32 shards."""


def empty(slots: int = 1 << 10) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A table without nodes: (keys uint64[slots], parents int64[slots]); slots: a power of two."""
    return np.full(slots, EMPTY, np.uint64), np.arange(slots)


def join(
    table: tuple[NDArray[np.uint64], NDArray[np.int64]], nodes: int, low: NDArray[np.uint64], high: NDArray[np.uint64]
) -> tuple[tuple[NDArray[np.uint64], NDArray[np.int64]], int]:
    """Adds edges (low[k], high[k]) to a table of `nodes` nodes, growing it first where needed: (table, nodes)."""
    keys, parents = table
    slots = len(keys)
    while slots < 2 * (nodes + 2 * len(low)):
        slots *= 2
    if slots > len(keys):
        old, roots = roots_of(keys, parents)
        old.flags.writeable = roots.flags.writeable = False
        keys, parents = empty(slots)
        unite(keys, parents, old, roots)
    return (keys, parents), nodes + unite(keys, parents, low, high)


def components(table: tuple[NDArray[np.uint64], NDArray[np.int64]]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(nodes sorted, smallest node of the component of each)."""
    nodes, roots = roots_of(*table)
    order = np.argsort(nodes)
    return nodes[order], roots[order]


@kernel
def roots_of(keys: NDArray[np.uint64], parents: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(nodes in the order of the slots, smallest node of the component of each)."""
    nodes, roots = empty_array(len(keys), np.uint64), empty_array(len(keys), np.uint64)
    count = 0
    for slot in range(len(keys)):
        if keys[slot] != EMPTY:
            nodes[count], roots[count] = keys[slot], keys[_root(parents, slot)]
            count += 1
    return nodes[:count].copy(), roots[:count].copy()


@leaf
def _root(parents: NDArray[np.int64], slot: int) -> int:
    """The slot of the root, with path halving (Tarjan and van Leeuwen 1984)."""
    while parents[slot] != slot:
        parents[slot] = parents[parents[slot]]
        slot = int(parents[slot])
    return slot


@leaf
def _slot(keys: NDArray[np.uint64], node: np.uint64) -> int:
    """Where a node is, or the free slot where it goes."""
    mask = len(keys) - 1
    mixed = node * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while keys[slot] != EMPTY and keys[slot] != node:
        slot = (slot + 1) & mask
    return int(slot)


@kernel
def unite(
    keys: NDArray[np.uint64], parents: NDArray[np.int64], low: NDArray[np.uint64], high: NDArray[np.uint64]
) -> int:
    """Adds edges to a table that has room; how many nodes are new. The smaller root wins, in whatever order."""
    new = 0
    for k in range(len(low)):
        a = _slot(keys, low[k])
        new += keys[a] == EMPTY
        keys[a] = low[k]
        b = _slot(keys, high[k])
        new += keys[b] == EMPTY
        keys[b] = high[k]
        a, b = _root(parents, a), _root(parents, b)
        if keys[a] < keys[b]:
            parents[b] = a
        else:
            parents[a] = b
    return new
