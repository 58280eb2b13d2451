"""What can be compiled, and what to give instead of what cannot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from fxcompress.errors import InputError


def check_model(model: Any) -> None:
    """Raise InputError, with what to do instead, unless `model` can be compiled."""
    problem = _problem(model)
    if problem:
        raise InputError(f"cannot compile {problem}")


def _problem(model: Any) -> str | None:
    if isinstance(model, type):
        return f"the class {model.__name__}; give a model of it: {model.__name__}(...)"
    if isinstance(model, (str, os.PathLike)):
        return f"{os.fspath(model)!r}, a path; load the model first, as torch.export.load(path) does for a file of torch.export"
    if isinstance(model, Mapping):
        return "a state_dict, which holds weights and no computation; load it into its model: model.load_state_dict(...)"
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "a TorchScript model; give the torch.nn.Module that it was made of"
    if isinstance(model, ExportedProgram):
        return None
    if not isinstance(model, nn.Module):
        if callable(model):
            return "a function; make it the forward of a torch.nn.Module"
        return f"a {type(model).__name__}; give a torch.nn.Module, a torch.fx.GraphModule or a torch.export.ExportedProgram"
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            return f"a lazy module: {name!r} has no shape yet; run the model once on example inputs, model(*inputs)"
        if tensor.device.type == "meta":
            return f"a model without weights: {name!r} is on the meta device; load them first, after model.to_empty(...)"
    return None
