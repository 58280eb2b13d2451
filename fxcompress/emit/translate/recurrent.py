"""Recurrent layers: LSTM, GRU and RNN nodes, a layer each, and written-out steps for an LSTM with projections.

torch orders the gates of a GRU r, z, n and of an LSTM i, f, g, o; ONNX z, r, h and i, o, f, c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten

_GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}


@translation(aten.lstm.input)
def lstm(emit: Emitter, x: ir.Value, hx: Sequence[ir.Value], params: Sequence[ir.Value], *options: Any) -> Any:
    return _layers(emit, "LSTM", x, hx, params, *options)


@translation(aten.gru.input)
def gru(emit: Emitter, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], *options: Any) -> Any:
    return _layers(emit, "GRU", x, [hx], params, *options, linear_before_reset=1)


@translation(aten.rnn_tanh.input)
def rnn_tanh(emit: Emitter, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], *options: Any) -> Any:
    return _layers(emit, "RNN", x, [hx], params, *options)


@translation(aten.rnn_relu.input)
def rnn_relu(emit: Emitter, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], *options: Any) -> Any:
    directions = 2 if options[4] else 1
    return _layers(emit, "RNN", x, [hx], params, *options, activations=["Relu"] * directions)


@translation(aten.lstm.data, aten.gru.data, aten.rnn_tanh.data, aten.rnn_relu.data, aten._pack_padded_sequence.default)
def packed(emit: Emitter, *_: Any) -> Any:
    emit.refuse("packed sequences have no ONNX form: pad them, and mask the outputs instead")


def _layers(
    emit: Emitter,
    kind: str,
    x: ir.Value,
    states: Sequence[ir.Value],
    params: Sequence[ir.Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    **attributes: Any,
) -> tuple[ir.Value, ...]:
    """The output and the last states of a stack of layers."""
    if train and dropout > 0 and num_layers > 1:
        emit.refuse("dropout between recurrent layers is active: call eval() on the model first")
    directions = 2 if bidirectional else 1
    width = len(params) // (num_layers * directions)
    projected = width == (5 if has_biases else 3)
    sequence = emit.transposed(x, [1, 0, 2]) if batch_first else x
    last: list[list[ir.Value]] = [[] for _ in states]
    for layer in range(num_layers):
        first = layer * directions
        weights = [params[(first + d) * width : (first + d + 1) * width] for d in range(directions)]
        given = [_states_of(emit, state, first, first + directions, num_layers * directions) for state in states]
        if projected:
            steps = emit.shape(x)[1 if batch_first else 0]
            sequence, *ends = _projected(emit, sequence, weights, states, first, steps)
        else:
            sequence, *ends = _node(emit, kind, sequence, weights, given, attributes)
        for collected, end in zip(last, ends):
            collected.append(end)
    output = emit.transposed(sequence, [1, 0, 2]) if batch_first else sequence
    return output, *(ends[0] if len(ends) == 1 else emit.Concat(*ends, axis=0) for ends in last)


def _states_of(emit: Emitter, state: ir.Value, start: int, end: int, count: int) -> ir.Value | None:
    """The initial states of one layer; None for zeros, which are what ONNX takes without."""
    producer = state.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type == "Expand" else state
    data = None if source is None else emit.data(source)
    if data is not None and not data.any():
        return None
    return state if count == end - start else emit.Slice(state, [start], [end], [0])


def _node(
    emit: Emitter,
    kind: str,
    x: ir.Value,
    weights: list[Sequence[ir.Value]],
    states: list[ir.Value | None],
    attributes: dict[str, Any],
) -> tuple[ir.Value, ...]:
    """One layer: the hidden states of all steps, directions side by side, and the last states, directions first."""
    w, r = (_stacked(emit, kind, [one[position] for one in weights]) for position in (0, 1))
    bias = None
    if len(weights[0]) > 2:
        halves = [_stacked(emit, kind, [one[position] for one in weights]) for position in (2, 3)]
        bias = _joined(emit, halves, 1)
    (hidden,) = emit.static(weights[0][1], 1)
    outputs = emit.op(
        kind,
        *(x, w, r, bias, None, *states),
        outputs=3 if kind == "LSTM" else 2,
        hidden_size=hidden,
        direction="bidirectional" if len(weights) == 2 else "forward",
        **attributes,
    )
    steps = outputs[0]
    if len(weights) == 1:
        return emit.Squeeze(steps, [1]), *outputs[1:]
    return emit.Reshape(emit.Transpose(steps, perm=[0, 2, 1, 3]), [0, 0, 2 * hidden]), *outputs[1:]


def _stacked(emit: Emitter, kind: str, weights: list[ir.Value]) -> ir.Value:
    """A weight or bias of each direction with its gates in ONNX's order, one direction behind the other."""
    order = _GATES[kind]
    found = [emit.data(weight) for weight in weights]
    known = [data for data in found if data is not None]
    if len(known) == len(weights):

        def make() -> ir.Value:
            gates = [data.unflatten(0, (len(order), -1))[order].flatten(0, 1) for data in known]
            return emit.stored(torch.stack(gates), f"{weights[0].name}_gates")

        return emit.derived(weights[0], ("gates", kind), make)
    parts = []
    for weight in weights:
        gates = emit.Split(weight, outputs=len(order), axis=0, num_outputs=len(order)) if len(order) > 1 else (weight,)
        reordered = emit.Concat(*[gates[gate] for gate in order], axis=0) if len(order) > 1 else weight
        parts.append(emit.Unsqueeze(reordered, [0]))
    return _joined(emit, parts, 0)


