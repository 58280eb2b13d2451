"""What forward says of gradients: where it stops them stays in the graph, and a backward pass of its own is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointFunction

from fxcompress.capture.replaced import replaced
from fxcompress.ir.edit import attribute
from fxcompress.ir.fake import insert_call
from fxcompress.ir.training_ops import STOP_GRADIENT

aten = torch.ops.aten

_CHECKPOINTED = (
    "checkpoints and hooks on saved tensors are left out: training keeps all that a backward pass needs, with the same "
    "gradients, and norms count a batch once; to save memory, checkpoint calls of compiled parts in the training loop, or in "
    "the model around them: submodules=[...]"
)

DETACHED = (aten.detach.default, aten.detach_copy.default)


def stop_after(value: fx.Node, reader: fx.Node) -> fx.Node:
    """`value` as its readers outside a `no_grad` region see it; the call is put in front of `reader`."""
    return insert_call(reader, aten.detach.default, (value,), val=value.meta["val"]) if _has_gradient(value) else value


def keep_stops(module: fx.GraphModule) -> None:
    """Respell `detach` as what stops gradients in training, where it stands between a parameter and what reads it.

    Relevance, which passes take from gradients in inference, goes through it: the outputs owe as much to what it reads.
    """
    trained: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            learned = isinstance(attribute(module, str(node.target)), nn.Parameter)
        else:
            learned = not trained.isdisjoint(node.all_input_nodes)
        if node.op == "call_function" and node.target in DETACHED:
            value = node.args[0]
            kept = insert_call(node, STOP_GRADIENT, (value, True)) if learned and _has_gradient(value) else value
            node.replace_all_uses_with(kept, propagate_meta=False)
            module.graph.erase_node(node)
        elif learned:
            trained.add(node)


@contextlib.contextmanager
def data_as_detached() -> Iterator[None]:
    """In this context, ``.data`` of a tensor that is traced is ``.detach()``, and to set it writes to the tensor.

    A trace sees nothing of the attribute itself: what is done to it would be lost.
    """
    own = Tensor.data

    def get(tensor: Tensor) -> Tensor:
        return tensor.detach() if isinstance(tensor, FakeTensor) else own.__get__(tensor)  # type: ignore[attr-defined]

    def put(tensor: Tensor, value: Tensor) -> None:
        if isinstance(tensor, FakeTensor):
            tensor.detach().copy_(value)
        else:
            own.__set__(tensor, value)  # type: ignore[attr-defined]

    with replaced({(Tensor, "data"): property(get, put)}):
        yield


@contextlib.contextmanager
def inference_as_no_grad() -> Iterator[None]:
    """In this context and thread, `torch.inference_mode` stops gradients as `torch.no_grad` does, of which a trace knows."""
    kind, here = torch.inference_mode, threading.get_ident()
    enter, leave = kind.__enter__, kind.__exit__
    before: dict[int, bool] = {}

    def entered(mode: Any) -> None:
        leaves = not mode.mode and torch.is_inference_mode_enabled()  # that of who compiles, as a trace does
        if threading.get_ident() != here or leaves:
            return enter(mode)
        before[id(mode)] = torch.is_grad_enabled()
        torch.set_grad_enabled(not mode.mode)

    def left(mode: Any, *problem: Any) -> None:
        if id(mode) not in before:
            return leave(mode, *problem)
        torch.set_grad_enabled(before.pop(id(mode)))

    with replaced({(kind, "__enter__"): entered, (kind, "__exit__"): left}):
        yield


@dataclass
class OwnGradients:
    """Notes of what a model does to gradients that a trace does not keep: passes of its own, and what changes no value."""

    backwards: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)


@contextlib.contextmanager
def own_gradients() -> Iterator[OwnGradients]:
    """Collects the backward passes of its own that a model brings, in `torch.autograd.Function`s and hooks on tensors.

    A trace keeps what they compute forwards. Checkpointed functions are called as they are: to gradients they are no more.
    """
    seen = OwnGradients()

    def tell(notes: list[str], note: str) -> None:
        notes += [] if note in notes else [note]

    function, hook, saved = vars(torch.autograd.Function)["apply"], Tensor.register_hook, saved_tensors_hooks.__enter__

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            own = f"the backward pass of {cls.__qualname__}: the graph's is that of the operations of its forward"
            tell(seen.backwards, own)
        return function.__get__(None, cls)(*args, **kwargs)

    def checkpointed(cls: Any, run: Any, preserve: bool, *args: Any) -> Any:
        tell(seen.checkpoints, _CHECKPOINTED)
        return run(*args)

    def save(hooks: Any) -> Any:
        tell(seen.checkpoints, _CHECKPOINTED)
        return saved(hooks)

    def register_hook(tensor: Tensor, given: Any) -> Any:
        tell(seen.backwards, f"the hook {getattr(given, '__qualname__', given)} on the gradient of a tensor")
        return hook(tensor, given)

    noticed = {
        (torch.autograd.Function, "apply"): classmethod(apply),
        (CheckpointFunction, "apply"): classmethod(checkpointed),
        (saved_tensors_hooks, "__enter__"): save,
        (Tensor, "register_hook"): register_hook,
    }
    with replaced(noticed):
        yield seen


def backward_hooks(model: nn.Module) -> list[str]:
    """What to tell of the modules and parameters of `model` that change gradients by hooks, which the graph does not have."""
    kinds = ("_backward_hooks", "_backward_pre_hooks")
    found = [path or type(model).__name__ for path, module in model.named_modules() if any(getattr(module, k) for k in kinds)]
    told = [f"the hooks on the gradients of {', '.join(map(repr, found))}"] if found else []
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    found = [name for name, one in model.named_parameters() if any(getattr(one, k, None) for k in kinds)]
    if found:
        own = "which the model's own parameters alone have, those that fxcompress.compress trains"
        told.append(f"the hooks on the parameters {', '.join(map(repr, found))}, {own}")
    return told


def _has_gradient(value: Any) -> bool:
    held = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(held, Tensor) and (held.is_floating_point() or held.is_complex())
