"""What forward leaves in attributes of its modules that training, or its next call, would read: a graph leaves nothing.

Auxiliary losses that a loop picks up, counters that scale a layer, running averages and hidden states. Sizes and tables that
are made once and read again are none of these: a call that finds them is the same call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.capture.memory import attributes
from fxcompress.capture.training_calls import Recorder, fake_calls, same_calls
from fxcompress.capture.training_trace import Modes, in_modes
from fxcompress.data.inputs import ExampleInputs

_Held = dict[str, list[Any]]
"""The leaves of each attribute, by its module's path and its name."""


def remembered(twin: nn.Module, example: ExampleInputs, modes: Modes) -> list[str]:
    """What to tell of `twin`, a copy of a model, in training as `modes` say."""
    try:
        with in_modes(twin, modes), fake_calls(twin, example) as run, torch.enable_grad():
            before = _held(twin)
            run()
            settled = _held(twin)
            if _changed(before, settled) == set():
                return []
            second, between = run(), _held(twin)
            third, after = run(), _held(twin)
    except Exception:  # it does not run on tensors without values; a trace tells why
        return []
    moving = sorted(_changed(between, after))
    left = [name for name in moving if any(isinstance(one, Tensor) and one.requires_grad for one in _new(between, after, name))]
    told = [f"in training forward leaves tensors in {', '.join(map(repr, left))}, for a loss perhaps"] if left else []
    read = [name for name in moving if _is_read(_new(settled, between, name), third)]
    if not read and not same_calls(second, third):
        read = [name for name in moving if not any(isinstance(one, Tensor) for one in after.get(name, ()))]
    if read:
        told.append(f"in training forward changes {', '.join(map(repr, read))} from call to call, and reads it again")
    return told


def _held(model: nn.Module) -> _Held:
    return {
        f"{path}.{name}".lstrip("."): pytree.tree_leaves(value)
        for path, module in model.named_modules()
        for name, value in attributes(module).items()
        if name != "training"
    }


def _changed(before: _Held, after: _Held) -> set[str]:
    return {name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))}


def _same(left: list[Any] | None, right: list[Any] | None) -> bool:
    if left is None or right is None or len(left) != len(right):
        return False
    return all(a is b or (type(a) is type(b) and isinstance(a, (int, float, str)) and a == b) for a, b in zip(left, right))


def _new(before: _Held, after: _Held, name: str) -> list[Any]:
    old = {id(one) for one in before.get(name, ())}
    return [one for one in after.get(name, ()) if id(one) not in old]


def _is_read(values: list[Any], run: Recorder) -> bool:
    return any(isinstance(one, Tensor) and run.has_read(one) for one in values)