def _joined(emit: Emitter, parts: list[ir.Value], axis: int) -> ir.Value:
    """`parts` along `axis`, in the file itself where they are constants."""
    found = [emit.data(part) for part in parts]
    known = [data for data in found if data is not None]
    if len(parts) == 1:
        return parts[0]
    if len(known) == len(parts):
        return emit.derived(
            parts[0], ("joined", id(parts[1])), lambda: emit.stored(torch.cat(known, axis), f"{parts[0].name}s")
        )
    return emit.Concat(*parts, axis=axis)


def _projected(
    emit: Emitter, x: ir.Value, weights: list[Sequence[ir.Value]], states: Sequence[ir.Value], first: int, steps: Any
) -> tuple[ir.Value, ...]:
    """An LSTM layer whose hidden state is projected (arXiv 1402.1128), step by step: ONNX's has no projections."""
    if not isinstance(steps, int):
        emit.refuse("an LSTM with projections needs sequences of one length")
    sequences, lasts, cells = [], [], []
    for direction, (w, r, *rest) in enumerate(weights):
        *biases, projection = rest
        index = emit.constant(torch.tensor(first + direction))
        h, c = (emit.Gather(state, index, axis=0) for state in states)
        inputs = emit.MatMul(x, emit.Transpose(w, perm=[1, 0]))
        for bias in biases:
            inputs = emit.Add(inputs, bias)
        transposed, project = (emit.Transpose(matrix, perm=[1, 0]) for matrix in (r, projection))
        hiddens = []
        for step in range(steps) if direction == 0 else reversed(range(steps)):
            now = emit.Gather(inputs, emit.constant(torch.tensor(step)), axis=0)
            i, f, g, o = emit.Split(emit.Add(now, emit.MatMul(h, transposed)), outputs=4, axis=-1, num_outputs=4)
            c = emit.Add(emit.Mul(emit.Sigmoid(f), c), emit.Mul(emit.Sigmoid(i), emit.Tanh(g)))
            h = emit.MatMul(emit.Mul(emit.Sigmoid(o), emit.Tanh(c)), project)
            hiddens.append(emit.Unsqueeze(h, [0]))
        sequences.append(emit.Concat(*(hiddens if direction == 0 else hiddens[::-1]), axis=0))
        lasts.append(emit.Unsqueeze(h, [0]))
        cells.append(emit.Unsqueeze(c, [0]))
    sequence = sequences[0] if len(sequences) == 1 else emit.Concat(*sequences, axis=-1)
    return sequence, *(parts[0] if len(parts) == 1 else emit.Concat(*parts, axis=0) for parts in (lasts, cells))
