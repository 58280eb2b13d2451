"""Which operations of a graph lose too much in bfloat16, found by a run beside float32 on a few samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxcompress.data.batch import Batch
from fxcompress.errors import InputError
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.precision import FLOAT32, MULTIPLICATIONS, Arithmetic, Precision
from fxcompress.ir.dialect import resolve
from fxcompress.ir.geometry import axes_of
from fxcompress.ir.reach import reached

LEAST_DECIBELS = 30.0
"""How well each value agrees with float32, at least: bfloat16's own rounding is 50 dB below a value."""

_CONVOLUTIONS = frozenset(resolve(f"conv{rank}d") for rank in (1, 2, 3))
_SAMPLES = 2
_TRIALS = 4


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; all that is chosen by the kind of CPU asks here."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def choose_arithmetic(precision: Precision, graph_module: fx.GraphModule, inputs: Sequence[Any]) -> Arithmetic:
    """The arithmetic to run `graph_module` in; ``"auto"``: bfloat16 where this CPU multiplies it natively.

    Convolutions and matrix products behind which a value loses more than `LEAST_DECIBELS` allows, on the first samples of
    `inputs`, and those that cannot run in bfloat16, stay in float32.
    """
    if precision == "float32" or (precision == "auto" and not multiplies_bfloat16()):
        return FLOAT32
    few = Batch.of(graph_module.graph).cut(inputs, 0, _SAMPLES)
    low = {node for node in graph_module.graph.nodes if node.target in MULTIPLICATIONS and not _may_crash(node)}
    for _ in range(_TRIALS):
        lossy = _lossy(graph_module, few, low)
        if not lossy:
            return Arithmetic(low)
        low -= lossy
    return FLOAT32


def _may_crash(node: fx.Node) -> bool:
    """Whether `node` is a convolution that torch 2.13 reads beyond its input for, on CPUs with AMX."""
    return node.target in _CONVOLUTIONS and any(axis.pads_alone for axis in axes_of(node))


def _lossy(graph_module: fx.GraphModule, inputs: Sequence[Any], low: Collection[fx.Node]) -> set[fx.Node]:
    """Those of `low` that cannot run, or behind which a value comes out too different from float32's.

    Such a value is replaced by the exact one, and so are choices (indices, truth values), so that each is blamed for its own.
    """
    exact, rounded = Execution(graph_module, inputs), Execution(graph_module, inputs, Arithmetic(low))
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op not in ("call_function", "call_module"):
            exact.run(node)
            rounded.run(node)
            continue
        wanted = exact.compute(node)
        try:
            given = rounded.compute(node)
        except InputError:  # no kernel of this operation takes bfloat16
            given, agrees = wanted, False
        else:
            agrees = _agree(wanted, given)
        if not agrees:
            found |= {node} if node in low else _sources(node, low)
        exact.run(node, wanted)
        rounded.run(node, given if agrees and _is_float(given) else wanted)
    return found


def _sources(node: fx.Node, low: Collection[fx.Node]) -> set[fx.Node]:
    """The nearest of `low` before `node`."""
    before = reached(node.all_input_nodes, lambda source: () if source in low else source.all_input_nodes)
    return {source for source in before if source in low}


def _is_float(value: Any) -> bool:
    return all(_is_float(item) for item in value) if isinstance(value, (tuple, list)) else _is_float_tensor(value)


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _agree(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, (tuple, list)):
        return all(map(_agree, wanted, given))
    if not _is_float_tensor(wanted):
        return True
    noise, signal = ((x.square().sum().item()) for x in (wanted - given, wanted))
    if not (math.isfinite(noise) and math.isfinite(signal)):  # without what is the same in both, infinities among it
        same = (wanted == given) | (wanted.isnan() & given.isnan())
        noise = (wanted - given)[~same].double().square().sum().item()
        signal = wanted[wanted.isfinite()].double().square().sum().item()
    return noise == 0 or (math.isfinite(noise) and noise <= signal * 10 ** (-LEAST_DECIBELS / 10))
