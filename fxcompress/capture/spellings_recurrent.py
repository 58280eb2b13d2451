"""Rows of the table of spellings: the cells of recurrent layers, which are linear layers and gates."""

from __future__ import annotations

import torch
from torch import fx

from fxcompress.capture.respelling import Call, size_of, spelling

aten = torch.ops.aten


def _linear(call: Call, x: fx.Node, which: str) -> fx.Node:
    return call.new(aten.linear.default, x, call[f"w_{which}"], call[f"b_{which}"])


def _gates(call: Call, x: fx.Node, count: int) -> list[fx.Node]:
    """The parts of the last dimension of `x`."""
    width = size_of(x)[-1] // count
    return [call.new(aten.slice.Tensor, x, 1, i * width, (i + 1) * width) for i in range(count)]


@spelling(aten.lstm_cell.default)
def _lstm_cell(call: Call) -> fx.Node:
    hidden, memory = call["hx"]
    both = call.new(aten.add.Tensor, _linear(call, call["input"], "ih"), _linear(call, hidden, "hh"))
    i, f, g, o = _gates(call, both, 4)
    i, f, o = (call.new(aten.sigmoid.default, gate) for gate in (i, f, o))
    kept = call.new(aten.mul.Tensor, f, memory)
    cell = call.new(aten.add.Tensor, kept, call.new(aten.mul.Tensor, i, call.new(aten.tanh.default, g)))
    return call.results(call.new(aten.mul.Tensor, o, call.new(aten.tanh.default, cell)), cell)


@spelling(aten.gru_cell.default)
def _gru_cell(call: Call) -> fx.Node:
    reset, update, new = _gates(call, _linear(call, call["input"], "ih"), 3)
    hidden_reset, hidden_update, hidden_new = _gates(call, _linear(call, call["hx"], "hh"), 3)
    reset = call.new(aten.sigmoid.default, call.new(aten.add.Tensor, reset, hidden_reset))
    update = call.new(aten.sigmoid.default, call.new(aten.add.Tensor, update, hidden_update))
    new = call.new(aten.tanh.default, call.new(aten.add.Tensor, new, call.new(aten.mul.Tensor, reset, hidden_new)))
    change = call.new(aten.mul.Tensor, update, call.new(aten.sub.Tensor, call["hx"], new))
    return call.same(aten.add.Tensor, new, change)


@spelling(aten.rnn_tanh_cell.default)
def _rnn_tanh_cell(call: Call) -> fx.Node:
    both = call.new(aten.add.Tensor, _linear(call, call["input"], "ih"), _linear(call, call["hx"], "hh"))
    return call.same(aten.tanh.default, both)


@spelling(aten.rnn_relu_cell.default)
def _rnn_relu_cell(call: Call) -> fx.Node:
    both = call.new(aten.add.Tensor, _linear(call, call["input"], "ih"), _linear(call, call["hx"], "hh"))
    return call.same(aten.relu.default, both)
