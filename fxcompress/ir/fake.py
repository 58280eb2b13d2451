"""New calls in a captured graph, with the shapes and dtypes that they would have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher


def fake_value(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `target` returns on the fake values (``meta["val"]``) of the nodes among its arguments."""
    values = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
    with torch.no_grad(), enable_python_dispatcher():  # kernels that know symbolic sizes: others would fix the batch
        return target(*values[0], **values[1])  # type: ignore[index]


def insert_call(
    before: fx.Node, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, val: Any = None
) -> fx.Node:
    """A call of `target` in front of `before`, with the origin of `before` and its own value (`val`, where known)."""
    kwargs = kwargs or {}
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args, kwargs)
    node.meta = {key: value for key, value in before.meta.items() if key != "val"}
    node.meta["val"] = fake_value(target, args, kwargs) if val is None else val
    return node


def static_sizes(shape: Iterable[Any]) -> tuple[Any, ...]:
    """`shape` with a number for each size that was found to be constant; the others stay `torch.SymInt`."""
    constants = [size if isinstance(size, int) else size.node.maybe_as_int() for size in shape]
    return tuple(size if constant is None else constant for size, constant in zip(shape, constants))
