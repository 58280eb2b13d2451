"""The calls that a model makes outside of some of its parts, by their call paths (`fxcompress.ir.calls`)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fxcompress.capture.recording import forwards_replaced
from fxcompress.capture.twin import switch, twin_of, unwritten
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.place import call_paths

_READ = "__get__"
"""What an attribute of a tensor, such as its shape, is read by: no call of a model's."""


def calls_outside(model: nn.Module, example: ExampleInputs, parts: Collection[str]) -> dict[str, set[str]]:
    """What each module of `model` calls that runs on `example` outside of `parts`, paths of modules: all by their call paths.

    It runs in inference and in training, where it may make other calls; where it does not run, those up to there are known.
    """
    twin, names = twin_of(model), call_paths(model)
    found: dict[str, set[str]] = {}
    for training in (False, True):
        switch(twin, training)
        calls = _Calls(names, parts, found)
        inputs = example.copy()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), unwritten(twin), calls.watching(twin), calls:
                twin(*inputs.args, **inputs.kwargs)
        except Exception:  # of the model's own: in training it may need targets
            pass
    return found


class _Calls(TorchFunctionMode):
    """Collects the functions of torch that are called while no module of `parts` runs."""

    def __init__(self, names: Mapping[str, str], parts: Collection[str], found: dict[str, set[str]]):
        super().__init__()
        self.names, self.parts, self.found = names, parts, found
        self.running: list[str] = []
        self.counts: Counter[str] = Counter()

    def watching(self, model: nn.Module) -> Any:
        return forwards_replaced(dict(model.named_modules()), self._entered)

    def _entered(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def entered(*args: Any, **kwargs: Any) -> Any:
            self.running.append(path)
            if self._is_outside():
                self.found.setdefault(self.names[path], set())
            try:
                return forward(*args, **kwargs)
            finally:
                self.running.pop()

        return entered

    def _is_outside(self) -> bool:
        return not any(path in self.parts for path in self.running)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name and name != _READ and self.running and self._is_outside():
            module = self.names[self.running[-1]]
            written = f"{module}/{name}"
            self.found[module].add(f"{written}_{self.counts[written]}")
            self.counts[written] += 1
        return func(*args, **(kwargs or {}))
