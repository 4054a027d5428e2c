"""What a worker does not load or search, and how a stage from elsewhere gets it back: each in a process of its own."""

import subprocess
import sys
from pathlib import Path

LOADED = "print(*[name for name in ('pandas', 'scipy', 'awkward', 'yaml') if name in sys.modules])"


def printed(*lines: str) -> str:
    """What a fresh Python prints."""
    program = "\n".join(("import sys", "from pipeline.engines.spare import know_types, restore, spare", *lines))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_worker_spares_itself_what_no_stage_uses() -> None:
    kernel = ("import numpy as np", "import pyarrow as pa", "pa.array([1])")
    compiled = ("from numba import njit", "njit(lambda x: x + 1)(np.ones(3))")
    assert printed("spare()", *kernel, *compiled, LOADED) == ""
    assert printed(*kernel, *compiled, LOADED) != ""


def test_numbas_settings_in_the_working_directory_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".numba_config.yaml").write_text("boundscheck: 1\ncache_dir: planted\n")
    told = ("import numba.core.config as c", "c.reload_config()", "print(c.BOUNDSCHECK, repr(c.CACHE_DIR))")
    assert printed(f"import os; os.chdir({str(tmp_path)!r})", "spare()", *told) == "None ''"


def test_a_stage_from_elsewhere_gets_data_frames_back() -> None:
    missing = ("import pandas as pd, pyarrow as pa", "print(pa.array(pd.Series([1.0, float('nan')])).null_count)")
    assert printed("spare()", "restore()", *missing) == "1"
    assert printed("spare()", "restore()", "import numba.core.entrypoints as e", "print(e._already_initialized)") == (
        "False"
    )


def test_a_kernel_of_a_stage_from_elsewhere_knows_types_from_elsewhere() -> None:
    lines = ("import awkward as ak", "from numba import njit", "print(njit(lambda a: len(a))(ak.Array([[1], []])))")
    assert printed("spare()", "know_types()", "restore()", *lines) == "2"


def test_nothing_is_restored_that_was_not_spared() -> None:
    assert printed("restore()", "print('numba' in sys.modules)") == "False"


def test_a_worker_does_not_search_what_it_loads_for_cycles_but_what_comes_after() -> None:
    lines = ("import gc", "from multiprocessing import Pipe", "from pipeline.engines.local import _serve")
    served = ("theirs, ours = Pipe()", "ours.close()", "_serve(theirs, False)")
    assert printed(*lines, *served, "print(gc.isenabled(), gc.get_freeze_count() > 100_000)") == "True True"
