"""How kernels are compiled: those that Python calls, and those for other kernels, to be linked into theirs.

A `kernel` is cached and lets other threads run; it has no wrapper that C would call it by. One for other kernels has
none for Python either, which costs more than most small kernels do; and, since it is made fast together with its
callers, it is neither optimised nor turned into machine code alone, for which numba has no switch: that takes a sixth
off the time that all kernels take to compile. A `leaf` makes no array either, so it needs no reference counts; an
`inlined` one is a leaf that becomes part of each caller; an `inner` kernel may make and return arrays. Those three may
not be called from Python, which would crash, nor are they cached by themselves: their caller is, with them inside.

`prefetch` asks the memory for what a kernel will read soon, which neither Python nor numba can say.
"""

from functools import partial
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes
from numba.extending import intrinsic


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


kernel = partial(njit, cache=True, nogil=True, no_cfunc_wrapper=True)
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
