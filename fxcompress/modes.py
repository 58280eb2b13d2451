"""`train()` and `eval()` on a graph: only the literals that tell training from inference change."""

from __future__ import annotations

import torch
from torch import fx

from fxcompress.signature import argument

aten = torch.ops.aten

_TRAINING_ARGUMENT = {
    aten.batch_norm.default: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
    aten.feature_alpha_dropout.default: 2,
}
_CLAMP = aten.clamp.default
_ATTENTION = aten.scaled_dot_product_attention.default


def set_training(graph_module: fx.GraphModule, mode: bool) -> None:
    """Switch every batch norm and dropout of `graph_module` to training or to inference.

    A batch norm without running statistics always uses those of the batch and is left alone. The dropout of an
    attention is switched where capture found its probability (``meta["dropout_p"]``). An operation of which the dialect
    has another with the same values, but not the same gradients, trains as what it was (``meta["trains_as"]``).
    """
    changed = False
    for node in graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is _ATTENTION and "dropout_p" in node.meta:
            changed = True
            set_attention_dropout(node, node.meta["dropout_p"] if mode else 0.0)
        before, after = (_CLAMP, node.meta.get("trains_as")) if mode else (node.meta.get("trains_as"), _CLAMP)
        if node.target is before and after is not None:
            node.target, changed = after, True
        position = _TRAINING_ARGUMENT.get(node.target)
        if position is None or (node.target is aten.batch_norm.default and argument(node, "running_mean") is None):
            continue
        changed |= node.args[position] != mode
        node.update_arg(position, mode)
    if changed:
        graph_module.recompile()


def set_batch_norm_training(graph_module: fx.GraphModule, mode: bool) -> bool:
    """Switch the batch norms with running statistics, and nothing else; whether there are any."""
    found = graph_module.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    switched = [node for node in found if argument(node, "running_mean") is not None]
    for node in switched:
        node.update_arg(_TRAINING_ARGUMENT[aten.batch_norm.default], mode)
    graph_module.recompile()
    return bool(switched)


def set_attention_dropout(node: fx.Node, probability: float) -> None:
    """Write the dropout probability of the attention `node`, which is left out where it is zero."""
    args, kwargs = list(node.args), {key: value for key, value in node.kwargs.items() if key != "dropout_p"}
    if len(args) > 4:
        args[4] = probability
    elif probability:
        kwargs["dropout_p"] = probability
    node.args, node.kwargs = tuple(args), kwargs
