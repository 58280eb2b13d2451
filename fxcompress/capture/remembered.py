"""What forward leaves in attributes of its modules that training, or its next call, would read: a graph leaves nothing.

Auxiliary losses that a loop picks up, counters that scale a layer, running averages and hidden states. Sizes and tables that
are made once and read again are none of these: a call that finds them is the same call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.capture.memory import Kept, changed, kept
from fxcompress.capture.training_calls import Recorder, fake_calls, same_calls
from fxcompress.capture.training_trace import Modes, in_modes
from fxcompress.data.inputs import ExampleInputs


def remembered(twin: nn.Module, example: ExampleInputs, modes: Modes) -> list[str]:
    """What to tell of `twin`, a copy of a model, in training as `modes` say."""
    try:
        with in_modes(twin, modes), fake_calls(twin, example) as run, torch.enable_grad():
            before = kept(twin)
            run()
            settled = kept(twin)
            if changed(before, settled) == set():
                return []
            second, between = run(), kept(twin)
            third, after = run(), kept(twin)
    except Exception:  # it does not run on tensors without values; a trace tells why
        return []
    moving = sorted(changed(between, after))
    left = [name for name in moving if any(isinstance(one, Tensor) and one.requires_grad for one in _new(between, after, name))]
    told = [f"in training forward leaves tensors in {', '.join(map(repr, left))}, for a loss perhaps"] if left else []
    read = [name for name in moving if _is_read(_new(settled, between, name), third)]
    if not read and not same_calls(second, third):
        read = [name for name in moving if not any(isinstance(one, Tensor) for one in after.get(name, ()))]
    if read:
        told.append(f"in training forward changes {', '.join(map(repr, read))} from call to call, and reads it again")
    return told


def _new(before: Kept, after: Kept, name: str) -> list[Any]:
    old = {id(one) for one in before.get(name, ())}
    return [one for one in after.get(name, ()) if id(one) not in old]


def _is_read(values: list[Any], run: Recorder) -> bool:
    return any(isinstance(one, Tensor) and run.has_read(one) for one in values)
