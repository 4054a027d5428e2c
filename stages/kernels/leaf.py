"""How a kernel for other kernels is compiled: without the wrappers that Python would call it by.

Compiling those costs more than most small kernels do. A `leaf` makes no array either, so it needs no reference counts;
an `inlined` one is a leaf that becomes part of each caller; an `inner` kernel may make and return arrays. None may be
called from Python, which would crash, nor is it cached by itself: its caller is, with it inside.
"""

from numba import njit

inner = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
leaf = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
