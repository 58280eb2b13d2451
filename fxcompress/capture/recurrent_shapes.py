"""Recurrent layers are traced for sequences of any length: torch would unroll them over the steps of the example."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from fxcompress.capture.traced_kernels import traced_by

aten = torch.ops.aten


def recurrent_layers_of_any_length() -> AbstractContextManager[None]:
    """In this context, fake tensors pass through recurrent layers by the shapes of the results alone."""
    recurrent = dict.fromkeys((aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent)
    return traced_by({aten.lstm.input: _lstm, **recurrent})


def _recurrent(x: Tensor, hx: Tensor, params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
    return _output(x, hx, options), torch.empty_like(hx)


def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    if hx[0].shape[-1] != hx[1].shape[-1]:  # with projections, which files have for one number of steps alone
        int(x.shape[1 if options[5] else 0])
    return _output(x, hx[0], options), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _output(x: Tensor, h: Tensor, options: tuple[Any, ...]) -> Tensor:
    """The hidden states of all steps; `options` are has_biases, num_layers, dropout, train, bidirectional, batch_first."""
    return x.new_empty([*x.shape[:2], h.shape[-1] * (2 if options[4] else 1)])
