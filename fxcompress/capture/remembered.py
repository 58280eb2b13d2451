"""What forward leaves in attributes of its modules, for training, its next call, or whoever looks: a graph leaves nothing.

Auxiliary losses that a loop picks up, counters, running averages and hidden states. Sizes and tables that
are made once and read again are none of these: a call that finds them is the same call. A tensor with a gradient that
outlives the call in another place, as hooks keep features, is told by what made it. What is there to be looked at, with no
gradient, is a note.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.capture.memory import Kept, changed, kept
from fxcompress.capture.training_calls import Recorder, fake_calls, real_calls, same_calls
from fxcompress.capture.training_trace import Modes, in_modes
from fxcompress.data.inputs import ExampleInputs


def remembered(twin: nn.Module, example: ExampleInputs, modes: Modes, notes: list[str]) -> list[str]:
    """What to tell of `twin`, a copy of a model, in training as `modes` say; what does not touch that goes into `notes`."""
    for calls in (fake_calls, real_calls):  # the second where the first does not know what values decide
        try:
            with in_modes(twin, modes), calls(twin, example) as run, torch.enable_grad():
                return _of_runs(twin, run, notes)
        except Exception:  # it does not run in training: a trace tells why
            continue
    return []


def _of_runs(twin: nn.Module, run: Callable[[], Recorder], notes: list[str]) -> list[str]:
    before = kept(twin)
    switched, settled = run().switched, kept(twin)
    told = [f"in training forward sets requires_grad of {', '.join(map(repr, switched))}"] if switched else []
    if changed(before, settled) - _weights(twin):
        told += _of_attributes(twin, run, settled, notes)
    return told if any("leaves tensors" in one for one in told) else told + _outliving(twin, run)


def _of_attributes(twin: nn.Module, run: Callable[[], Recorder], settled: Kept, notes: list[str]) -> list[str]:
    second, between = run(), kept(twin)
    third, after = run(), kept(twin)
    moving = sorted(changed(between, after) - _weights(twin))
    left = [name for name in moving if any(isinstance(one, Tensor) and one.requires_grad for one in _new(between, after, name))]
    told = [f"in training forward leaves tensors in {', '.join(map(repr, left))}, for a loss perhaps"] if left else []
    read = [name for name in moving if _is_read(_new(settled, between, name), third)]
    if not read and not same_calls(second, third):
        read = [name for name in moving if not any(isinstance(one, Tensor) for one in after.get(name, ()))]
    if read:
        told.append(f"in training forward changes {', '.join(map(repr, read))} from call to call, and reads it again")
    unread = [name for name in moving if name not in {*left, *read}]
    counted = [name for name in unread if _plain(between, name) != _plain(after, name)]
    if counted:
        told.append(f"in training forward changes {', '.join(map(repr, counted))} from call to call, which stays as it is")
    looked_at = ", ".join(repr(name) for name in unread if name not in counted)
    if looked_at:
        notes.append(f"forward leaves {looked_at} in the model to be looked at, and the graph leaves nothing")
    return told


def _weights(twin: nn.Module) -> set[str]:
    """The attributes with the weights that hooks of torch compute before each call: `weight_norm`, `spectral_norm`, `prune`."""
    return {
        f"{path}.{getattr(hook, 'name', None) or getattr(hook, '_tensor_name', '')}".removeprefix(".")
        for path, module in twin.named_modules()
        for hook in module._forward_pre_hooks.values()
        if type(hook).__module__.startswith("torch.nn.utils.")
    }


def _outliving(twin: nn.Module, run: Callable[[], Recorder]) -> list[str]:
    """What of a call with a gradient is held when all is let go of that the call returns and notes."""
    made = [(weakref.ref(one), one.grad_fn.name()) for one in run().with_history()]  # type: ignore[union-attr]
    if any(one() is not None for one, _ in made):
        gc.collect()  # or what holds it holds itself
    weights = {id(one) for name in _weights(twin) for one in kept(twin).get(name, ())}
    held = [name for one, name in made if one() is not None and id(one()) not in weights]
    what = re.sub(r"Backward\d*$", "", held[-1]).lower() if held else ""
    return [f"in training forward keeps the result of {what} beyond the call, for a loss perhaps"] if held else []


def _plain(leaves: Kept, name: str) -> list[Any]:
    return [one for one in leaves.get(name, ()) if isinstance(one, (int, float, str))]


def _new(before: Kept, after: Kept, name: str) -> list[Any]:
    old = {id(one) for one in before.get(name, ())}
    return [one for one in after.get(name, ()) if id(one) not in old]


def _is_read(values: list[Any], run: Recorder) -> bool:
    return any(isinstance(one, Tensor) and run.has_read(one) for one in values)
