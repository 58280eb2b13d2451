"""A graph without some of its inputs: what needs them goes too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, shown
from fxcompress.ir.dialect import copy_graph, resolve

_SIZE = resolve("sym_size.int")


def leave_out(graph_module: fx.GraphModule, example: ExampleInputs, names: Sequence[str]) -> tuple[fx.Graph, ExampleInputs]:
    """The graph of `graph_module` and `example` without the parameters `names` of forward; outputs that need them are None.

    Both are copies. Where only the size of such an input is needed, and another input has the same, that one's is read.

    Raises:
        InputError: forward has no such parameter, or every output needs them; says which there are.
    """
    parameters = _parameters(graph_module.graph)
    unknown = [name for name in names if not isinstance(name, str) or name not in parameters]
    if unknown or not names:
        wrong = f"there is no input {', '.join(map(shown, unknown))}" if unknown else "name the inputs to leave out"
        raise InputError(f"{wrong}; the inputs are {', '.join(parameters)}")
    left = fx.GraphModule(graph_module, copy_graph(graph_module.graph)).graph
    nodes = iter(left.find_nodes(op="placeholder"))
    by_name = {name: [next(nodes) for _ in range(count)] for name, count in parameters.items()}
    going = [node for name in names for node in by_name[name]]
    _read_sizes_elsewhere(going, [node for name in parameters if name not in names for node in by_name[name]])
    gone = [*going, *_readers(left, going)]
    output = left.output_node()
    output.args = pytree.tree_map(lambda leaf: None if leaf in gone else leaf, output.args)
    if not any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(output.args)):
        raise InputError(f"every output needs {', '.join(names)}, so that nothing would be left")
    for node in reversed(gone):
        left.erase_node(node)
    _set_parameters(left, names)
    left.eliminate_dead_code()
    return left, _without(example, list(parameters), names)


def loss_inputs(graph_module: fx.GraphModule, example: ExampleInputs) -> list[str]:
    """The parameters of forward that nothing but losses need: outputs that are one number, beside others that are not."""
    before, found = _outputs(graph_module.graph), []
    for name in _parameters(graph_module.graph):
        try:
            after = _outputs(leave_out(graph_module, example, [name])[0])
        except InputError:  # every output needs it
            continue
        lost = [one for one, left in zip(before, after, strict=True) if isinstance(one, torch.Tensor) and left is None]
        if lost and all(one.dim() == 0 for one in lost):
            found.append(name)
    return found


def _outputs(graph: fx.Graph) -> list[Any]:
    """What stands for each output."""
    leaves = pytree.tree_leaves(graph.output_node().args)
    return [leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf for leaf in leaves]


def _parameters(graph: fx.Graph) -> dict[str, int]:
    """The parameters of forward, and how many placeholders each stands for."""
    info = graph._codegen.pytree_info  # type: ignore[attr-defined]
    positional, named = info.in_spec.children()
    specs = [*positional.children(), *named.children()]
    names = [name for name in info.orig_args if name != "self"]
    return {name: spec.num_leaves for name, spec in zip(names, specs, strict=True)}


def _set_parameters(graph: fx.Graph, gone: Sequence[str]) -> None:
    info = graph._codegen.pytree_info  # type: ignore[attr-defined]
    stand_ins = pytree.tree_unflatten(list(range(info.in_spec.num_leaves)), info.in_spec)
    left = _without(ExampleInputs(*stand_ins), list(_parameters(graph)), gone)
    kept = [name for name in info.orig_args if name not in gone]
    graph._codegen.pytree_info = info._replace(  # type: ignore[attr-defined]
        orig_args=kept, in_spec=pytree.tree_structure((left.args, left.kwargs))
    )


def _without(call: ExampleInputs, parameters: Sequence[str], gone: Iterable[str]) -> ExampleInputs:
    count = len(call.args)
    args = [value for name, value in zip(parameters, call.args) if name not in gone]
    named = zip(parameters[count:], call.kwargs.items(), strict=True)
    return ExampleInputs(tuple(args), {key: value for name, (key, value) in named if name not in gone})


def _readers(graph: fx.Graph, sources: Sequence[fx.Node]) -> list[fx.Node]:
    """The nodes that need `sources`, in order, but for the output."""
    needing = dict.fromkeys(sources)
    for node in graph.nodes:
        if node.op != "output" and any(source in needing for source in node.all_input_nodes):
            needing[node] = None
    return list(needing)[len(sources) :]


def _read_sizes_elsewhere(going: Sequence[fx.Node], staying: Sequence[fx.Node]) -> None:
    """Let what reads a free size of `going` read it off an input that stays, where one has that size."""
    held: dict[Any, tuple[fx.Node, int]] = {}
    for node in staying:
        value = node.meta.get("val")
        for dimension, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt):
                held.setdefault(str(size), (node, dimension))
    for node in going:
        for reader in [user for user in node.users if user.target is _SIZE]:
            source = held.get(str(reader.meta["val"]))
            if source:
                reader.args = source
