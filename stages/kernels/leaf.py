"""How kernels are compiled: those that Python calls, and those for other kernels, to be linked into theirs.

A `kernel` is cached and lets other threads run; it has no wrapper that C would call it by. One for other kernels has
none for Python either, which costs more than most small kernels do; and, since it is made fast together with its
callers, it is neither optimised nor turned into machine code alone, for which numba has no switch: that takes a sixth
off the time that all kernels take to compile. A `leaf` makes no array either, so it needs no reference counts; an
`inlined` one is a leaf that becomes part of each caller; an `inner` kernel may make and return arrays. Those three may
not be called from Python, which would crash, nor are they cached by themselves: their caller is, with them inside.

Where no folder for numba's cache can be written, a `kernel` is compiled in memory, by each process that calls it; the
same goes for what the cache has lost or cannot take (a full disk).

`prefetch` asks the memory for what a kernel will read soon, which neither Python nor numba can say. `empty_array` and
`zero_array` are numpy's `empty` and `zeros`, made where they are called: of those numba compiles a function for every
kind of array, which takes 0.06 s each.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.typing.npydecl import parse_dtype, parse_shape
from numba.core.untyped_passes import InlineClosureLikes
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, numpy_empty_nd


class _Linked(JITCodeLibrary):  # type: ignore[misc]  # numba has no types
    """The code of a kernel that is linked into others'; what numba does to run it has nothing to do."""

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, _name: str, _env: Any) -> None:
        pass

    def get_pointer_to_function(self, _name: str) -> int:
        return 0

    def _optimize_functions(self, _module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=True)
class _ToBeLinked(AnalysisPass):  # type: ignore[misc]
    """Gives the kernel a library of that kind."""

    _name = "to_be_linked"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _Linked(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class _Compiler(CompilerBase):  # type: ignore[misc]
    """numba's own, with that pass before the one that makes the code, and without those that look for what these
    kernels have not: functions of their own, and arithmetic on whole arrays."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [one for one in passes.passes if one[0] not in (InlineClosureLikes, NopythonRewrites)]
        place = [kind for kind, _ in passes.passes].index(NativeLowering)
        passes.passes.insert(place, (_ToBeLinked, "choose the library"))
        passes.finalize()
        return [passes]


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's own, whose faults are no kernel's: what cannot be read is compiled again, what cannot be kept is not."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - a file that was cut short may raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls."""
    dispatcher = njit(nogil=True, no_cfunc_wrapper=True)(function)
    with suppress(RuntimeError):  # numba's word for: no folder can be written
        dispatcher._cache = _Cache(function)
    return dispatcher


inner = partial(njit, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_Compiler)
leaf = partial(inner, _nrt=False)
inlined = partial(leaf, forceinline=True)


@intrinsic
def prefetch(_typing: Any, array: Any, _index: Any) -> Any:
    """prefetch(array, index): asks for the cache line of `array[index]` (LLVM's `llvm.prefetch`); waits for nothing.

    array: of one dimension, without gaps.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, of_data = number(0), number(3), number(1)
        builder.call(ask, [builder.bitcast(builder.gep(data, [values[1]]), byte), read, near, of_data])
        return context.get_dummy_value()

    return types.void(array, _index), generate


@intrinsic
def empty_array(typing: Any, shape: Any, dtype: Any) -> Any:
    """empty_array(shape, dtype): an array in C order that nothing was written to.

    shape: an integer, or a tuple of them. Raises ValueError, as numpy does, for one below 0 or too large.
    """
    array = types.Array(parse_dtype(dtype), parse_shape(shape), "C")
    _, generate = numpy_empty_nd._defn(typing, shape, dtype, types.TypeRef(array))
    return array(shape, dtype), generate


@intrinsic
def zero_array(typing: Any, shape: Any, dtype: Any) -> Any:
    """zero_array(shape, dtype): the same with every byte 0."""
    signature, make = empty_array._defn(typing, shape, dtype)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = make(context, builder, signature, values)
        array = make_array(signature.return_type)(context, builder, made)
        cgutils.memset(builder, array.data, builder.mul(array.itemsize, array.nitems), 0)
        return made

    return signature, generate
