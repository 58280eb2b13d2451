"""Take channels out of a graph: smaller constants, other sizes where sizes are written, shapes computed anew."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from fxcompress.channels.dependencies import Channels
from fxcompress.channels.elements import Ids
from fxcompress.channels.narrowable import Narrowable
from fxcompress.channels.written_sizes import adjust_written_sizes
from fxcompress.errors import VerificationError, describe
from fxcompress.ir.constants import is_constant
from fxcompress.ir.edit import add_attribute, attribute, insert_constant, name_of, value_of
from fxcompress.ir.fake import fake_value
from fxcompress.masks.mask import FilterMask, select_indices


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
                adjust_written_sizes(self.channels, self.kept, node)
        propagate(self.graph)
        self._check()
        return changed

    def _shrink_constants(self, created_by: str) -> list[fx.Node]:
        """Put a smaller constant for each one that loses channels."""
        made = []
        for constant in filter(is_constant, list(self.graph.nodes)):
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
                node.meta["stands_for"] = name_of(node)
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
        value = select_indices(value_of(self.graph_module, constant), gone)
        name, after = f"{name_of(constant)}_pruned", constant.next
        made = insert_constant(self.graph_module, name, value, before=after, created_by=created_by, replaces=constant)
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
