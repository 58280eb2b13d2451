"""The dropout probability of attention, which a trace in inference mode writes as zero."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.modes import set_attention_dropout
from fxcompress.ir.signature import argument

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def record_attention_dropout(graph: fx.Graph, model: nn.Module | None, example: ExampleInputs, notes: list[str]) -> None:
    """Set ``meta["dropout_p"]`` on each attention of `graph` that drops probabilities in training, and the literal to 0.

    The probabilities come from a run of `model` in training mode on fake tensors, without computing anything.
    """
    attentions = graph.find_nodes(op="call_function", target=_ATTENTION)
    for node in attentions:
        probability = argument(node, "dropout_p")
        if probability:
            node.meta["dropout_p"] = probability
            set_attention_dropout(node, 0.0)
    if model is None or not attentions or not _may_drop(model):
        return
    try:
        probabilities = _probabilities_in_training(model, example)
    except Exception as error:
        notes.append(f"the dropout of attention was not found, since the model does not run in training mode: {error}")
        return
    if len(probabilities) != len(attentions):
        notes.append("the dropout of attention was not found: the model calls it differently in training mode")
        return
    for node, probability in zip(attentions, probabilities):
        if probability:
            node.meta["dropout_p"] = probability


def _may_drop(model: nn.Module) -> bool:
    """Whether some module has a dropout probability above zero."""
    return any(
        isinstance(value, float) and value > 0 and ("drop" in name or isinstance(module, nn.Dropout))
        for module in model.modules()
        for name, value in vars(module).items()
    )


def _probabilities_in_training(model: nn.Module, example: ExampleInputs) -> list[float]:
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, _Recorder() as recorder, torch.no_grad():
            state = {name: fake.from_tensor(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
            args, kwargs = pytree.tree_map_only(Tensor, fake.from_tensor, (example.args, example.kwargs))
            torch.func.functional_call(model, state, args, kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return recorder.probabilities


class _Recorder(TorchFunctionMode):
    """Notes the dropout probability of every scaled dot product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.probabilities: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.probabilities.append(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
        elif func is F.multi_head_attention_forward:  # what it calls inside does not pass by here
            call = inspect.signature(func).bind(*args, **kwargs)
            call.apply_defaults()
            if not call.arguments["need_weights"]:
                self.probabilities.append(call.arguments["dropout_p"] if call.arguments["training"] else 0.0)
        return func(*args, **kwargs)
