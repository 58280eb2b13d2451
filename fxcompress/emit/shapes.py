"""Symbolic sizes in an ONNX graph: their names in declared shapes, and their values where an operator needs one.

A size such as ``4*batch + 1`` is an expression over symbols that torch.export introduced. Each symbol is bound to the
graph input, or the call that finds so many values, whose shape holds it, or to the tensor that it is the number in, so that a
value is computed only where a constant will not do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import onnx_ir as ir
import sympy
import torch
from torch.utils._sympy import functions as symbolic

Size: TypeAlias = int | torch.SymInt


AXES = {
    2: {1: "sequence"},
    3: {1: "sequence", 2: "length"},
    4: {2: "height", 3: "width"},
    5: {2: "depth", 3: "height", 4: "width"},
}
"""What the axes of an input are called, by its rank, behind a batch in its first: tokens, their features, images, volumes."""


class UnknownSizeError(Exception):
    """A size that cannot be computed from the shapes of the graph's inputs."""


def expression(size: Size) -> sympy.Expr | int:
    """`size` as an int where it is known, else as a sympy expression."""
    if isinstance(size, int):
        return size
    found = size.node.expr
    return int(found) if found.is_Integer else found


def known_number(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    """The number behind `size` where it is known to be a constant, else itself."""
    found = size.node.expr
    if not found.is_number and found not in (sympy.true, sympy.false):
        return size
    kinds = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}
    return kinds[type(size)](found)


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are provably equal."""
    return bool(expression(a) == expression(b))


def broadcast_shape(*shapes: Sequence[Size]) -> list[Size]:
    """The shape that `shapes`, which torch has found to go together, are broadcast to; asks nothing of symbolic sizes."""
    rank = max(map(len, shapes))
    columns = zip(*[[1] * (rank - len(shape)) + list(shape) for shape in shapes])
    return [max(column, key=_told) for column in columns]


def _told(size: Size) -> int:
    """How much `size` tells of what others are broadcast to: one nothing, an unknown one that it is that, a known one all."""
    known = expression(size)
    return 1 if not isinstance(known, int) else 0 if known == 1 else 2


class Writer(Protocol):
    """What appends the nodes that compute a size."""

    def op(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any: ...

    def constant(self, tensor: torch.Tensor) -> ir.Value: ...


class SymbolicSizes:
    """The symbols of one graph: what they are called, and where their values come from."""

    def __init__(self) -> None:
        self._names: dict[sympy.Symbol, str] = {}
        self._sources: dict[sympy.Symbol, tuple[ir.Value, int, sympy.Expr]] = {}
        self._numbers: dict[sympy.Expr | int, ir.Value] = {}
        self._values: dict[sympy.Expr, ir.Value] = {}

    def within(self) -> SymbolicSizes:
        """For a graph inside this one, which reads nothing of it: the same names, of values of its own."""
        inner = SymbolicSizes()
        inner._names = self._names
        return inner

    def bind(self, value: ir.Value, sizes: Sequence[Size], samples: int | None = None) -> None:
        """Note which symbols the shape of the graph input `value` holds; the first holder of a symbol names it.

        Its samples lie along the axis `samples`, where that is known.
        """
        for axis, size in enumerate(sizes):
            found = expression(size)
            if isinstance(found, int):
                continue
            for symbol in found.free_symbols:
                if symbol not in self._names:
                    self._names[symbol] = self._new_name(value.name or "input", axis, len(sizes), samples)
                known = self._sources.get(symbol)
                if known is None or (found.is_Symbol and not known[2].is_Symbol):
                    self._sources[symbol] = (value, axis, found)

    def bind_result(self, value: ir.Value, sizes: Sequence[Size]) -> None:
        """Note the symbols that came up with `value`, how many values a call found: they are read from its shape."""
        for axis, size in enumerate(sizes):
            found = expression(size)
            if isinstance(found, sympy.Symbol) and found not in self._sources:
                self._sources[found] = (value, axis, found)
                self._names[found] = f"{value.name}_dim_{axis}"

    def bind_number(self, size: Size, value: ir.Value) -> None:
        """Note that `size` is what the tensor `value` holds, of one integer: how many tokens go to an expert, say."""
        self._numbers[expression(size)] = value

    def _new_name(self, owner: str, axis: int, rank: int, samples: int | None) -> str:
        taken = self._names.values()
        if axis == samples or (samples is None and axis == 0 and "batch" not in taken):
            return "batch"
        word = "past_sequence" if owner.startswith("past_key_values.") and axis == 2 else AXES.get(rank, {}).get(axis)
        if samples != 0 or word is None:
            return f"{owner}_dim_{axis}"
        return word if word not in taken else f"{owner.replace('.', '_')}_{word}"

    def declared(self, sizes: Iterable[Size]) -> ir.Shape:
        """The shape as a file declares it: constants, or expressions over named symbols such as ``batch``."""
        found = [expression(size) for size in sizes]
        return ir.Shape([size if isinstance(size, int) else ir.SymbolicDim(self._name(size)) for size in found])

    def _name(self, size: sympy.Expr) -> str:
        names = {symbol: sympy.Symbol(self._names.get(symbol, symbol.name)) for symbol in size.free_symbols}
        return str(size.xreplace(names)).replace(" ", "")

    def value(self, emit: Writer, size: Size | torch.SymFloat) -> ir.Value:
        """`size` as a tensor of shape [1], of int64 or, where it is a float, of double precision.

        Raises:
            UnknownSizeError: the size does not follow from the shapes of the graph's inputs.
        """
        return self._compute(emit, sympy.sympify(expression(size)))

    def _compute(self, emit: Writer, size: sympy.Expr) -> ir.Value:
        if size.is_Integer:
            return emit.constant(torch.tensor([int(size)]))
        if size not in self._values:
            self._values[size] = self._symbol(emit, size) if size.is_Symbol else self._arithmetic(emit, size)
        return self._values[size]

    def _symbol(self, emit: Writer, symbol: sympy.Symbol) -> ir.Value:
        if symbol in self._numbers:
            return emit.op("Reshape", emit.op("Cast", self._numbers[symbol], to=ir.DataType.INT64), [1])
        if symbol not in self._sources:
            raise UnknownSizeError(f"size {symbol} depends on the data, not on the shapes of the inputs")
        source, axis, held = self._sources[symbol]
        read = emit.op("Shape", source, start=axis, end=axis + 1)
        if held.is_Symbol:
            return read
        # The input's own size is an expression: solve it for the symbol, which torch.export keeps linear.
        factor, offset = held.coeff(symbol), held.subs(symbol, 0)
        if not (factor.is_Integer and offset.is_Integer):
            raise UnknownSizeError(f"size {symbol} cannot be read from an input size of {held}")
        return emit.op("Div", emit.op("Sub", read, [int(offset)]), [int(factor)])

    def _arithmetic(self, emit: Writer, size: sympy.Expr) -> ir.Value:
        if isinstance(size, sympy.Float | sympy.Rational):
            return emit.constant(torch.tensor([float(size)], dtype=torch.float64))
        operator, arguments = _OPERATORS.get(type(size)), size.args
        if isinstance(size, sympy.Pow) and size.exp.is_Integer and size.exp > 0:
            operator, arguments = "Mul", (size.base,) * int(size.exp)
        rounding = _ROUNDED.get(type(size))
        if operator is None and rounding is None:
            raise UnknownSizeError(f"size {size} uses {type(size).__name__}, which has no ONNX arithmetic here")
        fractions = type(size) in _OF_FRACTIONS or any(map(is_fraction, arguments))
        result, *others = [self._operand(emit, argument, fractions) for argument in arguments]
        if operator is None:
            return emit.op("Cast", emit.op(rounding, result) if rounding else result, to=ir.DataType.INT64)
        if not others:
            return emit.op(operator, result) if operator else result
        for other in others:
            result = emit.op(operator, result, other)
        return result

    def _operand(self, emit: Writer, argument: sympy.Expr, fraction: bool) -> ir.Value:
        """`argument`, in double precision where it is one of a `fraction`."""
        if fraction and argument.is_Integer:
            return emit.constant(torch.tensor([int(argument)], dtype=torch.float64))
        value = self._compute(emit, argument)
        return emit.op("Cast", value, to=ir.DataType.DOUBLE) if fraction and not is_fraction(argument) else value


_OPERATORS = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    sympy.Max: "Max",
    sympy.Min: "Min",
    symbolic.Max: "Max",
    symbolic.Min: "Min",
    symbolic.FloorDiv: "Div",
    symbolic.CleanDiv: "Div",
    symbolic.IntTrueDiv: "Div",
    symbolic.FloatTrueDiv: "Div",
    symbolic.FloatPow: "Pow",
    symbolic.ToFloat: "",
    symbolic.OpaqueUnaryFn_sqrt: "Sqrt",
    symbolic.OpaqueUnaryFn_log: "Log",
    symbolic.OpaqueUnaryFn_exp: "Exp",
    symbolic.Mod: "Mod",
    symbolic.PythonMod: "Mod",
}
_ROUNDED = {symbolic.TruncToInt: "", symbolic.FloorToInt: "Floor", symbolic.CeilToInt: "Ceil", symbolic.RoundToInt: "Round"}
"""What makes a whole number of a fraction: the operator before the conversion, which cuts off what is behind the point."""
_OF_FRACTIONS = {symbolic.IntTrueDiv, symbolic.FloatTrueDiv, symbolic.FloatPow, symbolic.ToFloat, *_ROUNDED} | {
    symbolic.OpaqueUnaryFn_sqrt,
    symbolic.OpaqueUnaryFn_log,
    symbolic.OpaqueUnaryFn_exp,
}
"""What takes its operands as floats, and but for those that round gives one."""


def is_fraction(size: sympy.Expr) -> bool:
    """Whether `size` is a float: Python's, of double precision."""
    if isinstance(size, sympy.Float | sympy.Rational):
        return not size.is_Integer
    if type(size) in _OF_FRACTIONS:
        return type(size) not in _ROUNDED
    return any(map(is_fraction, size.args))
