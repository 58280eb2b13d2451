"""The state of modules: what they say of one that is about to be loaded into them, and two that share one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class ChecksState(Protocol):
    """A module that knows which values its state can have."""

    def problem_with(self, state: Mapping[str, Tensor]) -> str | None:
        """What is wrong with `state`, its own by name; None where it can be loaded."""


def outside(state: Mapping[str, Tensor], name: str, low: float, high: float, *, whole: bool = False) -> str | None:
    """What is wrong with the tensor `name`, whose values are from `low` to `high`; None where nothing is."""
    value = state.get(name)
    if value is None:
        return None
    within = bool(((value >= low) & (value <= high)).all()) and bool(torch.isfinite(value).all())
    if within and (not whole or not value.is_floating_point() or bool((value == value.round()).all())):
        return None
    return f"{name} has values that are not {'whole numbers ' if whole else ''}from {low:g} to {high:g}"


def widen_scalars(module: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Let what `state`, of an earlier version, holds without dimensions have the one that parameters of `module` have."""
    for name, parameter in module._parameters.items():
        held = state.get(prefix + name)
        if parameter is not None and parameter.shape == (1,) and isinstance(held, Tensor) and held.dim() == 0:
            state[prefix + name] = held.reshape(1)


def same_attributes(module: nn.Module, **others: Any) -> nn.Module:
    """Another instance of the class of `module` that holds what it holds, but for `others`.

    copy.copy asks for its pickle, which some refuse; and what `torch.compile` returns sets its attributes on the module inside.
    """
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__ | others)
    return twin


def share_state(source: nn.Module, sink: nn.Module) -> None:
    """Give `sink` all of `source`'s state, also what its graph does not read (such as num_batches_tracked)."""
    sink._parameters, sink._buffers, sink._modules = source._parameters, source._buffers, source._modules
    sink._non_persistent_buffers_set = source._non_persistent_buffers_set
