"""Arrow arrays as flat arrays: slices, nulls, narrow offsets, empty arrays."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kernels.arrow import text_buffers

KINDS = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]


@given(st.lists(st.none() | st.text()), st.sampled_from(KINDS), st.data())
def test_every_row_is_found_in_any_slice(texts: list[str | None], kind: pa.DataType, data: st.DataObject) -> None:
    raw = [t if t is None or pa.types.is_large_string(kind) or pa.types.is_string(kind) else t.encode() for t in texts]
    start = data.draw(st.integers(0, len(texts)))
    length = data.draw(st.integers(0, len(texts) - start))
    values, offsets = text_buffers(pa.array(raw, kind).slice(start, length))
    assert offsets.dtype == np.int64
    assert not values.flags.writeable
    assert not offsets.flags.writeable
    assert len(offsets) == length + 1
    found = [values[a:b].tobytes() for a, b in pairwise(offsets)]
    assert found == [(t or "").encode() for t in texts[start : start + length]]


def test_a_number_is_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        text_buffers(pa.array([1]))
