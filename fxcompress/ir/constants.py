"""What a graph knows before it runs: constants, and what it computes from constants alone.

Weights come as parameters, and as what a model computes from parameters: normalized, standardized, sums of adapters, slices,
several joined in one. For a pass the last value of such a computation is a constant as a parameter is; it can be
masked and rounded like one, and is trained through its computation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import insert_constant, name_of, value_of
from fxcompress.ir.reach import reached

TRANSPOSE, EMBEDDING, CAST = resolve("transpose"), resolve("embedding"), resolve("_to_copy")

HALF = (torch.float16, torch.bfloat16)

COMPUTED = "constant"
"""The mark, in the metadata of its node, of what is computed from constants alone."""


def constants(graph: fx.Graph, follow: Callable[[fx.Node], bool] = lambda call: True) -> set[fx.Node]:
    """Every node that depends on no input: constants, and what is computed from them alone by calls to `follow`."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        computed = node.op in ("call_function", "call_module") and node.all_input_nodes and follow(node)
        if node.op == "get_attr" or (computed and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def is_constant(node: fx.Node) -> bool:
    """Whether `node` is a `get_attr`, or the last value of what is computed from constants alone (see `mark_computed`)."""
    return node.op == "get_attr" or bool(node.meta.get(COMPUTED))


def is_computed(node: fx.Node) -> bool:
    """Whether `node` is a constant that is computed from others."""
    return node.op == "call_function" and is_constant(node)


def key_of(constant: fx.Node) -> str:
    """What tells the tensor of a constant from others, wherever the graph reads it."""
    return str(constant.target) if constant.op == "get_attr" else constant.name


def mark_computed(graph: fx.Graph) -> None:
    """Mark the floats that are computed from constants alone and read by something else; equal computations become one.

    The transpose of a matrix is not marked, but the matrix: whoever reads a weight looks through it. Nor is what training
    draws at random, or what rows of a table were looked up for: the table is the weight.
    """
    known = constants(graph, _computes_a_weight)
    _merge_equal(graph, known)
    for node in known & set(graph.nodes):
        if node.op == "call_function" and not known.issuperset(node.users) and _is_float(node):
            while _is_transpose(node):
                node = node.args[0]
            if node.op == "call_function":
                node.meta[COMPUTED] = True


def _computes_a_weight(call: fx.Node) -> bool:
    """Whether what `call` makes of constants is one; a mask or quantizer stands between a constant and its readers."""
    return call.op == "call_function" and not _is_random(call) and call.target is not EMBEDDING


def is_widened(node: fx.Node) -> bool:
    """Whether `node` is a weight that is held in half precision, in float32 (see `fxcompress.capture`)."""
    source = node.args[0] if node.target is CAST else None
    return isinstance(source, fx.Node) and source.op == "get_attr" and source.meta["val"].dtype in HALF


def interior(graph: fx.Graph) -> set[fx.Node]:
    """What is computed on the way to a constant that is marked."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in found or is_computed(node):
            found.update(source for source in node.all_input_nodes if not is_constant(source))
    return found


def behind(node: fx.Node) -> set[fx.Node]:
    """The `get_attr` nodes that the constant `node` is, or is computed from."""
    return {one for one in reached([node], lambda one: one.all_input_nodes) if one.op == "get_attr"}


def fold_computed(graph_module: fx.GraphModule, created_by: str, *, half_weights: bool = False) -> list[fx.Node]:
    """Put in place of each marked computation what it gives, as a parameter where it is computed from one.

    Weights that are held in half precision stay so where `half_weights` is set.

    A table that is larger than all that it is computed from, such as the offsets of pairs of positions, stays, unless a
    module reads it (a mask or a quantizer), or an operation with a bias: then it is a weight.
    """
    made = []
    for node in list(filter(is_computed, graph_module.graph.nodes)):
        if half_weights and is_widened(node):
            continue
        if _bytes(node) <= sum(map(_bytes, behind(node))) or _is_weight(node):
            value = value_of(graph_module, node)
            new = insert_constant(graph_module, name_of(node), value, before=node.next, created_by=created_by, replaces=node)
            new.meta |= {key: node.meta[key] for key in ("val", "scope", "stack_trace") if key in node.meta}
            node.replace_all_uses_with(new)
            made.append(new)
    graph_module.graph.eliminate_dead_code()
    return made


def _merge_equal(graph: fx.Graph, known: set[fx.Node]) -> None:
    """Let calls of the same function on the same constants be one: a layer that is called twice computes its weight twice."""
    seen: dict[object, fx.Node] = {}
    for node in [node for node in graph.nodes if node in known]:
        first = seen.setdefault((node.op, node.target, str(node.args), str(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _bytes(node: fx.Node) -> int:
    return int(node.meta["val"].numel() * node.meta["val"].itemsize)


def _is_weight(node: fx.Node) -> bool:
    def has_bias(reader: fx.Node) -> bool:
        return any(one.name == "bias" for one in getattr(getattr(reader.target, "_schema", None), "arguments", ()))

    readers = [reader for user in node.users for reader in (user.users if _is_transpose(user) else [user])]
    return any(reader.op == "call_module" or has_bias(reader) for reader in readers)


def _is_transpose(node: fx.Node) -> bool:
    return node.target is TRANSPOSE and node.meta["val"].dim() == 2


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
