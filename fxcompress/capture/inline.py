"""Regions that torch.export sets apart (`no_grad`, `autocast`), put back into the graph around them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxcompress.capture.gradients import stop_after
from fxcompress.errors import CaptureError

_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def inline_regions(module: fx.GraphModule) -> None:
    """Inline every `no_grad` and every disabled `autocast` region of `module`; what the former compute is detached.

    Raises:
        CaptureError: a region of an exported program has autocast on, which a graph of plain operations cannot say.
    """
    regions = [n for n in module.graph.nodes if n.op == "call_function" and n.target in (_GRAD, _AUTOCAST)]
    for node in regions:
        skipped = 1 if node.target is _GRAD else 4
        if node.target is _AUTOCAST and node.args[2]:
            raise CaptureError("the program has autocast in it; give the model, whose graph is without, or export it without")
        body = module.get_submodule(node.args[skipped].target)
        inline_regions(body)
        _inline(node, body, node.args[skipped + 1 :], stops=stops_gradients(node))


def stops_gradients(node: fx.Node) -> bool:
    """Whether `node` is a `no_grad` region."""
    return node.op == "call_function" and node.target is _GRAD and not node.args[0]


def _inline(node: fx.Node, body: fx.GraphModule, inputs: Any, stops: bool) -> None:
    values = dict(zip(body.graph.find_nodes(op="placeholder"), inputs))
    with node.graph.inserting_before(node):
        outputs = node.graph.graph_copy(body.graph, values)
    if stops:
        outputs = fx.map_arg(outputs, lambda value: stop_after(value, node))
    for reader in list(node.users):
        if reader.target is operator.getitem:
            reader.replace_all_uses_with(outputs[reader.args[1]], propagate_meta=False)
            node.graph.erase_node(reader)
    if node.users:
        node.replace_all_uses_with(outputs)
    node.graph.erase_node(node)
