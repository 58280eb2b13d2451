"""What a compiled model still shares with the user's when all passes have run becomes its own.

Until then the two share memory: passes read the user's weights, and put new tensors in the place of those that they change.
From then on either can be trained, loaded or moved, and the other stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxcompress.errors import VerificationError
from fxcompress.storage.aside import is_aside


@contextmanager
def of_one_moment(model: nn.Module | ExportedProgram) -> Iterator[None]:
    """Tell of a broken promise where the weights of `model`, which compiling reads all along, were changed meanwhile.

    Raises:
        VerificationError: with what to do about that, since it need not be the pass that is named.
    """
    tensors = [one for one in model.parameters() if not one.is_inference()] if isinstance(model, nn.Module) else []
    before = [one._version for one in tensors]
    try:
        yield
    except VerificationError as problem:
        if before == [one._version for one in tensors]:
            raise
        raise VerificationError(
            f"{problem}. The weights of the model were changed while it was compiled: if not by that pass, but by a thread "
            "that trains the model, compile a copy of it, copy.deepcopy(model)"
        ) from problem


def own(held: nn.Module, beside: dict[str, Any], model: nn.Module | ExportedProgram) -> None:
    """Give `held`, and `beside`, copies of all that lies in the memory of `model`; tensors that are one stay one.

    And `held` of what was put aside: its storages could not be resized, which those who shard them do.
    """
    taken = {_memory(tensor) for tensor in _tensors_of(model)}
    done: dict[int, Tensor] = {}
    for registry in (beside, *(r for owner in held.modules() for r in (owner._parameters, owner._buffers))):
        for name, tensor in registry.items():
            if not isinstance(tensor, Tensor):
                continue
            if _memory(tensor) in taken or (registry is not beside and is_aside(tensor)):
                if id(tensor) not in done:
                    done[id(tensor)] = _copy(tensor)
                registry[name] = done[id(tensor)]


def _copy(tensor: Tensor) -> Tensor:
    new = tensor.detach().clone()
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _tensors_of(model: nn.Module | ExportedProgram) -> Iterator[Tensor]:
    if isinstance(model, nn.Module):
        yield from (*model.parameters(), *model.buffers())
    else:
        yield from (one for one in (*model.state_dict.values(), *model.constants.values()) if isinstance(one, Tensor))


def _memory(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)
