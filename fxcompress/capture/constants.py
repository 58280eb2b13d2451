"""Values that depend on no input, parameter or buffer are computed once, at capture."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from fxcompress.capture.functionalize import is_in_place, storage_roots
from fxcompress.ir.fake import static_sizes

aten = torch.ops.aten

PREFIX = "constant_"

# Read shape, dtype or device of one of their arguments, by its position, not its values.
_LIKE = {
    **dict.fromkeys((aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default), 0),
    **dict.fromkeys((aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default), 0),
    **dict.fromkeys((aten.type_as.default, aten.to.other, aten.expand_as.default, aten.view_as.default), 1),
}


def fold_constants(module: fx.GraphModule) -> None:
    """Replace what depends on literals alone (position numbers, attention masks) by attributes ``constant_0``, ..."""
    constant = _constant_nodes(module)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in constant:
            values[node] = _run(node, values, module)
    count = 0
    for node in constant:
        readers = [user for user in node.users if user not in values]
        if node.op == "get_attr" or not readers or not isinstance(values[node], Tensor):
            continue
        while hasattr(module, name := f"{PREFIX}{count}"):  # the user's own, it may be
            count += 1
        module.register_buffer(name, values[node].clone(), persistent=False)
        with module.graph.inserting_before(node):
            attribute = module.graph.get_attr(name)
        attribute.meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(attribute, delete_user_cb=lambda user: user not in values)
    for node in reversed(constant):
        if not node.users:
            module.graph.erase_node(node)


def _constant_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """In order: calls on literals alone, and tensors that are not in the state.

    Their storage is written to by calls on literals alone, before anything else reads it.
    """
    graph = module.graph
    order = {node: position for position, node in enumerate(graph.nodes)}
    roots = storage_roots(graph)
    state = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    state |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    spoiled: set[fx.Node] = set()
    while True:
        found: dict[fx.Node, None] = {}
        for node in graph.nodes:
            if roots[node] not in spoiled and _is_constant(node, found, state):
                found[node] = None
        first_read: dict[fx.Node, int] = {}
        for node in found:
            readers = [order[user] for user in node.users if user not in found]
            first_read[roots[node]] = min([first_read.get(roots[node], len(order)), *readers])
        writes = [node for node in graph.nodes if is_in_place(node) and roots[node] in first_read]
        late = {roots[node] for node in writes if node not in found or order[node] > first_read[roots[node]]}
        if not late:
            return list(found)
        spoiled |= late


def _is_constant(node: fx.Node, found: dict[fx.Node, None], state: set[str]) -> bool:
    if node.op == "get_attr":
        return node.target not in state and isinstance(node.meta.get("val"), Tensor)
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    value = node.meta.get("val")
    if any(not isinstance(size, int) for v in _tensors(value) for size in static_sizes(v.shape)) or not _tensors(value):
        return False
    if node.target in _LIKE:
        like = node.args[_LIKE[node.target]]
        return all(source in found for source in node.all_input_nodes if source is not like)
    if not isinstance(node.target, OpOverload) and not node.all_input_nodes:
        return False
    return all(source in found for source in node.all_input_nodes)


def _tensors(value: Any) -> list[Tensor]:
    return [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, Tensor)]


def _run(node: fx.Node, values: dict[fx.Node, Any], module: fx.GraphModule) -> Any:
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(module).detach().clone()

    def value_of(source: fx.Node) -> Any:
        if source in values:
            return values[source]
        like = source.meta["val"]  # read by an operation in _LIKE
        return torch.empty([s if isinstance(s, int) else 1 for s in like.shape], dtype=like.dtype, device=like.device)

    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)  # type: ignore[misc]
    return node.target(*args, **kwargs)  # type: ignore[operator]
