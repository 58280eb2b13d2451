"""In training batch norms do what the modules that hold their statistics say, as those of the model do: asked in every call.

So `eval()` of a norm freezes it, `update_bn` averages over all batches, and a momentum may be another from now on.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.signature import argument, signature
from fxcompress.ir.training_ops import MASKED_BATCH_NORM, SYNC_BATCH_NORM

_NORMS = (torch.ops.aten.batch_norm.default, MASKED_BATCH_NORM, SYNC_BATCH_NORM)


def with_live_norms(graph: fx.Graph) -> fx.Graph:
    """`graph`, which is in training, for its code: norms that train ask their modules for mode and momentum, in a copy of it.

    One that was told to train, whatever the model says (``meta["frozen"]`` is False), does.
    """
    if not _norms(graph):
        return graph
    live = copy_graph(graph)
    for node in _norms(live):
        mean = argument(node, "running_mean")
        holder = str(mean.target).rpartition(".")[0] if isinstance(mean, fx.Node) and mean.op == "get_attr" else ""
        if not holder or not argument(node, "training"):
            continue
        with live.inserting_before(node):
            module = live.create_node("get_attr", holder)
            momentum = live.call_function(momentum_of, (module, argument(node, "momentum")))
            training = True if node.meta.get("frozen") is False else live.call_function(trains, (module,))
        names = signature(node.target).names  # type: ignore[arg-type]
        node.update_arg(names.index("training"), training)
        node.update_arg(names.index("momentum"), momentum)
    return live


def _norms(graph: fx.Graph) -> list[fx.Node]:
    return [one for norm in _NORMS for one in graph.find_nodes(op="call_function", target=norm)]


def trains(holder: nn.Module) -> bool:
    """Whether the norm that `holder` is in the model takes the statistics of batches."""
    return holder.training


def momentum_of(holder: nn.Module, traced: float) -> float:
    """What a batch counts for in the statistics that `holder` keeps, and one batch more, if it trains.

    Args:
        holder: a batch norm, or what stands in its place and says nothing.
        traced: the momentum at capture; 0 also of a norm that averaged over all batches, which is told there.
    """
    if not (holder.training and getattr(holder, "track_running_stats", True)):
        return 0.0
    count = getattr(holder, "num_batches_tracked", None)
    if count is not None:
        count.add_(1)
    momentum = getattr(holder, "momentum", traced)
    if momentum is None:
        return 1.0 / float(count) if traced and count is not None else 0.0
    return momentum
