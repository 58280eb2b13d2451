"""What modules remember of their calls: sizes and tables for them. A trace must leave none, and find none.

Heads of detectors keep the grid of the last image as an attribute, and make it anew where a size is not that of the last call;
others let `functools.lru_cache` keep what they made, for all networks of a class, also for the user's own.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxcompress.capture.free_sizes import Dimensions
from fxcompress.capture.twin import unwritten
from fxcompress.data.inputs import ExampleInputs

_FILLED = (list, deque, dict, set)
"""Attributes that a call may fill, and kinds of them, such as the `OrderedDict` of a module's hooks."""
_REGISTRIES = ("_parameters", "_buffers", "_modules")

_NO_NAMESPACES = (nn.Module, Tensor, type, types.FunctionType, types.ModuleType)

Kept = dict[str, list[Any]]
"""The leaves of each attribute, by its module's path and its name."""


@contextlib.contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """Put back all attributes of the modules of `model` in the end: symbolic sizes of a trace mean nothing to another.

    Functions that remember results, of the packages that the modules are from, forget all, where they have got new ones.
    """
    filled = {one: one.cache_info().misses for one in _remembering(model)}
    modules = [*model.modules()]
    held = [dict(vars(module)) for module in modules]
    containers = _containers([value for own in held for value in own.values()])
    contents = [_content(one) if len(one) else () for one in containers]  # most are hooks of modules, of which there are none
    try:
        yield
    finally:
        for module, own in zip(modules, held):
            for name in vars(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)
        for one, content in zip(containers, contents):
            if not _has(one, content):  # some kinds refuse all changes
                one.clear()
                one.extend(content) if isinstance(one, (list, deque)) else one.update(content)
        for one in _remembering(model):
            if one.cache_info().misses > filled.get(one, 0):
                one.cache_clear()


@torch.no_grad()
def remember_others(model: nn.Module, example: ExampleInputs, free: Dimensions) -> bool:
    """Call `model` with one more in each of the `free` dimensions; whether it remembers anything else then.

    What it is called with is of no account, nor is what it writes to its parameters and buffers.
    """
    before = [attributes(module) for module in model.modules()]
    leaves, form = pytree.tree_flatten((example.args, example.kwargs))
    try:
        args, kwargs = pytree.tree_unflatten(map(_longer, leaves, free), form)
        with unwritten(model):
            model(*args, **kwargs)
    except Exception:  # it takes no other sizes
        return False
    after = [attributes(module) for module in model.modules()]
    return any(one.keys() != other.keys() or any(one[k] is not other[k] for k in one) for one, other in zip(before, after))


def kept(model: nn.Module) -> Kept:
    """What the modules of `model` keep in attributes, but for their modes."""
    return {
        f"{path}.{name}".lstrip("."): _leaves(value)
        for path, module in model.named_modules()
        for name, value in attributes(module).items()
        if name != "training"
    }


def changed(before: Kept, after: Kept) -> set[str]:
    """The attributes with other leaves; a tensor is another one if it is another object."""
    return {name for name in before.keys() | after.keys() if not _same_leaves(before.get(name), after.get(name))}


def _leaves(value: Any) -> list[Any]:
    """The leaves of `value`, and those of what objects among them hold, such as a namespace of losses."""
    if value is None or isinstance(value, (int, str)) or (isinstance(value, _FILLED) and not len(value)):  # most are
        return [value]
    leaves = pytree.tree_leaves(value)
    objects = [vars(one) for one in leaves if hasattr(one, "__dict__") and not isinstance(one, _NO_NAMESPACES)]
    return leaves + pytree.tree_leaves(objects)


def _same_leaves(left: list[Any] | None, right: list[Any] | None) -> bool:
    if left is None or right is None or len(left) != len(right):
        return False
    return all(a is b or (type(a) is type(b) and isinstance(a, (int, float, str)) and a == b) for a, b in zip(left, right))


_NOT_THE_USERS = ("torch", __name__.partition(".")[0])


def _remembering(model: nn.Module) -> set[Any]:
    """The functions with an `lru_cache` of the modules of `model`, not torch's or ours, and of the packages these are from.

    They are looked for where code holds functions, under another decorator too: to go through all objects takes far longer.
    """
    own = [module for module in model.modules() if type(module).__module__.partition(".")[0] not in _NOT_THE_USERS]
    kinds = set(map(type, own))
    files = _files_of(frozenset(kind.__module__.partition(".")[0] for kind in kinds), len(sys.modules))
    found = {
        one for file in files for one in (_in_file(file) if file.__name__ == "__main__" else _known(file, len(vars(file))))
    }
    return found.union(*(_held(vars(one)) for one in [*kinds, *own]))


@functools.lru_cache(maxsize=64)
def _files_of(packages: frozenset[str], loaded: int) -> list[types.ModuleType]:
    """The files of `packages`, of the many that are loaded."""
    files = [one for name, one in [*sys.modules.items()] if name.partition(".")[0] in packages]
    return [one for one in files if isinstance(one, types.ModuleType)]


@functools.lru_cache(maxsize=4096)
def _known(file: types.ModuleType, size: int) -> set[Any]:
    """As `_in_file`, again only where there is another number of names: a notebook alone gives old ones to new functions."""
    return _in_file(file)


def _in_file(file: types.ModuleType) -> set[Any]:
    """Those in `file` and its classes."""
    kinds = [one for one in vars(file).values() if isinstance(one, type) and one.__module__ == file.__name__]
    return _held(vars(file)).union(*(_held(vars(kind)) for kind in kinds))


def _held(space: Mapping[str, Any]) -> set[Any]:
    """Those that the values of `space` are, or have in a closure."""
    found = set()
    for held in [*space.values()]:
        function = getattr(held, "__func__", held) if isinstance(held, (staticmethod, classmethod)) else held
        cells = function.__closure__ or () if isinstance(function, types.FunctionType) else ()
        for one in (function, *(cell.cell_contents for cell in cells if _is_filled(cell))):
            if type(one) is functools._lru_cache_wrapper:
                found.add(one)
    return found


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # its variable has no value yet
        return False


def _containers(values: list[Any]) -> list[Any]:
    """The containers among `values` that a call may fill, and those in them."""
    found: dict[int, Any] = {}
    pending = [one for one in values if isinstance(one, _FILLED)]
    while pending:
        one = pending.pop()
        if id(one) not in found:
            found[id(one)] = one
            pending += [held for held in (one.values() if isinstance(one, dict) else one) if isinstance(held, _FILLED)]
    return [*found.values()]


def _content(one: Any) -> Any:
    """What the container `one` holds, in a plain one that stays as it is."""
    return dict(one) if isinstance(one, dict) else set(one) if isinstance(one, set) else list(one)


def _has(one: Any, content: Any) -> bool:
    """Whether the container `one` holds still, in its order, the objects of `content`."""
    if not len(one) or not len(content):
        return len(one) == len(content)
    now = _content(one)
    pairs = [*zip(now, content)] + ([*zip(now.values(), content.values())] if isinstance(now, dict) else [])
    return len(now) == len(content) and all(a is b for a, b in pairs)


def attributes(module: nn.Module) -> dict[str, Any]:
    """What `module` holds beside its parameters, buffers and modules."""
    return {name: value for name, value in vars(module).items() if name not in _REGISTRIES}


def _longer(leaf: Any, dimensions: frozenset[int]) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    for dimension in dimensions:
        leaf = torch.cat([leaf, leaf.narrow(dimension, 0, 1)], dimension)
    return leaf
