"""Thirty-two bytes at a time, by vectors that numba cannot say and LLVM makes of whatever the machine has; and numbers'
operations of the machine's own.

Reads and writes places of arrays of one dimension, without gaps. What is found comes back as the bits of a number, the
first byte's the lowest. Blanks are evened out at 0.4 to 0.6 ns a byte with these, at 0.9 to 1.2 byte by byte; the price
is that LLVM's own words are not as readable as Python's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 32
BEYOND = 2
"""Bytes after a block's that are looked at too."""
BYTES, NUMBER = ir.VectorType(ir.IntType(8), BLOCK), ir.IntType(64)


@intrinsic
def even_blanks(_typing: Any, data: Any, _place: Any, out: Any, _to: Any) -> Any:
    """even_blanks(data, place, out, to): copies 32 bytes of UTF-8, each ASCII blank as a space.

    Gives a uint64: its low 32 bits say which bytes are such blanks, the high ones where others of Python's
    `str.isspace` begin. data: uint8[:], valid UTF-8 up to `place` + 34 at least; out: uint8[:], with room for 32.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def among(block: Any, low: int, high: int) -> Any:
            return _among(builder, block, _all(low), _all(high - low))

        first = _place_in(context, builder, signature, values, 0)
        out = builder.bitcast(_place_in(context, builder, signature, values, 2), BYTES.as_pointer())
        a, b, c = (_block(builder, builder.gep(first, [NUMBER(by)])) for by in range(BEYOND + 1))
        either, both = builder.or_, builder.and_
        blank = either(among(a, 0x20, 0x20), either(among(a, 0x09, 0x0D), among(a, 0x1C, 0x1F)))
        builder.store(builder.select(blank, _all(0x20), a), out, align=1)
        general = either(among(c, 0x80, 0x8A), either(among(c, 0xA8, 0xA9), among(c, 0xAF, 0xAF)))
        second = among(b, 0x80, 0x80)
        wide = both(among(a, 0xC2, 0xC2), either(among(b, 0x85, 0x85), among(b, 0xA0, 0xA0)))
        wide = either(wide, both(both(among(a, 0xE1, 0xE1), among(b, 0x9A, 0x9A)), among(c, 0x80, 0x80)))
        wide = either(wide, both(among(a, 0xE2, 0xE2), both(second, general)))
        wide = either(wide, both(both(among(a, 0xE2, 0xE2), among(b, 0x81, 0x81)), among(c, 0x9F, 0x9F)))
        wide = either(wide, both(both(among(a, 0xE3, 0xE3), second), among(c, 0x80, 0x80)))
        return builder.or_(builder.shl(_bits(builder, wide), NUMBER(BLOCK)), _bits(builder, blank))

    return types.uint64(data, _place, out, _to), generate


@intrinsic
def within(_typing: Any, data: Any, _place: Any, _low: Any, _high: Any) -> Any:
    """within(data, place, low, high): a uint64 whose low 32 bits say which of 32 bytes are `low` to `high`.

    data: uint8[:], with 32 bytes from `place` on. Several ranges of the same bytes cost one load.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, _, low, high = values
        block = _block(builder, _place_in(context, builder, signature, values, 0))
        size = _everywhere(builder, builder.sub(high, low))
        return _bits(builder, _among(builder, block, _everywhere(builder, low), size))

    return types.uint64(data, _place, types.int64, types.int64), generate


@intrinsic
def copy(_typing: Any, data: Any, _place: Any, out: Any, _to: Any, _size: Any) -> Any:
    """copy(data, place, out, to, size): copies so many bytes of one uint8[:] into another, which are apart."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, target = (_place_in(context, builder, signature, values, array) for array in (0, 2))
        cgutils.raw_memcpy(builder, target, source, values[4], 1)
        return context.get_dummy_value()

    return types.void(data, _place, out, _to, _size), generate


@intrinsic
def ones_in(_typing: Any, number: Any) -> Any:
    """ones_in(number): how many bits of a uint64 are 1, an int64."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return types.int64(number), generate


@intrinsic
def folded_product(_typing: Any, a: Any, b: Any) -> Any:
    """folded_product(a, b): the product of two uint64s, its high 64 bits XOR its low ones, a uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(value, wide) for value in values))
        high = builder.lshr(product, wide(64))
        return builder.trunc(builder.xor(product, high), NUMBER)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def zeros_below(_typing: Any, number: Any) -> Any:
    """zeros_below(number): how many of a uint64's lowest bits are 0 before the first 1; 64 where there is none."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.IntType(1)(0))

    return types.uint64(number), generate


def _place_in(context: Any, builder: Any, signature: Any, values: Any, array: int) -> Any:
    """The address that an array among the arguments and the place after it give."""
    first = context.make_array(signature.args[array])(context, builder, values[array]).data
    return builder.gep(first, [values[array + 1]])


def _block(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, BYTES.as_pointer()), align=1)


def _among(builder: Any, block: Any, low: Any, size: Any) -> Any:
    """Which bytes are `low` to `low` + `size`."""
    return builder.icmp_unsigned("<=", builder.sub(block, low), size)


def _bits(builder: Any, found: Any) -> Any:
    return builder.zext(builder.bitcast(found, ir.IntType(BLOCK)), NUMBER)


def _everywhere(builder: Any, byte: Any) -> Any:
    place = ir.IntType(32)
    one = builder.insert_element(ir.Constant(BYTES, ir.Undefined), builder.trunc(byte, ir.IntType(8)), place(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(place, BLOCK), [0] * BLOCK))


def _all(byte: int) -> ir.Constant:
    return ir.Constant(BYTES, [byte] * BLOCK)
