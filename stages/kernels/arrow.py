"""Arrow arrays as flat numpy arrays: the only file that knows of offsets, slices and nulls.

Reads any Arrow string, large_string, binary or large_binary array; copies nothing but 32-bit offsets. Every array
handed on is read-only, since numba compiles a kernel once more for each mixture of writable and read-only arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def text_buffers(array: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of an array of n texts and where each starts: (data uint8[:], offsets int64[n + 1]).

    Text k is `data[offsets[k]:offsets[k + 1]]`; offsets need not start at 0 (a slice keeps the whole data). Null reads
    as empty. array: a pyarrow Array or one-chunk column of string or binary type, sliced or not; else TypeError.
    """
    kind = str(array.type)
    if kind not in {"string", "large_string", "binary", "large_binary"}:
        raise TypeError(f"expected an array of strings or bytes, got {kind}")
    n, start = len(array), array.offset
    _, ends, data = array.buffers()
    width = np.dtype(np.int64 if kind.startswith("large_") else np.int32)
    if n == 0 or ends is None:
        offsets = np.zeros(n + 1, np.int64)
    else:
        offsets = np.frombuffer(ends, width, n + 1, start * width.itemsize).astype(np.int64, copy=False)
    if array.null_count:
        array = array.fill_null("" if "string" in kind else b"")
        return text_buffers(array)
    values = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return read_only(values), read_only(offsets)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only, C-contiguous view of an array."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
