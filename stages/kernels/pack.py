"""Best-fit-decreasing bin packing of segment lengths, O(n log L) by a tree over room that is left."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def best_fit(lengths: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """The bin of each segment, int64[n], for bins of `room` tokens; lengths must not increase and be at most `room`.

    Each segment goes into the fullest bin that has room for it, the latest opened of those, else a new one
    (Ding et al. 2024, arXiv 2404.10830). A max tree over room left finds the smallest room that suffices; bins of equal
    room wait in a linked list.
    """
    n = len(lengths)
    leaves = 1
    while leaves < room + 1:
        leaves *= 2
    tree = np.zeros(2 * leaves, np.bool_)
    head, following = np.full(room + 1, -1), np.full(n + 1, -1)
    bins = np.empty(n, np.int64)
    opened = 0
    for k in range(n):
        need = lengths[k]
        node = leaves + need
        while node > 1 and not tree[node]:
            while node > 1 and node % 2 == 1:
                node //= 2
            if node > 1:
                node += 1
        if node <= 1:
            which, left = opened, room
            opened += 1
        else:
            while node < leaves:
                node = 2 * node if tree[2 * node] else 2 * node + 1
            left = node - leaves
            which = head[left]
            head[left] = following[which]
            if head[left] < 0:
                tree[node] = False
                node //= 2
                while node >= 1:
                    tree[node] = tree[2 * node] or tree[2 * node + 1]
                    node //= 2
        bins[k] = which
        left -= need
        following[which] = head[left]
        head[left] = which
        node = leaves + left
        while node >= 1 and not tree[node]:
            tree[node] = True
            node //= 2
    return bins
