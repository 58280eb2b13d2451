"""The text of a graph: stable from run to run, made to be read, compared and kept as a golden."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator

from torch import fx

from fxcompress.ir.reach import reached
from fxcompress.views.notation import Notation, arguments, from_data, literal, operation_name


def to_text(graph_module: fx.GraphModule) -> str:
    """The graph, one line a node: ``name = operation(arguments) : dtype[shape]``, then what created it.

    Computations come first, in the order they run (those on constants alone right before their first use), under a
    heading a module; the parameters and buffers they read follow under ``constants:``. Arguments at their schema's
    default are left out, ``[2, 2]`` is written 2, ``.weight`` in the line of `conv1` is `conv1_weight`, the batch is
    ``N``. ``by FoldBatchNorm`` names the pass that created a node, ``in r3`` the region that it belongs to.
    """
    notation = Notation(graph_module)
    constants = graph_module.graph.find_nodes(op="get_attr")
    lines = list(_computations(graph_module.graph, notation))
    if constants:
        lines += ["", "constants:", *(f"  {_line(node, notation)}" for node in constants)]
    return "\n".join(lines).strip("\n") + "\n"


def diff_text(before: str, after: str) -> str:
    """What changed between two texts of `to_text`, as a unified diff; empty where nothing did."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=1, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _computations(graph: fx.Graph, notation: Notation) -> Iterator[str]:
    heading = ""
    leaves = leaf_scopes(graph)
    for node, reader in _reading_order(graph).items():
        module = block(reader, leaves)
        if module != heading:
            yield ""
            heading = module
            if module:
                yield f"{module}:"
        yield f"{'  ' if module else ''}{_line(node, notation)}"


def _reading_order(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """All but `get_attr` in the order they run, what does not depend on data put off until a node on data reads it.

    Each node with that reader; those on data with themselves.
    """
    order: dict[fx.Node, fx.Node] = {}
    data, places = from_data(graph), {node: place for place, node in enumerate(graph.nodes)}

    def needed(node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source not in order and source.op != "get_attr"]

    for node in graph.nodes:
        if node in data or (not node.users and node.op != "get_attr"):
            order |= dict.fromkeys(sorted(reached([node], needed), key=places.__getitem__), node)
    return order


def leaf_scopes(graph: fx.Graph) -> set[str]:
    """The scopes of modules that stand for one operation: nothing in them, and no second kind beside quantizers."""
    kinds: dict[str, set[str]] = {}
    inner: set[str] = set()
    for node in graph.nodes:
        scope = node.meta.get("scope")
        if scope and node.op in ("call_function", "call_module"):
            kind = operation_name(node.target) if node.op == "call_function" else "quantize"
            kinds.setdefault(scope, set()).update({kind} - {"quantize", "dequantize"})
            parts = scope.split(".")
            inner.update(".".join(parts[:i]) for i in range(1, len(parts)))
    return {scope for scope, found in kinds.items() if len(found) <= 1} - inner


def block(node: fx.Node, leaves: set[str]) -> str:
    """The module that `node` is read under: its scope, or the one around it where its module is a single call."""
    scope = node.meta.get("scope") or ""
    return scope.rpartition(".")[0] if scope in leaves else scope


def _line(node: fx.Node, notation: Notation) -> str:
    value = notation.value(node)
    region = node.meta.get("region")
    rule = node.meta.get("rule")
    maker = node.meta.get("created_by")
    return "".join(
        [
            f"{node.name} = {_expression(node, notation)}" if node.op != "output" else _expression(node, notation),
            f" : {value}" if value and node.op != "output" else "",
            f"  by {maker}" if maker else "",
            f" ({rule})" if rule else "",
            f"  in {region}" if region else "",
        ]
    )


def _expression(node: fx.Node, notation: Notation) -> str:
    operation = notation.operation(node)
    if node.op == "placeholder":
        return operation
    if node.op == "get_attr":
        return f"{operation} {node.target}"
    if node.op == "output":
        return f"output {literal(node.args[0]).removeprefix('[').removesuffix(']')}"
    if node.target is operator.getitem:
        return f"{literal(node.args[0])}[{literal(node.args[1])}]"
    state = notation.state(node)
    written = ", ".join(_argument(node, name, value) for name, value in arguments(node).items())
    return f"{operation}{f'<{state}>' if state else ''}({written})"


def _argument(node: fx.Node, name: str, value: object) -> str:
    """Values that are computed, and second operands, go without a name; settings are told with theirs."""
    unnamed = isinstance(value, fx.Node) or name in ("other", "tensors") or name.isdigit()
    return literal(value, node.name) if unnamed else f"{name}={literal(value, node.name)}"
