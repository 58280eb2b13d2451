"""Which parts of a model return in training what they return in inference, so that a graph of inference can train."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxcompress.capture import switch, twin_of, unwritten
from fxcompress.data.inputs import ExampleInputs


def parts_that_train_alike(model: nn.Module, example: ExampleInputs) -> list[str]:
    """The outermost submodules of `model` that do, by path; empty where the whole does, or does not run in training.

    Auxiliary heads are what other modules have: they return more in training, and are called as the model's own code says.
    """
    twin = twin_of(model)
    try:
        inference, training = (_returned(twin, example, training=mode) for mode in (False, True))
    except Exception:  # of the model's own: it does not run on the example, or not in training
        return []
    if inference.get("") == training.get(""):
        return []

    def below(path: str, module: nn.Module) -> list[str]:
        found: list[str] = []
        for name, child in module.named_children():
            inside = f"{path}.{name}".lstrip(".")
            if inside in inference and inference[inside] == training.get(inside):
                found += [inside] if any(True for _ in child.parameters()) else []
            else:
                found += below(inside, child)
        return found

    return below("", model)


def _returned(twin: nn.Module, example: ExampleInputs, *, training: bool) -> dict[str, Any]:
    """The structure of what each submodule of `twin` that is called returns, by path; its tensors and random numbers stay."""
    switch(twin, training)
    found: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda *call, path=path: found.__setitem__(path, pytree.tree_structure(call[-1])))
        for path, module in twin.named_modules()
    ]
    inputs = example.copy()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), unwritten(twin):
        twin(*inputs.args, **inputs.kwargs)
    for hook in hooks:
        hook.remove()
    return found
