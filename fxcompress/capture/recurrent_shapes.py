"""Recurrent layers are traced for sequences of any length: torch would unroll them over the steps of the example."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

aten = torch.ops.aten

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextlib.contextmanager
def recurrent_layers_of_any_length() -> Iterator[None]:
    """In this context, fake tensors pass through recurrent layers by the shapes of the results alone."""
    kernels: dict[Any, Callable[..., Any]] = {
        aten.lstm.input: _lstm,
        aten.gru.input: _recurrent,
        aten.rnn_tanh.input: _recurrent,
        aten.rnn_relu.input: _recurrent,
    }
    saved = {operator: dict(operator.py_kernels) for operator in kernels}
    for operator, kernel in kernels.items():
        operator.py_kernels.update(dict.fromkeys(_KEYS, kernel))
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, before in saved.items():
            operator.py_kernels.clear()
            operator.py_kernels.update(before)
            operator._dispatch_cache.clear()


def _recurrent(x: Tensor, hx: Tensor, params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
    return _output(x, hx, options), torch.empty_like(hx)


def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _output(x, hx[0], options), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _output(x: Tensor, h: Tensor, options: tuple[Any, ...]) -> Tensor:
    """The hidden states of all steps; `options` are has_biases, num_layers, dropout, train, bidirectional, batch_first."""
    return x.new_empty([*x.shape[:2], h.shape[-1] * (2 if options[4] else 1)])
