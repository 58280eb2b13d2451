"""Names that read like the model: nodes are called after the modules that they come from."""

from __future__ import annotations

import operator
import re
from collections import Counter

import torch
from torch import fx

from fxcompress.ir.constants import is_widened
from fxcompress.ir.naming import identifier

_KEPT = ("val", "stack_trace", "nn_module_stack", "dropout_p", "trains_as", "frozen", "call", "calls", "contiguous")


def rename(graph: fx.Graph) -> fx.Graph:
    """A copy of `graph` whose nodes carry ``meta["scope"]`` and are named after it; attributes stand at their first use.

    The only operation of a leaf module has the module's path for a name (``layer1_0_conv1``), any other one the path
    and the operation (``layer1_0_add``); a parameter is called by its key (``layer1_0_conv1_weight``), which of one in half
    precision is its cast.
    """
    names = _Names(graph)
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def add(node: fx.Node, name: str, scope: str) -> None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)  # type: ignore[misc]
        copy = new.create_node(node.op, node.target, args, kwargs, name=name, type_expr=node.type)  # type: ignore[arg-type]
        copy.meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
        copy.meta["scope"] = scope
        copies[node] = copy

    for node in graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr" and source not in copies:
                path = str(source.target)
                add(source, names.unique(identifier(path) + ("_half" if is_widened(node) else "")), path.rpartition(".")[0])
        if node.op == "placeholder":
            add(node, names.unique(node.name), "")
        elif node.op != "get_attr":
            scope = scope_of(node)
            add(node, names.of(node, scope, copies) if node.op != "output" else "output", scope)
    new.set_codegen(graph._codegen)
    return new


def scope_of(node: fx.Node) -> str:
    """The path of the module whose forward made `node`; empty at the root."""
    return _last_call(node)[0]


def _last_call(node: fx.Node) -> tuple[str, str]:
    """The path of the innermost module behind `node`, and a key that tells several calls of it apart."""
    stack = node.meta.get("nn_module_stack")
    if not stack or node.target is torch.ops.aten.sym_size.int:
        return "", ""
    key, (path, *_) = list(stack.items())[-1]
    return re.sub(r"@\d+", "", path), key


class _Names:
    """Hands out names, each once."""

    def __init__(self, graph: fx.Graph):
        self._taken: set[str] = {"self"}
        calls = [node for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
        self._operations = Counter(_last_call(node)[1] for node in calls)
        self._weighted = Counter(_last_call(node)[1] for node in calls if _owns_weight(node))
        paths = {scope_of(node) for node in calls} | {
            str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"
        }
        self._parents = {"", *(path[: dot.start()] for path in paths for dot in re.finditer(r"\.", path))}

    def of(self, node: fx.Node, scope: str, copies: dict[fx.Node, fx.Node]) -> str:
        if is_widened(node):
            return self.unique(identifier(str(node.args[0].target)))
        operation = _operation(node)
        source = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(source, fx.Node) and isinstance(node.args[1], int):
            return self.unique(f"{copies[source].name}_{node.args[1]}")
        if node.target is torch.ops.aten.sym_size.int and isinstance(source, fx.Node):
            return self.unique(f"{copies[source].name}_size_{node.args[1]}")
        path, both = identifier(scope), identifier(f"{scope}.{operation}" if scope else operation)
        borrowed = _inner_owner(node)
        if borrowed and identifier(borrowed) not in self._taken:
            return self.unique(identifier(borrowed))
        if scope in self._parents or not self._is_the_operation(node):
            return self.unique(both)
        # A second call of `block.1` must not take the name of `block.2`.
        return self.unique(both if path in self._taken and path[-1].isdigit() else path)

    def _is_the_operation(self, node: fx.Node) -> bool:
        """Whether `node` is the one operation of its module's call, or the one with the module's weight."""
        call = _last_call(node)[1]
        return self._operations[call] == 1 or (self._weighted[call] == 1 and _owns_weight(node))

    def unique(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def _owns_weight(node: fx.Node) -> bool:
    """Whether `node` applies a parameter of its own module to a value that is not one."""
    inside = f"{scope_of(node)}."
    attributes = [source for source in node.all_input_nodes if source.op == "get_attr"]
    own = any(str(source.target).startswith(inside) for source in attributes)
    return own and len(attributes) < len(node.all_input_nodes)


def _inner_owner(node: fx.Node) -> str:
    """The submodule whose weight `node` applies without calling it, as torch's attention does; empty if there is none."""
    scope = scope_of(node)
    inside = f"{scope}." if scope else ""
    for source in node.all_input_nodes if len(node.all_input_nodes) > 1 else ():
        owner, _, name = str(source.target).rpartition(".")
        if source.op == "get_attr" and name == "weight" and owner.startswith(inside) and owner != scope:
            return owner
    return ""


def _operation(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2].strip("_")
    return getattr(node.target, "__name__", str(node.target))
