"""New calls in a captured graph, with the shapes and dtypes that they would have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree

from fxcompress.ir.recurrent_shapes import RECURRENT_SHAPES


def fake_value(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `target` returns on the fake values (``meta["val"]``) of the nodes among its arguments."""
    return fake_call(target, *fx.map_arg((args, kwargs), lambda node: node.meta["val"]))  # type: ignore[misc]


def fake_call(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `target` returns on fake values."""
    with torch.no_grad(), enable_python_dispatcher():  # kernels that know symbolic sizes: others would fix the batch
        return RECURRENT_SHAPES.get(target, target)(*args, **kwargs)  # type: ignore[index, call-overload]


def without_memory(graph: fx.Graph, tensor: Tensor) -> Tensor:
    """A fake tensor like `tensor`, among those of `graph`: what its nodes know of values holds none."""
    known = (node.meta.get("val") for node in graph.nodes)
    mode = next((value.fake_mode for value in known if isinstance(value, FakeTensor)), None)
    if mode is None or tensor.layout is not torch.strided or isinstance(tensor, FakeTensor):
        return tensor
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


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


def example_sizes(shape: Iterable[Any]) -> list[int]:
    """`shape` with the sizes that were traced, of the example, in place of symbols, which stay free for the graph."""
    return [size.node.hint if isinstance(size, torch.SymInt) else int(size) for size in shape]


def settle_sizes(graph: fx.Graph) -> None:
    """Give the values of `graph` numbers for the sizes that were found to be constant only after they had been traced."""
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(_settled, node.meta["val"])


def _settled(value: Any) -> Any:
    if isinstance(value, torch.SymInt):
        return static_sizes((value,))[0]
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    size, stride = static_sizes(value.shape), static_sizes(value.stride())
    changed = any(type(new) is not type(old) for new, old in zip((*size, *stride), (*value.shape, *value.stride())))
    return value.new_empty_strided(size, stride) if changed else value


def describe_sizes(value: Tensor) -> str:
    """``float32[any, 3, 224, 224]``: the type and the sizes of `value`, ``any`` for those that are free."""
    sizes = ["any" if not isinstance(size, int) else str(size) for size in static_sizes(value.shape)]
    return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(sizes)}]"
