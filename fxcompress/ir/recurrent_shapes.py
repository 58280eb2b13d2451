"""What recurrent layers return on fake tensors, by the shapes alone: torch would unroll them over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _recurrent(x: Tensor, hx: Tensor, params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
    return _output(x, hx, options), torch.empty_like(hx)


def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    if hx[0].shape[-1] != hx[1].shape[-1]:  # with projections, which files have for one number of steps alone
        int(x.shape[1 if options[5] else 0])
    return _output(x, hx[0], options), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _output(x: Tensor, h: Tensor, options: tuple[Any, ...]) -> Tensor:
    """The hidden states of all steps; `options` are has_biases, num_layers, dropout, train, bidirectional, batch_first."""
    return x.new_empty([*x.shape[:2], h.shape[-1] * (2 if options[4] else 1)])


RECURRENT_SHAPES = {
    aten.lstm.input: _lstm,
    **dict.fromkeys((aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent),
}
"""The function that stands for each layer."""
