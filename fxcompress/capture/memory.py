"""What modules remember of their calls: sizes and tables for them. A trace must leave none, and find none.

Heads of detectors keep the grid of the last image as an attribute, and make it anew where a size is not that of the last call;
others let `functools.lru_cache` keep what they made, for all networks of a class, also for the user's own.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.capture.free_sizes import Dimensions
from fxcompress.data.inputs import ExampleInputs

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextlib.contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """Put back all attributes of the modules of `model` in the end: symbolic sizes of a trace mean nothing to another.

    Functions that remember their results, of the packages that the modules are from, forget them.
    """
    held = [(module, _attributes(module), [dict(vars(module)[name]) for name in _REGISTRIES]) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, registries in held:
            for name in vars(module).keys() - attributes.keys() - {*_REGISTRIES}:
                del vars(module)[name]
            vars(module).update(attributes)
            for name, registry in zip(_REGISTRIES, registries):
                vars(module)[name].clear()
                vars(module)[name].update(registry)
        for remembering in _remembering(model):
            remembering.cache_clear()


@torch.no_grad()
def remember_others(model: nn.Module, example: ExampleInputs, free: Dimensions) -> bool:
    """Call `model` with one more in each of the `free` dimensions; whether it remembers anything else then.

    What it is called with is of no account, nor is what it writes to its buffers.
    """
    before = [_attributes(module) for module in model.modules()]
    leaves, form = pytree.tree_flatten((example.args, example.kwargs))
    own = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        args, kwargs = pytree.tree_unflatten(map(_longer, leaves, free), form)
        for module, buffers in own:
            module._buffers.update({name: value.clone() for name, value in buffers.items() if value is not None})
        model(*args, **kwargs)
    except Exception:  # it takes no other sizes
        return False
    finally:
        for module, buffers in own:
            module._buffers.update(buffers)
    after = [_attributes(module) for module in model.modules()]
    return any(one.keys() != other.keys() or any(one[k] is not other[k] for k in one) for one, other in zip(before, after))


def _remembering(model: nn.Module) -> list[Any]:
    """The functions with an `lru_cache` in the packages that the modules of `model`, other than torch's, are from."""
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch"}
    kind = functools._lru_cache_wrapper
    return (
        [one for one in gc.get_objects() if type(one) is kind and str(one.__module__).partition(".")[0] in packages]
        if packages
        else []
    )


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _REGISTRIES}


def _longer(leaf: Any, dimensions: frozenset[int]) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    for dimension in dimensions:
        leaf = torch.cat([leaf, leaf.narrow(dimension, 0, 1)], dimension)
    return leaf
