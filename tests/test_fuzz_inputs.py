"""A few runs of mutated inputs of every format; `tests.fuzz_inputs` runs many."""

import random
from pathlib import Path

import pytest

from tests.fuzz_inputs import problems


@pytest.mark.parametrize("seed", range(3))
def test_nothing_crashes_and_every_record_is_accounted_for(tmp_path: Path, seed: int) -> None:
    assert problems(tmp_path, random.Random(seed), files=60) == []
