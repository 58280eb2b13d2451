"""The inputs of a model that it needs for losses alone, found by what it returns without them.

They have to be gone before it is traced: how a loss is computed, by checks of labels and matchings of boxes, often cannot be.
Decoders that read their labels as well, shifted by one, are given that instead, as the models themselves make it.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.capture import plain_kernels, twin_of, unwritten
from fxcompress.capture.recording import recording
from fxcompress.data.inputs import ExampleInputs

_DECODED = "decoder_input_ids"


def without_loss_inputs(model: nn.Module, example: ExampleInputs) -> ExampleInputs:
    """`example` without optional inputs such that `model` returns the same without them, but for losses: single numbers."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    twin = twin_of(model)
    if (returned := _returned(twin, example)) is None:
        return example
    for position, parameter in enumerate(parameters):
        left = _without(example, position, parameter.name) if parameter.default is None else None
        for other in (left, left and _read_instead(twin, example, left, parameter.name)):
            if other is None or (found := _returned(twin, other)) is None:
                continue
            if _are_losses(_gone(returned, found)) and any(one.dim() for one in found):
                example, returned = other, found
                break
    return example


def _read_instead(twin: nn.Module, example: ExampleInputs, left: ExampleInputs, name: str) -> ExampleInputs | None:
    """`left`, which is `example` without `name`, with what `twin` makes of that for a decoder; None where it makes nothing.

    It is what its parts are given under names of its own parameters that `example` leaves out, or what collators of Hugging
    Face's models for sequences ask them for.
    """
    prepare = getattr(twin, f"prepare_{_DECODED}_from_{name}", None)
    open_ones = [one for one in inspect.signature(twin.forward).parameters if one != name and left.kwargs.get(one) is None]
    given = example.copy()
    with recording(dict(twin.named_children())) as calls:
        _returned(twin, given)
    said = {key: value for inner in calls.values() for key, value in inner[0].kwargs.items() if value is not None}
    made = {key: said[key] for key in open_ones[len(left.args) :] if key in said}
    if prepare is not None and _DECODED in open_ones and name in example.kwargs:
        made.setdefault(_DECODED, prepare(example.kwargs[name]))
    return ExampleInputs(left.args, {**left.kwargs, **made}) if made else None


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
