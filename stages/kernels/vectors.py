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
        def start(array: int, by: int = 0) -> Any:
            first = context.make_array(signature.args[array])(context, builder, values[array]).data
            place = builder.gep(first, [builder.add(values[array + 1], NUMBER(by))])
            return builder.bitcast(place, BYTES.as_pointer())

        def within(value: Any, low: int, high: int) -> Any:
            return builder.icmp_unsigned("<=", builder.sub(value, _all(low)), _all(high - low))

        def bits(found: Any) -> Any:
            return builder.zext(builder.bitcast(found, ir.IntType(BLOCK)), NUMBER)

        a, b, c = (builder.load(start(0, by), align=1) for by in range(BEYOND + 1))
        either, both = builder.or_, builder.and_
        blank = either(within(a, 0x20, 0x20), either(within(a, 0x09, 0x0D), within(a, 0x1C, 0x1F)))
        builder.store(builder.select(blank, _all(0x20), a), start(2), align=1)
        general = either(within(c, 0x80, 0x8A), either(within(c, 0xA8, 0xA9), within(c, 0xAF, 0xAF)))
        second = within(b, 0x80, 0x80)
        wide = both(within(a, 0xC2, 0xC2), either(within(b, 0x85, 0x85), within(b, 0xA0, 0xA0)))
        wide = either(wide, both(both(within(a, 0xE1, 0xE1), within(b, 0x9A, 0x9A)), within(c, 0x80, 0x80)))
        wide = either(wide, both(within(a, 0xE2, 0xE2), both(second, general)))
        wide = either(wide, both(both(within(a, 0xE2, 0xE2), within(b, 0x81, 0x81)), within(c, 0x9F, 0x9F)))
        wide = either(wide, both(both(within(a, 0xE3, 0xE3), second), within(c, 0x80, 0x80)))
        return builder.or_(builder.shl(bits(wide), NUMBER(BLOCK)), bits(blank))

    return types.uint64(data, _place, out, _to), generate


@intrinsic
def within(_typing: Any, data: Any, _place: Any, _low: Any, _high: Any) -> Any:
    """within(data, place, low, high): a uint64 whose low 32 bits say which of 32 bytes are `low` to `high`.

    data: uint8[:], with 32 bytes from `place` on. Several ranges of the same bytes cost one load.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data, place, low, high = values
        first = context.make_array(signature.args[0])(context, builder, data).data
        block = builder.load(builder.bitcast(builder.gep(first, [place]), BYTES.as_pointer()), align=1)
        size = _everywhere(builder, builder.sub(high, low))
        found = builder.icmp_unsigned("<=", builder.sub(block, _everywhere(builder, low)), size)
        return builder.zext(builder.bitcast(found, ir.IntType(BLOCK)), NUMBER)

    return types.uint64(data, _place, types.int64, types.int64), generate


@intrinsic
def copy(_typing: Any, data: Any, _place: Any, out: Any, _to: Any, _size: Any) -> Any:
    """copy(data, place, out, to, size): copies so many bytes of one uint8[:] into another, which are apart."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def start(array: int) -> Any:
            first = context.make_array(signature.args[array])(context, builder, values[array]).data
            return builder.gep(first, [values[array + 1]])

        cgutils.raw_memcpy(builder, start(2), start(0), values[4], 1)
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


def _everywhere(builder: Any, byte: Any) -> Any:
    place = ir.IntType(32)
    one = builder.insert_element(ir.Constant(BYTES, ir.Undefined), builder.trunc(byte, ir.IntType(8)), place(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(place, BLOCK), [0] * BLOCK))


def _all(byte: int) -> ir.Constant:
    return ir.Constant(BYTES, [byte] * BLOCK)
