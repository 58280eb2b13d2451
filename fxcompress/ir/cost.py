"""What a graph costs to run: multiply-adds and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from fxcompress.ir.constants import constants
from fxcompress.ir.edit import attribute
from fxcompress.ir.signature import arguments


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of convolutions, linear layers, matrix products and attention for one sample, and parameters.

    A multiply-add is one multiplication and one addition: some count it as two operations (FLOPs).
    """

    multiply_adds: int
    parameters: int

    def __str__(self) -> str:
        return f"{readable_count(self.multiply_adds)} multiply-adds a sample, {readable_count(self.parameters)} parameters"


Sizes = Callable[[fx.Node], list[int]]
"""What the sizes of a value are taken for."""


def sizes_of(node: fx.Node) -> list[int]:
    """The sizes of a value, a free size (the batch) taken for one."""
    return [_number(size, {}) for size in node.meta["val"].shape]


def cost(graph_module: fx.GraphModule, sizes: Sizes = sizes_of) -> Cost:
    """The cost of `graph_module`, were its values of these `sizes`; masks are not taken for removed."""
    held = {}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        tensor = attribute(graph_module, str(node.target))
        if isinstance(tensor, torch.nn.Parameter):
            held[id(tensor)] = math.prod(sizes(node))
    return Cost(sum(multiply_adds(node, sizes) for node in graph_module.graph.nodes), sum(held.values()))


def multiply_adds(node: fx.Node, sizes: Sizes = sizes_of) -> int:
    """Of the call `node`, for one sample: what is computed of each output value, times output values."""
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    if name.startswith("conv_transpose"):  # each input value is multiplied with a kernel for each output channel
        return math.prod(sizes(arguments(node)["input"])) * math.prod(sizes(arguments(node)["weight"])[1:])
    if name in ("conv1d", "conv2d", "conv3d", "linear"):
        return math.prod(sizes(node)) * math.prod(sizes(arguments(node)["weight"])[1:])
    if name in ("matmul", "bmm", "mm", "addmm", "baddbmm"):
        left = node.args[1] if name in ("addmm", "baddbmm") else node.args[0]
        return math.prod(sizes(node)) * sizes(left)[-1]
    if name == "scaled_dot_product_attention":
        query, key, value = (sizes(arguments(node)[one]) for one in ("query", "key", "value"))
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def _number(size: int | torch.SymInt, known: Mapping[Any, int]) -> int:
    """A size where those that are free are as `known`, by their expressions; others are 1."""
    return size if isinstance(size, int) else _value(size.node.expr, tuple(known.items()))


@lru_cache(maxsize=4096)
def _value(expression: Any, known: tuple[tuple[Any, int], ...]) -> int:
    bound = sympy.sympify(expression).subs(dict(known))
    return int(bound.subs(dict.fromkeys(bound.free_symbols, 1)))


def value_bytes(graph: fx.Graph, inputs: Sequence[Any]) -> int:
    """The bytes of all values that `graph` computes of `inputs`, which are flattened as its placeholders are.

    A size that depends on data is taken for 1.
    """
    known = dict[Any, int]()
    for node, given in zip(graph.find_nodes(op="placeholder"), inputs):
        if isinstance(given, Tensor):
            known.update((s.node.expr, n) for s, n in zip(node.meta["val"].shape, given.shape) if not isinstance(s, int))
    computed = constants(graph)
    values = [node.meta.get("val") for node in graph.nodes if node.op == "call_function" and node not in computed]
    held = (one for one in values if isinstance(one, Tensor))
    return sum(math.prod(_number(size, known) for size in one.shape) * one.itemsize for one in held)


def readable_count(count: float) -> str:
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.4g}{unit}"
        count /= 1000
    return f"{count:.4g} G"


def first_layers(graph: fx.Graph) -> set[fx.Node]:
    """The layers with weights or products that no other one comes before."""
    behind: set[fx.Node] = set()
    first = set()
    for node in graph.nodes:
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
        elif node.op == "call_function" and multiply_adds(node):
            first.add(node)
            behind.add(node)
    return first
