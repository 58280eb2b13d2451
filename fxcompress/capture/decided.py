"""Branches on masks and flags, such as ``if (mask == 2).any()``, traced as the example takes them.

Which way such a branch goes is how the model is called, with tokens that attend to everything or without, or how it was set up,
in a buffer. What comes of weights, of inputs in floats, of tokens or of chance is data, and a branch on it stays one that no
graph has.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from fxcompress.capture.lines import calling_line
from fxcompress.capture.twin import unwritten
from fxcompress.data.inputs import ExampleInputs

Decisions = dict[str, list[bool | None]]
"""By the line that asks, its answers one after the other; None where they depend on data."""

_KINDS = 3
"""A mask has no more values than these, as a global attention's 0, 1 and 2; what has more, such as tokens, is data."""


@torch.no_grad()
def decisions(model: nn.Module, example: ExampleInputs) -> Decisions:
    """How `model` answers its own questions on `example`; empty where none is of masks and flags alone."""
    given = example.copy()
    data = [one for one in _tensors((given.args, given.kwargs)) if not _may_be_mask(one)]
    with unwritten(model), _Asked([*model.parameters(), *data]) as asked:
        model(*given.args, **given.kwargs)
    return asked.answers if any(one is not None for line in asked.answers.values() for one in line) else {}


class Decided(TorchFunctionMode):
    """Answers questions as the example did; `told` are notes of which, and how."""

    def __init__(self, answers: Decisions) -> None:
        super().__init__()
        self._left = {line: list(several) for line, several in answers.items()}
        self.told: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        left = self._left.get(calling_line()) if asks(func, args) else None
        answer = left.pop(0) if left else None
        if answer is None:
            return func(*args, **(kwargs or {}))
        note = (
            f"a question about masks or flags is answered as the example inputs do, {answer}, whatever comes: {calling_line()}"
        )
        self.told += [] if note in self.told else [note]
        return answer


class _Asked(TorchFunctionMode):
    """Notes answers, and follows what comes of `data`, and of chance."""

    def __init__(self, data: list[Tensor]) -> None:
        super().__init__()
        self.answers: Decisions = defaultdict(list)
        self._of_data = WeakTensorKeyDictionary(dict.fromkeys(data))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        of_data = any(one in self._of_data for one in _tensors((args, kwargs)))
        of_data = of_data or not torch.equal(drawn, torch.get_rng_state())  # which way chance went tells nothing
        if of_data:
            written = args[:1] if getattr(func, "__name__", "").endswith("_") else ()  # of __setitem__ as well
            self._of_data.update(dict.fromkeys(_tensors((result, written))))
        if asks(func, args):
            self.answers[calling_line()].append(None if of_data else bool(result))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(values) if isinstance(one, Tensor)]


def _may_be_mask(given: Tensor) -> bool:
    return not (given.is_floating_point() or given.is_complex()) and len(given.unique()) <= _KINDS


def asks(func: Any, args: Any) -> bool:
    """Whether a call asks a tensor for a truth."""
    return func is Tensor.__bool__ or (func is Tensor.item and args[0].dtype == torch.bool)
