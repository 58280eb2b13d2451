"""Take channels out of a graph: smaller constants, other sizes where sizes are written, shapes computed anew."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx

from fxcompress.channels.analysis import Channels, Narrowable
from fxcompress.channels.elements import Ids
from fxcompress.errors import VerificationError, describe
from fxcompress.ir.edit import add_attribute, attribute, insert_constant
from fxcompress.ir.fake import fake_value
from fxcompress.ir.signature import arguments, operation
from fxcompress.masks.mask import FilterMask, select_indices

aten = torch.ops.aten


class Removal:
    """What stays of each axis once the masked channels are gone."""

    def __init__(self, channels: Channels):
        self.channels = channels
        self.graph_module, self.graph = channels.graph_module, channels.graph_module.graph
        held = {channels.elements.find(one) for weight in channels.weights for ids in channels.of(weight) for one in ids or ()}
        self.dead = {one for one in held if channels.elements.is_free(one)}
        for ids in channels.all_axes():
            if all(map(self.is_dead, ids)):
                self.dead.discard(channels.elements.find(ids[0]))  # no axis is left without any channel

    def is_dead(self, one: int) -> bool:
        return self.channels.elements.find(one) in self.dead

    def kept(self, ids: Ids) -> list[int]:
        """The indices of an axis that stay."""
        return [index for index, one in enumerate(ids) if not self.is_dead(one)]

    def kept_of_constants(self) -> dict[str, list[list[int] | None]]:
        """For each constant, by its target, the indices that stay of each axis; None for an axis that loses none."""
        constants = self.graph.find_nodes(op="get_attr")
        return {str(c.target): [ids and self.kept(ids) for ids in self.channels.of(c)] for c in constants}

    def apply(self, created_by: str) -> list[fx.Node]:
        """Take the channels out. Returns the new constants, and the calls of modules that are smaller or gone."""
        changed = self._shrink_constants(created_by) + self._shrink_modules()
        self.graph.eliminate_dead_code()  # the constants as they were
        if self.dead:
            for node in self.graph.nodes:
                written = WRITTEN_SIZES.get(operation(node)) if node.op == "call_function" else None
                if written is not None:
                    written(self, node)
        propagate(self.graph)
        self._check()
        return changed

    def _shrink_constants(self, created_by: str) -> list[fx.Node]:
        """Put a smaller constant for each one that loses channels."""
        made = []
        for constant in self.graph.find_nodes(op="get_attr"):
            gone = self._losses(constant)
            if gone and constant.users:
                made.append(self._smaller(constant, gone, created_by))
                constant.replace_all_uses_with(made[-1])
        return made

    def _shrink_modules(self) -> list[fx.Node]:
        """Put modules for fewer channels (masks, quantizers), and leave out masks of filters that mask nothing then."""
        changed = []
        for node in self.graph.find_nodes(op="call_module"):
            module = self.graph_module.get_submodule(str(node.target))
            if not node.users or not isinstance(module, Narrowable):
                continue
            narrowed = module.narrowed(self._losses(node))
            if isinstance(narrowed, FilterMask) and bool(narrowed.mask.all()):
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            elif narrowed is not module:
                node.target = add_attribute(self.graph_module, str(node.target), narrowed)
            else:
                continue
            changed.append(node)
        return changed

    def _losses(self, node: fx.Node) -> dict[int, Tensor]:
        """The indices that stay of each axis of a tensor that loses some."""
        axes = {axis: ids for axis, ids in enumerate(self.channels.of(node)) if ids and any(map(self.is_dead, ids))}
        return {axis: torch.tensor(self.kept(ids)) for axis, ids in axes.items()}

    def _smaller(self, constant: fx.Node, gone: dict[int, Tensor], created_by: str) -> fx.Node:
        held = attribute(self.graph_module, str(constant.target))
        value = select_indices(held.detach(), gone)
        if isinstance(held, torch.nn.Parameter):
            value = torch.nn.Parameter(value, requires_grad=held.requires_grad)
        name = f"{constant.target}_pruned"
        made = insert_constant(self.graph_module, name, value, before=constant.next, created_by=created_by)
        made.meta |= {key: constant.meta[key] for key in ("scope", "stack_trace") if key in constant.meta}
        self.channels.axes[made] = self.channels.of(constant)
        return made

    def _check(self) -> None:
        """The sizes computed are those that the analysis foretold."""
        for node in self.graph.nodes:
            value = node.meta.get("val")
            axes = self.channels.axes.get(node)
            if isinstance(value, Tensor) and axes:
                for size, ids in zip(value.shape, axes):
                    if ids is not None and isinstance(size, int) and size != len(self.kept(ids)):
                        raise VerificationError(
                            f"{describe(node)} should have {len(self.kept(ids))} channels left and has {size}; "
                            "the channel analysis is wrong there: leave the layers around it out with ignored=[...]"
                        )


# ------------------------------------------------------------------------------------------------------- written sizes

WRITTEN_SIZES: dict[str, Callable[[Removal, fx.Node], None]] = {}
"""How a call is adjusted whose arguments tell numbers of channels, by the name of the operation."""


def written_sizes(names: str):
    def enter(function: Callable[[Removal, fx.Node], None]):
        WRITTEN_SIZES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


@written_sizes("reshape expand")
def _sizes(removal: Removal, node: fx.Node) -> None:
    axes = removal.channels.of(node)
    sizes = [
        size if ids is None or not isinstance(size, int) or size == -1 else len(removal.kept(ids))
        for size, ids in zip(node.args[1], axes)  # type: ignore[arg-type]
    ]
    node.update_arg(1, sizes)


@written_sizes("split split_with_sizes")
def _pieces(removal: Removal, node: fx.Node) -> None:
    x, _, *dim = node.args
    d = dim[0] if dim else 0
    pieces = [axes[d] for axes in removal.channels.axes[node]]  # type: ignore[index]
    if None not in pieces:
        node.target = aten.split_with_sizes.default
        node.args = (x, [len(removal.kept(ids)) for ids in pieces], *dim)


@written_sizes("slice")
def _bounds(removal: Removal, node: fx.Node) -> None:
    given = arguments(node)
    dim, start = given["dim"], given["start"] or 0
    whole, part = removal.channels.of(given["self"])[dim], removal.channels.of(node)[dim]
    if whole is not None and part is not None and any(map(removal.is_dead, whole)):  # pinned, unless the step is 1
        first = len(removal.kept(whole[:start]))
        node.args = (given["self"], dim, first, first + len(removal.kept(part)))


@written_sizes("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d channel_shuffle")
def _groups(removal: Removal, node: fx.Node) -> None:
    ids = removal.channels.groups.get(node)
    if ids is None:
        return
    count = len(removal.kept(ids))
    if operation(node) == "channel_shuffle":
        node.update_arg(1, count)
    elif "groups" in node.kwargs:
        node.update_kwarg("groups", count)
    else:
        node.update_arg([a.name for a in node.target._schema.arguments].index("groups"), count)  # type: ignore[union-attr]


def propagate(graph: fx.Graph, nodes: Collection[fx.Node] | None = None) -> None:
    """Compute ``meta["val"]`` of `nodes`, None for all, anew, from those of the inputs and the constants as they are now."""
    mode = next((v.fake_mode for n in graph.find_nodes(op="placeholder") if hasattr(v := n.meta.get("val"), "fake_mode")), None)
    if mode is None:
        return
    with mode:
        for node in graph.nodes if nodes is None else filter(nodes.__contains__, graph.nodes):
            if node.op == "get_attr":
                held = attribute(graph.owning_module, str(node.target))
                if isinstance(held, Tensor):
                    node.meta["val"] = mode.from_tensor(held, static_shapes=True)
            elif node.op == "call_function":
                node.meta["val"] = fake_value(node.target, node.args, node.kwargs)
            elif node.op == "call_module":
                node.meta["val"] = node.all_input_nodes[0].meta["val"]
