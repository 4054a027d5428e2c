"""How a kernel for other kernels is compiled: without the wrappers that Python would call it by.

Compiling those costs more than most small kernels do. A `leaf` makes no array either, so it needs no reference counts;
an `inlined` one is a leaf that becomes part of each caller; an `inner` kernel may make and return arrays. None may be
called from Python, which would crash, nor is it cached by itself: its caller is, with it inside.

`prefetch` asks the memory for what a kernel will read soon, which neither Python nor numba can say.
"""

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

inner = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
leaf = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


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
