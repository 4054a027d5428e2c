"""Connected components of a graph given as edges: union-find over array indices, the smallest index as root."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def components(n: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Roots int64[n] of nodes 0…n-1 joined by edges (left[k], right[k]): the smallest node of each component.

    Path halving; the smaller root wins, so that the answer does not depend on the order of edges.
    """
    root = np.arange(n)
    for k in range(len(left)):
        a, b = left[k], right[k]
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        while root[b] != b:
            root[b] = root[root[b]]
            b = root[b]
        if a < b:
            root[b] = a
        else:
            root[a] = b
    for k in range(n):
        root[k] = root[root[k]]
    return root
