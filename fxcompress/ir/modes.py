"""Training and inference: the literals of a graph that tell them apart, and twins of a model in one of the modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from fxcompress.errors import TrainingWarning, warn_user
from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.signature import argument, arguments, signature
from fxcompress.ir.state import same_attributes

MODE_ARGUMENTS = ("training", "train", "use_input_stats")
"""What operations call the argument that tells training from inference: norms, dropouts, recurrent layers, rrelu."""
_BATCH_NORM = torch.ops.aten.batch_norm.default
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def set_training(graph_module: fx.GraphModule, mode: bool) -> None:
    """Switch what differs in training and inference, such as batch norms and dropouts, and nothing else.

    A norm without running statistics always uses those of the batch and is left alone. The dropout of an attention is
    switched where capture found its probability (``meta["dropout_p"]``). What training computes by another operation with the
    same arguments trains as that (``meta["trains_as"]``): a clamp with other gradients on its bounds, a batch norm over all
    processes. What the model itself leaves in inference mode stays there (``meta["frozen"]``).
    """
    if _switch(graph_module.graph, mode):
        graph_module.recompile()


def training_twin(graph: fx.Graph, rewrite: Callable[[fx.Graph], bool] = lambda graph: False) -> fx.Graph | None:
    """A copy of `graph`, which is in inference mode, as it is in training; None where training makes no difference.

    Args:
        rewrite: what else is computed otherwise in training; changes a graph, and tells whether there was something to change.
    """
    twin = copy_graph(graph)
    switched = _switch(twin, True)
    return twin if rewrite(twin) or switched else None


def inference_twin(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy in inference mode, modules and all, that shares the tensors with `graph_module`, which is left as it is.

    A module with a method ``settle`` decides first what it is outside training.
    """
    settle(graph_module)
    twin = fx.GraphModule(_in_inference(graph_module), copy_graph(graph_module.graph))
    twin.meta = dict(graph_module.meta)
    set_training(twin, False)
    return twin


def settle(model: nn.Module) -> None:
    """Let the modules of `model` in training that have a method ``settle`` decide what they are outside it."""
    for module in model.modules():
        if module.training and hasattr(module, "settle"):
            module.settle()


def _in_inference(module: nn.Module) -> nn.Module:
    held = vars(module)
    copied = {kind: copy.copy(held[kind]) for kind in ("_parameters", "_buffers", "_non_persistent_buffers_set")}
    children = {name: child and _in_inference(child) for name, child in held["_modules"].items()}
    base = nn.Module() if isinstance(module, fx.GraphModule) else module
    return same_attributes(base, **copied, _modules=children, training=False)


def _switch(graph: fx.Graph, mode: bool) -> bool:
    changed = False
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        if node.target is _ATTENTION and "dropout_p" in node.meta:
            changed = True
            set_attention_dropout(node, node.meta["dropout_p"] if mode else 0.0)
        changed |= _switch_target(node, mode)
        name = mode_argument(node)
        if name and argument(node, name) != (mode and not node.meta.get("frozen")):
            changed = True
            _set_argument(node, name, not argument(node, name))
    return changed


def mode_argument(node: fx.Node) -> str | None:
    """The argument of the call `node` that tells training from inference; None where nothing does."""
    declared = arguments(node)
    name = next((one for one in MODE_ARGUMENTS if one in declared), None)
    return name if declared.get("running_mean", "kept elsewhere") is not None else None


def _switch_target(node: fx.Node, mode: bool) -> bool:
    training = node.meta.get("trains_as")
    if training is None or (node.target is training) == mode:
        return False
    if mode:
        node.meta["infers_as"] = node.target
    node.target = training if mode else node.meta["infers_as"]
    return True


def warn_of_training(graph_module: fx.GraphModule) -> None:
    """Warn of what the model does in training that the graph captured from it does not, if there is any."""
    lost = graph_module.meta.get("lost_in_training")
    if lost:
        warn_user(
            f"the compiled model does not train as the model does: {'; '.join(lost)}. To train it so, take that out of the "
            "model or into the training loop, or compile the parts without it: submodules=[...]",
            TrainingWarning,
        )


def batch_norms(graph: fx.Graph) -> list[fx.Node]:
    """The batch norms with running statistics."""
    found = graph.find_nodes(op="call_function", target=_BATCH_NORM)
    return [node for node in found if argument(node, "running_mean") is not None]


def statistics(norm: fx.Node) -> list[str]:
    """The buffers of the running mean and the running variance of a norm that `batch_norms` found."""
    return [str(argument(norm, name).target) for name in ("running_mean", "running_var")]


def running_variances(graph: fx.Graph) -> list[str]:
    """The buffers that norms of `graph` read as their running variances, which are never below zero."""
    calls = (node for node in graph.nodes if node.op == "call_function" and isinstance(node.target, OpOverload))
    read = (arguments(node).get("running_var") for node in calls)
    return list(dict.fromkeys(str(one.target) for one in read if isinstance(one, fx.Node) and one.op == "get_attr"))


def set_batch_norm_training(graph_module: fx.GraphModule) -> bool:
    """Let the batch norms with running statistics train that do in training, and nothing else; whether there are any."""
    switched = [node for node in batch_norms(graph_module.graph) if not node.meta.get("frozen")]
    for node in switched:
        _switch_target(node, True)
        _set_argument(node, "training", True)
    graph_module.recompile()
    return bool(switched)


def _set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Write `value` where `node` gives the argument `name`; one that is not among its positions is left out as a default."""
    declared = signature(node.target)  # type: ignore[arg-type]
    position = declared.names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
        return
    kwargs = {key: given for key, given in node.kwargs.items() if key != name}
    node.kwargs = kwargs if value == declared.defaults[position] else {**kwargs, name: value}


def set_attention_dropout(node: fx.Node, probability: float) -> None:
    """Write the dropout probability of the attention `node`, which is left out where it is zero."""
    args, kwargs = list(node.args), {key: value for key, value in node.kwargs.items() if key != "dropout_p"}
    if len(args) > 4:
        args[4] = probability
    elif probability:
        kwargs["dropout_p"] = probability
    node.args, node.kwargs = tuple(args), kwargs
