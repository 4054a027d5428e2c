"""Arrays that ship: what is written comes back, aligned, and not to be changed."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import zstandard

from stages.arrays import read_arrays, write_arrays

ARRAYS = {
    "scores": np.linspace(0, 1, 7),
    "rows": np.arange(12, dtype=np.uint32).reshape(3, 4),
    "likelihoods": np.arange(5, dtype=np.int16),
    "none": np.zeros((0, 3), np.uint8),
}


def test_arrays_come_back(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", ARRAYS, {"version": "1", "labels": "a é 中"})
    found, told = read_arrays(tmp_path / "file")
    assert told == {"version": "1", "labels": "a é 中"}
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.flags.aligned
        assert not array.flags.writeable
    assert found["scores"].ctypes.data % 64 == 0


def test_others_read_the_file_too(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", ARRAYS, {})
    theirs = safetensors.numpy.load(zstandard.decompress((tmp_path / "file").read_bytes()))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_an_array_that_would_not_lie_aligned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wide would not lie aligned"):
        write_arrays(tmp_path / "file", {"narrow": np.zeros(3, np.uint8), "wide": np.zeros(1)}, {})
