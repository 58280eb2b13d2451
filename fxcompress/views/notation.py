"""How values and operations are written, in text dumps, exported graphs and drawings alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.errors import DialectError
from fxcompress.ir.dialect import resolve

# Schema arguments that say nothing about what is computed, or that vary with the torch version.
_UNTOLD = {"cudnn_enabled", "cudnn_enable", "layout", "device", "pin_memory", "memory_format", "non_blocking"}


class Notation:
    """Writes the nodes of one graph.

    Symbolic sizes get names that do not depend on the run: ``N`` for the first one that is dimension 0 of an input (the
    batch), ``S1``, ``S2`` ... for the others, in the order in which the graph meets them.
    """

    def __init__(self, graph_module: fx.GraphModule):
        self._module = graph_module
        self._names: dict[sympy.Symbol, sympy.Symbol] = {}
        placeholders = graph_module.graph.find_nodes(op="placeholder")
        batch = [symbol for p in placeholders for symbol in _symbols(p.meta.get("val"), first_dimension=True)]
        if batch:
            self._names[batch[0]] = sympy.Symbol("N")
        for node in graph_module.graph.nodes:
            for symbol in _symbols(node.meta.get("val")):
                self._names.setdefault(symbol, sympy.Symbol(f"S{len(self._names) + (not batch)}"))

    def size(self, size: int | torch.SymInt) -> int | str:
        """A size as an integer, or as the name or expression that stands for it."""
        if isinstance(size, int):
            return size
        return str(size.node.expr.xreplace(self._names))

    def tensor(self, node: fx.Node) -> torch.Tensor | None:
        """The (fake) tensor that `node` gives; None for other values and where nothing was recorded."""
        value = node.meta.get("val")
        if value is None and node.op == "get_attr":
            value = attribute(self._module, str(node.target))
        return value if isinstance(value, torch.Tensor) else None

    def shape(self, node: fx.Node) -> tuple[int | str, ...] | None:
        """The sizes of the tensor that `node` gives; None where it gives none."""
        tensor = self.tensor(node)
        return None if tensor is None else tuple(self.size(s) for s in tensor.shape)

    def dtype(self, node: fx.Node) -> str | None:
        """The element type of the tensor that `node` gives, such as ``"float32"``."""
        tensor = self.tensor(node)
        return None if tensor is None else _short(tensor.dtype)

    def value(self, node: fx.Node) -> str:
        """What `node` gives: ``"float32[N, 3, 8, 8]"``, a tuple of such, ``"size N"``, or ``""`` where unknown."""
        tensor = self.tensor(node)
        return self._value(node.meta.get("val") if tensor is None else tensor)

    def _value(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{_short(value.dtype)}[{', '.join(str(self.size(s)) for s in value.shape)}]"
        if isinstance(value, (tuple, list)):
            return f"({', '.join(map(self._value, value))})"
        if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
            return f"size {self.size(value)}"
        return "" if value is None else type(value).__name__

    def operation(self, node: fx.Node) -> str:
        """The name of what `node` does: ``conv2d``, ``input``, ``parameter``, or the class of an inserted module."""
        if node.op == "call_function":
            return operation_name(node.target)
        if node.op == "call_module":
            return type(self._module.get_submodule(str(node.target))).__name__
        if node.op == "get_attr":
            value = attribute(self._module, str(node.target))
            buffer = "buffer" if isinstance(value, torch.Tensor) else "constant"
            return "parameter" if isinstance(value, torch.nn.Parameter) else buffer
        return {"placeholder": "input", "output": "output"}.get(node.op, str(node.target))

    def state(self, node: fx.Node) -> str:
        """What an inserted module says of itself (its `extra_repr`), such as "int8, per tensor"; "" for other nodes."""
        return self._module.get_submodule(str(node.target)).extra_repr() if node.op == "call_module" else ""


def attribute(graph_module: fx.GraphModule, target: str) -> Any:
    """The parameter, buffer or constant at a `get_attr` target; None where there is none."""
    value: Any = graph_module
    for part in target.split("."):
        value = getattr(value, part, None)
    return value


def operation_name(target: Any) -> str:
    """The short name of a function that a node calls; the overload is told only where it is not the dialect's."""
    if not isinstance(target, OpOverload):
        return str(getattr(target, "__name__", target))
    space, _, name = target._schema.name.partition("::")
    if space == "fxcompress":
        return name
    if space != "aten":
        return f"{space}.{name}"
    try:
        return name if resolve(name) is target else f"{name}.{target._overloadname}"
    except DialectError:
        return f"{name}.{target._overloadname}"


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of `node` by their schema's names (by position where there is no schema), defaults left out."""
    if not isinstance(node.target, OpOverload):
        return {str(i): value for i, value in enumerate(node.args)} | dict(node.kwargs)
    named: dict[str, Any] = {}
    for formal, value in zip(node.target._schema.arguments, node.args):
        named[formal.name] = _collapsed(value, formal.N)
    for formal in node.target._schema.arguments:
        if formal.name in node.kwargs:
            named[formal.name] = _collapsed(node.kwargs[formal.name], formal.N)
        default = _collapsed(formal.default_value, formal.N)
        absent = formal.name not in named or formal.name in _UNTOLD
        if absent or (formal.has_default_value() and _same(named[formal.name], default)):
            named.pop(formal.name, None)
    return named


