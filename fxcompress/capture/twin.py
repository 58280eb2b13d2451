"""A model to trace and run in the place of the user's: modules of its own, on the same parameters, which stay as they are.

Modules are changed on the way (modes, options that no graph has), parameters are only read. So a twin takes the memory of its
buffers, which a run may write to. A pass puts new tensors in the place of others, and what a compiled model shares with
the user's in the end becomes its own (`fxcompress.driver.ownership`).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxcompress.capture.traced_kernels import flexible_attention_written_out
from fxcompress.ir.own_class import Underived, give_class
from fxcompress.ir.state import same_attributes

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of `model` in inference mode, with other parameters on the same memory; tied parameters stay tied."""
    twin = _on_same_memory(model)
    switch(twin, False)
    return twin


def _on_same_memory(model: nn.Module) -> nn.Module:
    plain = [one for one in model.parameters() if type(one) is nn.Parameter and not one.is_inference()]  # no views of others
    return _copied(model, {id(one): shared(one) for one in plain})


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in inference mode that shares no tensor with it; tied parameters stay tied."""
    copied = _copied(model, {})
    copied.eval()  # what it returns is not used: some models' own `train` returns nothing
    return copied


class ForwardAlone(Underived):
    """A model of which forward alone is captured, and so of each of its parts: what stands around goes on standing there."""

    __call__ = nn.Module.__call__


def forward_alone(model: nn.Module) -> nn.Module:
    """A copy of `model` in its own modes, with other parameters on the same memory, which is called by `forward` alone."""
    return bared(_on_same_memory(model))


def bared(module: nn.Module) -> nn.Module:
    """`module`, a copy, without hooks on its calls, and a `__call__` of its own."""
    for name in _HOOKS:
        setattr(module, name, OrderedDict())
    give_class(module, {}, ForwardAlone)
    return module


def is_surrounded(module: nn.Module) -> bool:
    """Whether a call of `module` is more than its `forward`: hooks, or a `__call__` of its own, but that of graph modules."""
    has_call = type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule)
    return has_call or any(getattr(module, name) for name in _HOOKS)


def switch(twin: nn.Module, mode: bool) -> None:
    """``twin.train(mode)``. What its own `train` writes to parameters (adapters that are merged) goes to memory of its own."""
    writes = _Writes(list(twin.parameters()))
    try:
        with writes:
            twin.train(mode)
    finally:
        written = [(tensor, tensor.detach().clone(), before) for tensor, before in writes.saved.values()]
        for tensor, own, before in written:
            tensor.detach().copy_(before)
            tensor.data = own


def shared(tensor: Tensor) -> Tensor:
    """Another parameter or buffer on the memory of `tensor`."""
    view = tensor.detach()
    return nn.Parameter(view, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else view


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # locks, files, tensors with a history: whatever a module may hold that cannot be copied
        return _copy_structure(model, dict(memo))


def _copy_structure(module: nn.Module, done: dict[int, Any]) -> nn.Module:
    """Copies of the modules and their tensors; everything else that they hold is shared."""
    if id(module) in done:
        return done[id(module)]
    twin = done[id(module)] = same_attributes(module)
    for registry in ("_parameters", "_buffers"):
        tensors = {}
        for name, tensor in getattr(module, registry).items():
            if tensor is not None and id(tensor) not in done:
                done[id(tensor)] = _copy_tensor(tensor)
            tensors[name] = None if tensor is None else done[id(tensor)]
        twin.__dict__[registry] = tensors
    twin.__dict__["_modules"] = {
        name: None if child is None else _copy_structure(child, done) for name, child in module._modules.items()
    }
    return twin


def _copy_tensor(tensor: Tensor) -> Tensor:
    new = tensor.detach().clone()
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


@contextmanager
def unwritten(model: nn.Module) -> Iterator[None]:
    """A run of `model` that leaves its parameters and buffers as they were, whatever it writes to them in place.

    Buffers are copied before, and parameters where a call says that it writes to them.
    """
    buffers = [(one, one.detach().clone()) for one in model.buffers()]
    memories = [(one, one.data) for one in (*model.parameters(), *model.buffers()) if one.layout is torch.strided]
    writes = _Writes(list(model.parameters()))
    try:
        with flexible_attention_written_out(), writes:
            yield
    finally:
        for tensor, data in memories:
            if _memory(tensor) != _memory(data):  # its `data` was set
                tensor.data = data
        with torch.no_grad():
            for tensor, before in (*buffers, *writes.saved.values()):
                if not torch.equal(tensor, before):
                    tensor.detach().copy_(before)


class _Writes(TorchDispatchMode):
    """Copies each of `tensors` before the first call that writes to its memory."""

    def __init__(self, tensors: list[Tensor]):
        super().__init__()
        self.by_memory: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.layout is torch.strided:
                self.by_memory.setdefault(_memory(tensor), []).append(tensor)
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = kwargs.get(argument.name) if argument.kwarg_only or position >= len(args) else args[position]
                    for one in given if isinstance(given, (list, tuple)) else [given]:
                        self._save(one)
        return func(*args, **kwargs)

    def _save(self, written: Any) -> None:
        if isinstance(written, Tensor) and written.layout is torch.strided:
            for tensor in self.by_memory.get(_memory(written), ()):
                if id(tensor) not in self.saved:
                    self.saved[id(tensor)] = tensor, tensor.detach().clone()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
