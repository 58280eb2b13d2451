"""Writes that autograd does not see, to values that have gradients: those pass by them, and in a graph they do not.

What `no_grad` or ``.data`` hides is a write to a value as far as numbers go. Gradients go on to what the value was computed
from, as if nothing had been written; a graph has the written value in its place, whose gradient is that of the write.
"""

from __future__ import annotations

from torch import fx
from torch.export import ExportedProgram

from fxcompress.capture.functionalize import METADATA_ONLY, is_in_place, storage_roots
from fxcompress.capture.gradients import DETACHED
from fxcompress.capture.inline import stops_gradients
from fxcompress.errors import describe


def unseen_writes(program: ExportedProgram) -> list[str]:
    """What to tell of the writes of `program`; those to parameters are told elsewhere."""
    learned = _computed_from_parameters(program)
    roots = storage_roots(program.graph)
    found: list[fx.Node] = []
    for node in program.graph.nodes:
        if stops_gradients(node):
            found += [write for write, value in _writes_within(program.graph_module, node) if value in learned]
        elif _writes(node) and roots[node] in learned and _is_detached(node.args[0], roots):
            found.append(node)
    return [f"the gradient passes by {describe(node)}, which autograd does not see" for node in found]


def _writes(node: fx.Node) -> bool:
    return is_in_place(node) and node.target._schema.name.partition("::")[2] not in METADATA_ONLY  # type: ignore[union-attr]


def _writes_within(module: fx.GraphModule, region: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """The writes of a `no_grad` region to what it is given, and the values that these are."""
    body = module.get_submodule(region.args[1].target)  # type: ignore[union-attr, arg-type]
    roots = storage_roots(body.graph)
    given = dict(zip(body.graph.find_nodes(op="placeholder"), region.args[2:]))
    return [(node, given[roots[node]]) for node in body.graph.nodes if _writes(node) and roots[node] in given]  # type: ignore[misc]


def _computed_from_parameters(program: ExportedProgram) -> set[fx.Node]:
    """The values that are computed from learned parameters, and are none."""
    names = program.graph_signature.inputs_to_parameters
    learned = {name for name, parameter in program.named_parameters() if parameter.requires_grad}
    parameters = {n for n in program.graph.find_nodes(op="placeholder") if names.get(n.name) in learned}
    found = set(parameters)
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target not in DETACHED and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found - parameters


def _is_detached(value: fx.Node, roots: dict[fx.Node, fx.Node]) -> bool:
    """Whether `value` is another name of its root behind a `detach`."""
    while value is not roots[value]:
        if value.target in DETACHED:
            return True
        value = value.args[0]  # type: ignore[assignment]
    return False
