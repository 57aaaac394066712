"""Vectors of 16 numbers in float32 or float64, as values of compiled code: what a loop over lanes cannot say.

LLVM turns the innermost loop into vector instructions, and keeps nothing in registers from one of its rounds to the
next but sums. A product of small matrices, or a chain that a sample goes through from end to end, needs that: here a
vector is a local variable, `+ - *` are instructions, and they are those of the widest registers that there are. Where
those hold fewer than 16 numbers, LLVM takes several.

Only compiled code can use them. `load` and `store` take C-ordered arrays, whose last index is where the vector begins;
nothing checks that 16 numbers are there.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

intrinsic: Any = numba_intrinsic
"""For type checkers, which would ask callers for what Numba itself passes."""

LANES = 16
"""Numbers in a vector: in float32, those of the widest registers."""

CONTRACT = ("contract", "nsz")
"""As `kernels.ORDERED` has it: a product and a sum may become one instruction, in the order in which they stand."""


class Vector(types.Type):
    """The type of vectors of numbers of one type."""

    def __init__(self, of: types.Float) -> None:
        self.of = of
        super().__init__(f"Vector({of}, {LANES})")


class Mask(types.Type):
    """The type of what comparisons of vectors give."""

    def __init__(self) -> None:
        super().__init__(f"Mask({LANES})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager[kind.of].get_value_type(), LANES))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Mask) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), LANES))


SINGLE, DOUBLE, MASK = Vector(types.float32), Vector(types.float64), Mask()


def _add_operator(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class _Typed(ConcreteTemplate):
        cases = (signature(SINGLE, SINGLE, SINGLE), signature(DOUBLE, DOUBLE, DOUBLE))

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments, flags=CONTRACT)

    for kind in (SINGLE, DOUBLE):
        lower_builtin(symbol, kind, kind)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _add_operator(_symbol, _instruction)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, indices: Any, kind: Vector) -> Any:
    """Return where a vector begins in an array."""
    made = context.make_array(array_type)(context, builder, array)
    place = cgutils.get_item_pointer(context, builder, array_type, made, indices, wraparound=False)
    return builder.bitcast(place, context.get_value_type(kind).as_pointer())


def _index(context: Any, builder: Any, kind: Any, indices: Any) -> list[Any]:
    """Return a tuple of whole numbers as addresses are counted in."""
    parts = cgutils.unpack_tuple(builder, indices, len(kind))
    return [context.cast(builder, part, own, types.intp) for part, own in zip(parts, kind, strict=True)]


def _of_llvm(builder: Any, name: str, arguments: Any) -> Any:
    """Return what a function of LLVM says of vectors, all of one type; llvmlite has those of numbers alone."""
    whole = arguments[0].type
    full_name = f"llvm.{name}.v{LANES}f{32 if whole.element == ir.FloatType() else 64}"
    called = ir.FunctionType(whole, [whole] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, called, full_name), arguments)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return 16 numbers of an array from an index, a tuple, on."""
    kind = Vector(array.dtype)

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        indices = _index(context, builder, index, arguments[1])
        place = _pointer(context, builder, array, arguments[0], indices, kind)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return kind(array, index), lower


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Put 16 numbers into an array from an index, a tuple, on."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        indices = _index(context, builder, index, arguments[1])
        place = _pointer(context, builder, array, arguments[0], indices, vector)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, vector), lower


@intrinsic
def every(typing: Any, number: Any) -> Any:
    """Return a vector of 16 times one number."""
    kind = Vector(number)

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        of, whole = ir.IntType(32), context.get_value_type(kind)
        undefined = ir.Constant(whole, ir.Undefined)
        one = builder.insert_element(undefined, arguments[0], of(0))
        return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(of, LANES), None))

    return kind(number), lower


@intrinsic
def fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return _of_llvm(builder, "fma", arguments)

    return a(a, b, c), lower


@intrinsic
def below(typing: Any, a: Any, b: Any) -> Any:
    """Return where a < b, which is nowhere where one is NaN."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.fcmp_ordered("<", *arguments)

    return MASK(a, b), lower


@intrinsic
def choose(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return a where the mask says so, and b elsewhere."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(mask, a, b), lower


@intrinsic
def minus_size(typing: Any, a: Any) -> Any:
    """Return −|a|."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.fneg(_of_llvm(builder, "fabs", arguments))

    return a(a), lower


@intrinsic
def two_to(typing: Any, a: Any) -> Any:
    """Return 2ⁿ of a float32 whose lowest bits are n, from −126 to 127, as those of 1.5 · 2²³ + n are."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        whole = ir.VectorType(ir.IntType(32), LANES)
        shift, one = (ir.Constant(whole, [number] * LANES) for number in (23, 127 << 23))
        bits = builder.bitcast(arguments[0], whole)
        return builder.bitcast(builder.add(builder.shl(bits, shift), one), arguments[0].type)

    return SINGLE(SINGLE), lower


@intrinsic
def doubled(typing: Any, a: Any) -> Any:
    """Return a vector of float32 in float64."""

    def lower(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.fpext(arguments[0], context.get_value_type(DOUBLE))

    return DOUBLE(SINGLE), lower
