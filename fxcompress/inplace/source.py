"""What is compiled of a model that is compressed in place: its forward, since what stands around that stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fxcompress.capture import forward_alone, is_surrounded
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError
from fxcompress.parts import SubmoduleData


def source_of(
    model: nn.Module, example: ExampleInputs, data: Iterable[Any] | None
) -> tuple[nn.Module, ExampleInputs, Iterable[Any] | None]:
    """What to compile in the place of `model`, and what its forward is given where `model` is given `example` and `data`.

    Hooks on the model and on its parts, and a `__call__` of their own, are not in it: they run around the compressed forward.

    Raises:
        InputError: a call of `model` does not call its forward.
    """
    if not any(map(is_surrounded, model.modules())):
        return model, example, data
    alone = forward_alone(model)
    if not is_surrounded(model):
        return alone, example, data
    given = next(iter(SubmoduleData(model, "", [example], example)), None)
    if given is None:
        raise InputError(f"a call of {type(model).__name__} does not call its forward, which is what is compressed")
    return alone, given, None if data is None else SubmoduleData(model, "", data, example)
