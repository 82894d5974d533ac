"""Comparing many pixels at once.

The compiler makes vector instructions of LLVM's vector types on every kind of processor, and no loop that Python can
write gives it the outcome as bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

LANES = 32
"""Pixels that are compared at once, one for each bit of the outcome."""


def _lanes_above(typing_context: Any, values: Any, start: Any, threshold: Any) -> Any:
    """`lanes_above(values, start, threshold)`: bit i is set where `values[start + i] > threshold`, i < `LANES`, uint32.

    `values` (n,) is contiguous and holds integers or floats, the threshold is of the same type, and
    start + LANES ≤ n is not checked. NaN is above nothing.
    """
    number = values.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(number), LANES)
        undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        array = context.make_array(values)(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        pixels = builder.load(address, align=number.bitwidth // 8)
        lowest = builder.insert_element(undefined, arguments[2], first)
        every = builder.shuffle_vector(
            lowest, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )
        if isinstance(number, types.Float):
            above = builder.fcmp_ordered(">", pixels, every)
        elif number.signed:
            above = builder.icmp_signed(">", pixels, every)
        else:
            above = builder.icmp_unsigned(">", pixels, every)
        return builder.bitcast(above, ir.IntType(LANES))

    return types.uint32(values, types.intp, number), generate


def _lowest_bit(typing_context: Any, bits: Any) -> Any:
    """`lowest_bit(bits)`: the number of the lowest bit that is set in a uint32 other than 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


lanes_above: Any = intrinsic(_lanes_above)
lowest_bit: Any = intrinsic(_lowest_bit)
