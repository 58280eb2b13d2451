"""Small edits of a graph: what it holds by name, and calls and constants put between a value and its readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.fake import without_memory
from fxcompress.ir.reach import reached

Module = TypeVar("Module", bound=torch.nn.Module)


def origin_of(node: fx.Node) -> dict[str, Any]:
    """The metadata that say where in the user's model `node` comes from."""
    return {key: node.meta[key] for key in ("scope", "stack_trace", "region", "call") if key in node.meta}


def attribute(graph_module: torch.nn.Module, target: str) -> Any:
    """What the `get_attr` `target` (a dotted path) names in `graph_module`."""
    return getattr(owner_of(graph_module, target), target.rpartition(".")[2])


@torch.no_grad()
def value_of(graph_module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The value of `node`, a constant or what is computed from constants alone, detached."""
    known: dict[fx.Node, Any] = {}
    waiting = [node]
    while waiting:
        one = waiting[-1]
        missing = [source for source in one.all_input_nodes if source not in known]
        waiting += missing
        if not missing:
            args, kwargs = fx.map_arg((one.args, one.kwargs), known.__getitem__)  # type: ignore[misc]
            known[waiting.pop()] = _called(graph_module, one)(*args, **kwargs)
    return known[node].detach()  # type: ignore[no-any-return]


def _called(graph_module: fx.GraphModule, node: fx.Node) -> Callable[..., Any]:
    """What gives the value of `node`, called with those that it reads."""
    if node.op == "get_attr":
        return lambda: gathered(attribute(graph_module, str(node.target)))
    return graph_module.get_submodule(node.target) if isinstance(node.target, str) else node.target


def gathered(held: Any) -> Any:
    """`held` whole: where each process has a share of a tensor (FSDP2), all have to ask for it."""
    return held.full_tensor() if hasattr(held, "full_tensor") else held


def owner_of(graph_module: torch.nn.Module, target: str) -> torch.nn.Module:
    """The module that holds what `target` names."""
    return graph_module.get_submodule(target.rpartition(".")[0])


def called(graph_module: fx.GraphModule, node: fx.Node, kind: type[Module]) -> Module | None:
    """The module of `kind` that `node` calls; None where it is something else."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, kind) else None


def without_modules(graph_module: fx.GraphModule) -> fx.GraphModule:
    """`graph_module` without the modules that passes inserted, each of whose inputs is read in its place; a copy."""
    if not graph_module.graph.find_nodes(op="call_module"):
        return graph_module
    graph = copy_graph(graph_module.graph)
    for node in graph.find_nodes(op="call_module"):
        node.replace_all_uses_with(node.args[0], propagate_meta=False)
        graph.erase_node(node)
    twin = fx.GraphModule(graph_module, graph)
    twin.meta = dict(graph_module.meta)
    return twin


def insert_call(value: fx.Node, readers: Iterable[fx.Node], target: str | OpOverload, *, name: str, created_by: str) -> fx.Node:
    """Let `readers` read a call of the module or function `target` on `value`, which is of the same shape.

    It stands behind `value`, and behind the inputs and constants that follow one another there.
    """
    after = value
    while after.op in ("placeholder", "get_attr") and after.next.op in ("placeholder", "get_attr"):
        after = after.next
    with value.graph.inserting_after(after):
        op = "call_module" if isinstance(target, str) else "call_function"
        node = value.graph.create_node(op, target, (value,), name=name)
    node.meta = {key: value.meta[key] for key in ("val", "scope", "stack_trace") if key in value.meta}
    node.meta["created_by"] = created_by
    for reader in readers:
        reader.replace_input_with(value, node)
    return node


def insert_constant(
    graph_module: fx.GraphModule,
    name: str,
    value: torch.Tensor,
    *,
    before: fx.Node,
    created_by: str,
    replaces: fx.Node | None = None,
) -> fx.Node:
    """A `get_attr` of `value`, kept as `name` (see `add_attribute`), before the node that it is for.

    Args:
        replaces: the constant in whose place it is put: it is a parameter if that is one, frozen if that is, and has its
            name, if that is one of a tensor, once the passes have run.
    """
    if replaces is not None:
        value = held_like(_held(graph_module, replaces), value)
    target = add_attribute(graph_module, name, value)
    with before.graph.inserting_before(before):
        node = before.graph.create_node("get_attr", target, name=target.replace(".", "_"))
    node.meta = origin_of(before) | {"val": without_memory(before.graph, value), "created_by": created_by}
    if replaces is not None and (replaces.op == "get_attr" or is_of_a_pass(replaces)):
        node.meta["stands_for"] = name_of(replaces)
    return node


def is_of_a_pass(constant: fx.Node) -> bool:
    """Whether a pass has put `constant` in the place of another, so that its tensor is nobody's but the graph's."""
    return "stands_for" in constant.meta


def name_of(constant: fx.Node) -> str:
    """The name in the user's model of `constant`, or of what passes have put it in the place of."""
    return str(constant.meta.get("stands_for", constant.target if isinstance(constant.target, str) else constant.name))


def tensor_of(graph_module: fx.GraphModule, constant: fx.Node) -> torch.Tensor:
    """The very tensor that `constant` names, or what it is computed as, a parameter where it is computed from one."""
    held = _held(graph_module, constant)
    return held if constant.op == "get_attr" else held_like(held, value_of(graph_module, constant))


def is_trained(graph_module: fx.GraphModule, constant: fx.Node) -> bool:
    """Whether training changes `constant`, or anything that it is computed from."""
    return _held(graph_module, constant).requires_grad


def _held(graph_module: fx.GraphModule, constant: fx.Node) -> torch.Tensor:
    """What is behind `constant`: the tensor, or of those that it is computed from one that is trained, if any is."""
    behind = (one for one in reached([constant], lambda one: one.all_input_nodes) if one.op == "get_attr")
    held = [attribute(graph_module, str(one.target)) for one in behind]
    return max(held, key=lambda one: (one.requires_grad, isinstance(one, torch.nn.Parameter)))


def held_like(old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` as a parameter if `old` is one, frozen if that is; else as it is."""
    return (
        torch.nn.Parameter(value.detach(), requires_grad=old.requires_grad)
        if isinstance(old, torch.nn.Parameter)
        else value.detach()
    )


def insert_function(
    target: OpOverload, *args: Any, name: str, value: torch.Tensor, before: fx.Node, created_by: str
) -> fx.Node:
    """A call of `target`, which gives such a `value`, before the node that it is for."""
    with before.graph.inserting_before(before):
        node = before.graph.create_node("call_function", target, args, name=name)
    node.meta = origin_of(before) | {"val": value, "created_by": created_by}
    return node


def add_attribute(graph_module: fx.GraphModule, name: str, value: torch.Tensor | torch.nn.Module) -> str:
    """Keep `value` in `graph_module` as `name`, with a number where that is taken; returns the target for `get_attr`.

    A parameter becomes a parameter, a module a submodule, any other tensor a buffer. Dots in `name` make modules.
    """
    owner_path, _, leaf = name.rpartition(".")
    owner: torch.nn.Module = graph_module
    for part in filter(None, owner_path.split(".")):
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    unique, count = leaf, 0
    while hasattr(owner, unique):
        count += 1
        unique = f"{leaf}_{count}"
    target = f"{owner_path}.{unique}" if owner_path else unique
    keep(graph_module, target, value)
    return target


def keep(graph_module: torch.nn.Module, target: str, value: torch.Tensor | torch.nn.Module) -> None:
    """Keep `value` under a name that is not taken: a parameter as a parameter, any other tensor as a buffer."""
    owner, leaf = owner_of(graph_module, target), target.rpartition(".")[2]
    if isinstance(value, torch.nn.Module):
        owner.add_module(leaf, value)
    elif isinstance(value, torch.nn.Parameter):
        owner.register_parameter(leaf, value)
    else:
        owner.register_buffer(leaf, value)
