"""What a compiled model holds in the end: what its graph reads, under the names of the user's model.

Passes put new tensors in the place of others, under other names, and leave the old ones: the graphs of earlier steps read
them. Of those the shape alone is kept, for drawing, but for what the user's model holds and what the float model reads that
quantizers were put into, which lies in a file. When all passes have run, what the last graph does not read is taken out and
kept aside, and what stands for a tensor of the user's model takes its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses import FakeTensor

from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.edit import attribute, held_like, keep, owner_of
from fxcompress.storage.aside import put_aside


@dataclass(frozen=True)
class Earlier:
    """What the graphs of earlier steps read.

    Attributes:
        gone: what the compiled model has no more, by its name in these graphs.
        renamed: the name in the compiled model of what has another one there.
    """

    gone: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def step(self, compiled: nn.Module, graph: fx.Graph) -> fx.GraphModule:
        """The graph of an earlier step, on what `compiled` holds now where it still holds it."""
        device = next((one.device for one in compiled.parameters()), None)
        return fx.GraphModule({target: self._held(compiled, target, device) for target in targets(graph)}, graph)

    def _held(self, compiled: nn.Module, target: str, device: torch.device | None) -> Any:
        if target in self.gone:
            value = self.gone[target]
            return value if is_let_go(value) else value.to(device)
        return attribute(compiled, self.renamed.get(target, target))


def is_let_go(value: Any) -> bool:
    """Whether of a tensor that an earlier step reads the shape alone is left."""
    return isinstance(value, torch.Tensor) and value.is_meta


def recorded(graph: fx.Graph) -> fx.Graph:
    """A copy of `graph` for the record: its nodes know the shapes of tensors, and hold none."""
    graph = copy_graph(graph)
    for node in graph.nodes:
        if isinstance(value := node.meta.get("val"), torch.Tensor) and not isinstance(value, FakeTensor):
            node.meta["val"] = value.to("meta")
    return graph


def let_go(graph_module: fx.GraphModule, captured: Collection[str], kept: Collection[str]) -> bool:
    """Keep the shape alone of the tensors that passes made and put others in the place of.

    Returns whether there were any.

    Args:
        captured: the names of the tensors at capture.
        kept: those of tensors of which more than the shape is kept, aside, where the graph does not read them.
    """
    made = _unknown(graph_module, {*captured, *targets(graph_module.graph)})
    put_aside(tensor for name, tensor in made.items() if name in kept)
    left = {name: tensor for name, tensor in made.items() if name not in kept and not tensor.is_meta}
    for name, tensor in left.items():
        _remove(graph_module, name)
        keep(graph_module, name, _shape_of(tensor))
    return bool(left)


def tensors(graph_module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """The parameters and buffers that `graph_module` holds, by name."""
    return {**dict(graph_module.named_parameters()), **dict(graph_module.named_buffers())}


def _unknown(graph_module: fx.GraphModule, known: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors that none of the `known` names is of, but for what modules of their own kind hold."""
    held = {name: tensor for name, tensor in tensors(graph_module).items() if name not in known}
    return {name: tensor for name, tensor in held.items() if _is_plain(graph_module, owner_of(graph_module, name))}


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    return held_like(tensor, tensor.detach().to("meta"))


def targets(graph: fx.Graph) -> dict[str, None]:
    """The names of the tensors and modules that `graph` reads, in its order."""
    return {str(node.target): None for node in graph.nodes if node.op in ("get_attr", "call_module")}


