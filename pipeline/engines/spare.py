"""What a worker does not load: libraries that pyarrow and numba look for, and that no stage of the house uses.

pyarrow imports pandas to ask whether a list is a data frame; numba imports scipy to learn whether there is a BLAS, yaml
for a file of settings in the working directory, and every installed package that offers it types of its own
(awkward, with gigatoken). That file goes unread: beside someone's data it could name a folder of compiled
kernels, which are code. Together they cost 0.4 s of each worker's start. A stage from elsewhere may want them: it
gets them back before it is loaded. The price is that numba is told so by a private name. What it does load of numba at
its first kernel, the tables of types, it need not read for itself: see `know_types`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


def spare() -> None:
    """Lets pyarrow and numba look for what they may use, and find nothing; both look once."""
    warnings.filterwarnings("ignore", "A Numba config file is found")
    with _hidden("pandas", "scipy", "yaml"):
        pa.array([0])
        import numba.np.arraymath
    numba.core.entrypoints._already_initialized = True


def know_types() -> None:
    """Has numba read its own tables of types and operations, as it would at a process's first kernel: 0.17 s that
    branches of this process share."""
    from numba.core.registry import cpu_target

    cpu_target.target_context.refresh()


def restore() -> None:
    """Lets them look again, if they were kept from it."""
    if "numba" not in sys.modules:
        return
    import numba.core.entrypoints

    numba.core.entrypoints._already_initialized = False
    with suppress(ImportError):
        pa.array([0]).to_pandas()


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Packages that cannot be imported meanwhile, if they are not yet."""

    class Hider:
        @staticmethod
        def find_spec(name: str, _: Sequence[str] | None, __: ModuleType | None = None) -> ModuleSpec | None:
            if name in names:
                raise ModuleNotFoundError(name, name=name)
            return None

    sys.meta_path.insert(0, Hider)
    try:
        yield
    finally:
        sys.meta_path.remove(Hider)
