"""Norms whose statistics are not those that training and inference tell apart by."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.nn.modules.batchnorm import _BatchNorm

from fxcompress.errors import source_line
from fxcompress.ir.modes import mode_argument
from fxcompress.ir.signature import arguments, signature


def keep_statistics(graph: fx.Graph, *, in_inference: bool) -> list[str]:
    """Let norms take the statistics in inference that the model takes; a note for each whose running statistics do not run.

    Args:
        in_inference: `graph` is that of a model in inference mode: what takes the batch's statistics there always does, and
            is a norm without running ones.
    """
    notes = []
    for node in graph.nodes:
        given = arguments(node) if node.op == "call_function" and isinstance(node.target, OpOverload) else {}
        if given.get("running_mean") is None:
            continue
        if in_inference and given.get(mode_argument(node) or ""):
            _take_statistics_of_input(node)
            notes.append(f"a norm takes the statistics of its input in inference too, and keeps none: {source_line(node)}")
    frozen = [node for node in _batch_norms(graph) if node.meta.get("frozen")]
    if frozen:
        told = f"{len(frozen)} batch norms stay in inference mode in training, as in the model: {source_line(frozen[0])} ..."
        notes.append(told)
    return notes


def averages_of_all_batches(graph: fx.Graph, model: nn.Module | None) -> list[str]:
    """A note for each batch norm that averages over all batches in training, which the graph has no number of.

    Args:
        model: that `graph` is of; None where only the graph is known, which says the same of norms that average nothing.
    """
    given = [] if model is None else [one.momentum for one in model.modules() if isinstance(one, _BatchNorm)]
    if model is not None and None not in given:
        return []
    norms = [node for node in _batch_norms(graph) if arguments(node)["momentum"] == 0 and not node.meta.get("frozen")]
    return [f"a batch norm has momentum=None, and keeps its statistics in training: {source_line(node)}" for node in norms]


def _batch_norms(graph: fx.Graph) -> list[fx.Node]:
    """Those with running statistics."""
    found = graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    return [node for node in found if arguments(node).get("running_mean") is not None]


def _take_statistics_of_input(node: fx.Node) -> None:
    names = signature(node.target).names  # type: ignore[arg-type]
    for name in ("running_mean", "running_var"):
        node.update_arg(names.index(name), None)
