"""Branches on masks and flags, such as ``if (mask == 2).any()``, traced as the example takes them.

Which way such a branch goes is how the model is called: with tokens that attend to everything, or without. What comes of
weights, of inputs in floats or of chance is data, and a branch on it stays one that no graph has.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from fxcompress.capture.twin import unwritten
from fxcompress.data.inputs import ExampleInputs

Decisions = dict[str, list[bool | None]]
"""By the line that asks, its answers one after the other; None where they depend on weights, floats or chance."""

_OTHERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")


@torch.no_grad()
def decisions(model: nn.Module, example: ExampleInputs) -> Decisions:
    """How `model` answers its own questions on `example`; empty where none is of masks and flags alone."""
    given = example.copy()
    held = [*model.parameters(), *model.buffers(), *_tensors((given.args, given.kwargs))]
    with unwritten(model), _Asked([one for one in held if one.is_floating_point() or one.is_complex()]) as asked:
        model(*given.args, **given.kwargs)
    return asked.answers if any(one is not None for line in asked.answers.values() for one in line) else {}


class Decided(TorchFunctionMode):
    """Answers questions as the example did; `told` are notes of which, and how."""

    def __init__(self, answers: Decisions) -> None:
        super().__init__()
        self._left = {line: list(several) for line, several in answers.items()}
        self.told: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        left = self._left.get(_line()) if _asks(func, args) else None
        answer = left.pop(0) if left else None
        if answer is None:
            return func(*args, **(kwargs or {}))
        note = f"a question about masks or flags is answered as the example inputs do, {answer}, whatever comes: {_line()}"
        self.told += [] if note in self.told else [note]
        return answer


class _Asked(TorchFunctionMode):
    """Notes answers, and follows what comes of `floats`, and of chance."""

    def __init__(self, floats: list[Tensor]) -> None:
        super().__init__()
        self.answers: Decisions = defaultdict(list)
        self._of_floats = WeakTensorKeyDictionary(dict.fromkeys(floats))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        of_floats = any(one in self._of_floats for one in _tensors((args, kwargs)))
        of_floats = of_floats or not torch.equal(drawn, torch.get_rng_state())  # which way chance went tells nothing
        if of_floats:
            written = args[:1] if getattr(func, "__name__", "").endswith("_") else ()  # of __setitem__ as well
            self._of_floats.update(dict.fromkeys(_tensors((result, written))))
        if _asks(func, args):
            self.answers[_line()].append(None if of_floats else bool(result))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(values) if isinstance(one, Tensor)]


def _asks(func: Any, args: Any) -> bool:
    return func is Tensor.__bool__ or (func is Tensor.item and args[0].dtype == torch.bool)


def _line() -> str:
    """The innermost line outside torch and this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OTHERS):
        frame = frame.f_back
    path, number = frame.f_code.co_filename, frame.f_lineno
    return f"{path}:{number}: {linecache.getline(path, number).strip()}"
