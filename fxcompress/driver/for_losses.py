"""The inputs of a model that it needs for losses alone, found by what it returns without them.

They have to be gone before it is traced: how a loss is computed, by checks of labels and matchings of boxes, often cannot be.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.capture import plain_kernels, twin_of, unwritten
from fxcompress.data.inputs import ExampleInputs


def without_loss_inputs(model: nn.Module, example: ExampleInputs) -> ExampleInputs:
    """`example` without optional inputs such that `model` returns the same without them, but for losses: single numbers."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    twin = twin_of(model)
    if (returned := _returned(twin, example)) is None:
        return example
    for position, parameter in enumerate(parameters):
        left = _without(example, position, parameter.name) if parameter.default is None else None
        if left is None or (found := _returned(twin, left)) is None:
            continue
        if _are_losses(_gone(returned, found)) and any(one.dim() for one in found):
            example, returned = left, found
    return example


def _without(example: ExampleInputs, position: int, name: str) -> ExampleInputs | None:
    """`example` without the parameter `name`; None where it has nothing for it."""
    if example.kwargs.get(name) is not None:
        return ExampleInputs(example.args, {key: value for key, value in example.kwargs.items() if key != name})
    if position < len(example.args) and example.args[position] is not None:
        return ExampleInputs((*example.args[:position], None, *example.args[position + 1 :]), example.kwargs)
    return None


@torch.no_grad()
def _returned(twin: nn.Module, example: ExampleInputs) -> list[Tensor] | None:
    """The tensors that `twin` returns; None where it does not run."""
    given = example.copy()
    try:
        with torch.random.fork_rng(devices=[]), plain_kernels(), unwritten(twin):
            torch.manual_seed(0)
            outputs = twin(*given.args, **given.kwargs)
    except Exception:  # of the model's own, which asks for the input
        return None
    return [one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor)]


def _gone(before: list[Tensor], after: list[Tensor]) -> list[Tensor] | None:
    """What `before` holds beside `after`, in the order of both; None where `after` holds anything else."""
    gone, left = [], list(after)
    for one in before:
        if left and _same(one, left[0]):
            left.pop(0)
        else:
            gone.append(one)
    return None if left else gone


def _same(one: Tensor, other: Tensor) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


def _are_losses(gone: list[Tensor] | None) -> bool:
    return bool(gone) and all(one.dim() == 0 for one in gone or ())
