"""Checkpoints: what a run needs to go on, beside the optimizer, as plain data that is looked through before it is loaded."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fxcompress.data.inputs import describe_value
from fxcompress.errors import CheckpointError
from fxcompress.training.scheduler import Scheduler

FORMAT = 1
"""The version of what `take_checkpoint` returns; a change of its keys or their meaning is a new one."""

_SHOWN = 5


def take_checkpoint(model: nn.Module, scheduler: Scheduler, passes: Iterable[object]) -> dict[str, Any]:
    """A checkpoint of `model`, which was compiled with `passes`: dicts, lists, strings, numbers and tensors.

    Keys: ``format``, `FORMAT`; ``passes``; ``model``, a copy of its state; ``scheduler``, its state.
    """
    state = copy.deepcopy(dict(model.state_dict()))
    return {"format": FORMAT, "passes": texts(passes), "model": state, "scheduler": scheduler.state_dict()}


def load_checkpoint(model: nn.Module, scheduler: Scheduler, passes: Iterable[object], checkpoint: Mapping[str, Any]) -> None:
    """Put `checkpoint` into `model` and `scheduler`, or raise and leave both as they are.

    Raises:
        CheckpointError: it is no checkpoint, of another format, other passes or another model; says what differs.
    """
    _check_form(checkpoint)
    _check_passes(checkpoint["passes"], texts(passes))
    _check_state(checkpoint["model"], model.state_dict())
    before = take_checkpoint(model, scheduler, passes)
    try:
        _put(model, scheduler, checkpoint)
    except Exception as problem:
        _put(model, scheduler, before)
        raise CheckpointError(f"the checkpoint cannot be loaded: {problem!r}; was it changed after it was taken?") from problem


def _put(model: nn.Module, scheduler: Scheduler, checkpoint: Mapping[str, Any]) -> None:
    scheduler.load_state_dict(checkpoint["scheduler"])  # first: what it sets in the model, the model's own state replaces
    model.load_state_dict(checkpoint["model"])


def texts(passes: Iterable[object]) -> list[str]:
    """`passes` as they print, but for the addresses of objects in their options, which are other ones in each process."""
    return [re.sub(r" at 0x[0-9a-f]+", "", str(one)) for one in passes]


def _check_form(checkpoint: Any) -> None:
    given = checkpoint if isinstance(checkpoint, Mapping) else {}
    kinds = {"format": int, "passes": list, "model": Mapping, "scheduler": Mapping}
    missing = [key for key, kind in kinds.items() if not isinstance(given.get(key), kind)]
    if missing:
        raise CheckpointError(
            f"this is no checkpoint: it lacks {', '.join(map(repr, missing))}; give what compiled.checkpoint() returned "
            "(a state_dict of weights alone goes into compiled.load_state_dict)"
        )
    if checkpoint["format"] != FORMAT:
        raise CheckpointError(
            f"the checkpoint has format {checkpoint['format']!r}, this version of fxcompress reads format {FORMAT}; "
            "load it with the version that wrote it"
        )


def _check_passes(saved: Sequence[str], passes: Sequence[str]) -> None:
    if list(saved) != list(passes):
        _, _, _, *lines = difflib.unified_diff(list(saved), list(passes), n=len(saved), lineterm="")
        raise CheckpointError(
            "the checkpoint was saved with other passes; compile the model with the passes that it was saved with "
            "(- in the checkpoint, + in this model):\n" + "\n".join(f"{line[0]} {line[1:]}" for line in lines)
        )


def _check_state(saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that the names of the tensors, and each one's shape and dtype, are those of `state`."""
    differences = []
    for what, names in (("it lacks", state.keys() - saved.keys()), ("only it has", saved.keys() - state.keys())):
        if names:
            differences.append(f"{what} {_listed(sorted(names))}")
    unlike = [name for name in state if name in saved and _form(saved[name]) != _form(state[name])]
    if unlike:
        told = [f"{name} is {describe_value(saved[name])}, here {describe_value(state[name])}" for name in unlike]
        differences.append(_listed(told))
    if differences:
        raise CheckpointError(
            f"the checkpoint is of another model: {'; '.join(differences)}. "
            "Compile the model that it was saved from, for the same target"
        )


def _form(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