def literal(value: Any, reader: str = "") -> str:
    """An argument as it is written: nodes by name, types without their module.

    A node named after its `reader` loses that part: to the node `conv1`, `conv1_weight` is ``.weight``.
    """
    if isinstance(value, fx.Node):
        return f".{value.name.removeprefix(f'{reader}_')}" if value.name.startswith(f"{reader}_") else value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(literal(v, reader) for v in value)}]"
    if isinstance(value, slice):
        return ":".join("" if v is None else literal(v) for v in (value.start, value.stop, value.step)).removesuffix(":")
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {literal(v, reader)}' for k, v in value.items())}}}"
    if isinstance(value, (torch.dtype, torch.device)):
        return _short(value)
    return repr(value) if isinstance(value, (str, float)) else str(value)


def uses(node: fx.Node) -> Iterator[tuple[str, fx.Node]]:
    """Each use of another node by `node`, as (argument, other): `argument` is "weight", or "tensors.1" in a list."""
    names = [a.name for a in node.target._schema.arguments] if isinstance(node.target, OpOverload) else []
    positional = {names[i] if i < len(names) else str(i): value for i, value in enumerate(node.args)}
    for name, value in (positional | dict(node.kwargs)).items():
        yield from _uses(name, value)


def from_data(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on what the inputs hold: neither constants, nor sizes, nor computed from these."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        size = isinstance(node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool))
        if node.op in ("placeholder", "output") or (not size and any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _uses(path: str, value: Any) -> Iterator[tuple[str, fx.Node]]:
    if isinstance(value, fx.Node):
        yield path, value
    elif isinstance(value, slice):
        yield from _uses(path, (value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _uses(f"{path}.{key}", item)


def _collapsed(value: Any, length: int | None) -> Any:
    """`value` with ``[2, 2]`` as 2 where the schema takes a list of fixed `length`, as kernel sizes and strides are."""
    fixed = isinstance(value, (list, tuple)) and length and len(value) in (1, length) and len(set(map(str, value))) == 1
    return value[0] if fixed else value


def _same(value: Any, default: Any) -> bool:
    return not isinstance(value, fx.Node) and type(value) is type(default) and value == default


def _short(value: torch.dtype | torch.device) -> str:
    return str(value).removeprefix("torch.")


def _symbols(value: Any, first_dimension: bool = False) -> list[sympy.Symbol]:
    """The free symbols of a recorded value in the order in which they are met."""
    if isinstance(value, (tuple, list)):
        return [symbol for item in value for symbol in _symbols(item, first_dimension)]
    if isinstance(value, torch.Tensor):
        sizes = value.shape[:1] if first_dimension else value.shape
        return [symbol for size in sizes for symbol in _symbols(size)]
    if isinstance(value, torch.SymInt):
        return sorted(value.node.expr.free_symbols, key=str)
    return []
