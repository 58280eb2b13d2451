"""Whether a graph that is said to train as its model does computes in training what the model computes.

Only asked where the model makes other calls in training than in inference. Both get the same random numbers: the middle of
what each operation draws, which keeps or drops the same whichever way a drop is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxcompress.capture import Modes, in_modes, plain_kernels, twin_of, unwritten
from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import agreement
from fxcompress.ir.modes import set_training

aten = torch.ops.aten

_LEAST_DECIBELS = 20.0
"""Half precision and another order of sums leave more; another computation less."""
_BESIDE_THE_MIDDLE = (0.4999, 0.5001)
"""Draws: of two, since something may be dropped half of the time by either side of a half."""


def differs_in_training(
    graph_module: fx.GraphModule, example: ExampleInputs, model: nn.Module, given: ExampleInputs, modes: Modes
) -> str | None:
    """What to tell where the graph on `example` and `model` in `modes` on `given`, the same inputs, do not agree; else None.

    None too where one of them does not run in training: a norm takes no statistics of a single value.
    """
    twin = twin_of(model)
    try:
        set_training(graph_module, True)
        found = _outputs(graph_module, example, _BESIDE_THE_MIDDLE[0])
        with in_modes(twin, modes), plain_kernels():
            wanted = [_outputs(twin, given, draw) for draw in _BESIDE_THE_MIDDLE]
    except Exception:  # of the model's own
        return None
    finally:
        set_training(graph_module, False)
    decibels = max(_agreement(one, found) for one in wanted)
    if decibels >= _LEAST_DECIBELS:
        return None
    return (
        f"its outputs in training agree with the model's to {decibels:.1f} dB only; does its forward in training depend on "
        "torch.compiler.is_compiling(), or on random numbers that are not torch's?"
    )


def _outputs(model: nn.Module, example: ExampleInputs, draw: float) -> list[Any]:
    inputs = example.copy()
    with torch.random.fork_rng(devices=[]), unwritten(model), _Drawn(draw):
        torch.manual_seed(0)
        result = model(*inputs.args, **inputs.kwargs)
    return [one.detach().float() for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]


def _agreement(wanted: list[Tensor], found: list[Tensor]) -> float:
    return agreement(wanted, found) if len(wanted) == len(found) else -torch.inf


class _Drawn(TorchDispatchMode):
    """In this context every uniform number is `draw` of its range, and what has a probability happens where that is larger."""

    def __init__(self, draw: float):
        super().__init__()
        self.draw = draw

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        if name in ("aten::rand", "aten::rand_like"):
            return result.fill_(self.draw)
        if name in ("aten::uniform", "aten::uniform_"):
            low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
            high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
            return result.fill_(low + self.draw * (high - low))
        if name in ("aten::bernoulli", "aten::bernoulli_"):
            chance = args[1] if len(args) > 1 else args[0]
            return result.copy_(torch.as_tensor(chance > self.draw).expand_as(result))
        return result