def settle(
    graph_module: fx.GraphModule, steps: Iterable[fx.Graph], captured: Iterable[str], kept: Collection[str] = ()
) -> Earlier:
    """Leave in `graph_module` what its graph reads, and what no step reads: what the user's model holds beside.

    Its code is that of before, since a module of another class takes its graph.

    Args:
        steps: the graphs of the earlier steps.
        captured: the names of the tensors at capture.
        kept: those of tensors of which more than the shape is kept: steps that read others can be drawn, and not run.
    """
    present, ever = targets(graph_module.graph), {target for graph in steps for target in targets(graph)}
    gone = {target: attribute(graph_module, target) for target in ever if target not in present}
    others = _other_names(graph_module, gone, present)
    gone |= {name: _shape_of(one) for name, one in gone.items() if isinstance(one, torch.Tensor) and name not in kept}
    for name in {*gone, *others, *_left_by_passes(graph_module, {*ever, *present, *captured})}:
        _remove(graph_module, name)
    renamed = _rename(graph_module)
    for other, name in others.items():
        if name in renamed.values():
            keep(graph_module, other, attribute(graph_module, name))
    for path in sorted({name.rpartition(".")[0] for name in gone}, key=len, reverse=True):
        _remove_what_is_read_no_more(graph_module, path)
    return Earlier(gone, renamed)


def _other_names(graph_module: fx.GraphModule, gone: Mapping[str, Any], present: Collection[str]) -> dict[str, str]:
    """Names that the user's model has beside those in `gone` for the same tensors, which nothing reads: each with that one."""
    known = {id(one): name for name, one in gone.items()}
    held = (*graph_module.named_parameters(remove_duplicate=False), *graph_module.named_buffers(remove_duplicate=False))
    found = {name: known[id(one)] for name, one in held if id(one) in known and name not in {*gone, *present}}
    return {name: one for name, one in found.items() if _is_plain(graph_module, owner_of(graph_module, name))}


def _left_by_passes(graph_module: fx.GraphModule, known: set[str]) -> list[str]:
    """The tensors and modules that a pass made and put another in the place of.

    A module that no graph calls is one where it is of a kind that graphs call: a pass may keep others for training.
    """
    kinds = {type(graph_module.get_submodule(name)) for name in known if _is_module(graph_module, name)}
    modules = [name for name, module in graph_module.named_modules() if name not in known and type(module) in kinds]
    modules = [name for name in modules if _is_plain(graph_module, owner_of(graph_module, name))]
    return [*_unknown(graph_module, known), *modules]


def _is_module(graph_module: fx.GraphModule, name: str) -> bool:
    return isinstance(attribute(graph_module, name), nn.Module)


def _is_plain(graph_module: fx.GraphModule, owner: nn.Module) -> bool:
    """Whether a module only holds what the graph reads: those that passes insert have state of their own."""
    return owner is graph_module or type(owner) is nn.Module


def _remove(graph_module: fx.GraphModule, name: str) -> None:
    delattr(owner_of(graph_module, name), name.rpartition(".")[2])


def _rename(graph_module: fx.GraphModule) -> dict[str, str]:
    """Give what stands for something that is gone its name; returns the new names by the old ones."""
    present, renamed = targets(graph_module.graph), dict[str, str]()
    for node in graph_module.graph.nodes:
        name, target = node.meta.get("stands_for"), str(node.target)
        if node.op in ("get_attr", "call_module") and name not in (None, target) and name not in present:
            renamed.setdefault(target, name)
            present[name] = None
    for target, name in renamed.items():
        value = attribute(graph_module, target)
        _remove(graph_module, target)
        keep(graph_module, name, value)
    for node in graph_module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            node.target = renamed.get(str(node.target), node.target)
    return renamed


def _remove_what_is_read_no_more(graph_module: fx.GraphModule, path: str) -> None:
    """Take out the module `path`, and those it is in, where the graph reads nothing of it any more."""
    while path and not any(target.startswith(f"{path}.") for target in targets(graph_module.graph)):
        if path not in dict(graph_module.named_modules()):
            return
        owner, leaf = owner_of(graph_module, path), path.rpartition(".")[2]
        if leaf not in owner._modules or any(type(one) is not nn.Module for one in owner._modules[leaf].modules()):  # type: ignore[union-attr]
            return
        del owner._modules[leaf]
        path = path.rpartition(".")[0]
