"""Whether a model makes the same calls in training as in inference, but for the flag that tells the modes apart.

Two runs on fake tensors say it, in a tenth of the time that a second trace takes.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxcompress.capture.tracing import plain_kernels
from fxcompress.data.inputs import ExampleInputs

_Call = tuple[Callable[..., Any], list[Any], bool]
"""A function, its arguments that are no tensors, and whether it is told that it trains; a layer that knows no modes is."""


def trains_alike(inference: list[_Call] | None, training: list[_Call] | None) -> bool:
    """Whether `training` is known to be `inference` with every layer told that it trains."""
    if inference is None or training is None or len(inference) != len(training):
        return False
    return all(f == g and trains and _same(a, b) for (f, a, _), (g, b, trains) in zip(inference, training))


def calls_of(model: nn.Module, example: ExampleInputs) -> list[_Call] | None:
    """The calls of torch's functions that `model` makes, in its present mode; None where a run cannot tell."""
    python, numpy = random.getstate(), _numpy_state()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad(), plain_kernels():
            state = {name: fake.from_tensor(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
            counters = {id(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")}
            args, kwargs = pytree.tree_map_only(Tensor, fake.from_tensor, (example.args, example.kwargs))
            with _Recorder(counters) as recorder:
                result = torch.func.functional_call(model, state, args, kwargs)
    except Exception:  # a trace will tell why
        return None
    if not recorder.readable or random.getstate() != python or _numpy_state() != numpy:
        return None
    leaves, form = pytree.tree_flatten(result)
    return [*recorder.calls, (calls_of, [str(form), len(leaves)], True)]


class _Recorder(TorchFunctionMode):
    def __init__(self, counters: Collection[int]) -> None:
        super().__init__()
        self.counters, self.readable = counters, True
        self.calls: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (func is Tensor.add_ and id(args[0]) in self.counters):  # batch norms count what nobody reads
            self.calls.append(self._call(func, args, kwargs))
        return func(*args, **kwargs)

    def _call(self, func: Any, args: Any, kwargs: Any) -> _Call:
        flag = _flag(func)
        if flag is None:
            self.readable &= func not in _MODES_BY_POSITION
            return func, _literals((args, kwargs)), True
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        if func is F.multi_head_attention_forward and given.arguments["dropout_p"]:
            self.readable = False  # it calls dropout in training only
        trains = bool(given.arguments.pop(flag))
        return func, _literals(dict(given.arguments)), trains


_MODES_BY_POSITION = {
    *(torch.batch_norm, torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.rrelu, torch.native_dropout),
    *(torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu),
}


@cache
def _flag(func: Any) -> str | None:
    """The parameter of a Python function that says whether it trains."""
    if not inspect.isfunction(func):
        return None
    return next((name for name in ("training", "use_input_stats") if name in inspect.signature(func).parameters), None)


def _literals(value: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(value) if not isinstance(leaf, Tensor)]


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(a is b or (type(a) is type(b) and bool(a == b)) for a, b in zip(left, right))


def _numpy_state() -> tuple[bytes, int]:
    _, keys, position, *_ = np.random.get_state()
    return np.asarray(keys).tobytes(), int(position)
