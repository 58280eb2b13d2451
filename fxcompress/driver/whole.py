"""A model that was compressed in parts, captured as one graph through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree as pytree

from fxcompress.capture import forwards_replaced, private_copy, reason_of
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.capture import Captured, capture_verified
from fxcompress.errors import CaptureError, FileWarning, warn_user
from fxcompress.ir.modes import settle
from fxcompress.ir.own_class import give_class

Forward = Callable[..., Any]
"""What a file is to compute: called with the model and the inputs."""

_REMEDY = (
    "say what the file is to compute, a function of the model and its inputs that can be traced, such as "
    "to_onnx(path, forward=lambda model, images: model.head(model.backbone(images)), example_inputs=images); or name a folder, "
    "for a file for each part"
)


def capture_whole(
    model: nn.Module,
    parts: Sequence[str],
    example: ExampleInputs,
    forward: Forward | None,
    *,
    every_size: bool,
    unwrapped: bool,
) -> Captured:
    """`model`, whose `parts` are compressed, as one graph, with their quantizers and masks, on copies of its tensors.

    It is of `forward`, or else of the model's own where that can be traced, or else of the outputs of the parts that come last,
    which is told: what post-processing starts from. With `unwrapped` the model's own is that of its class: a trainer may have
    put another on the instance, which computes in mixed precision.

    Warns:
        FileWarning: it is of what the parts return.

    Raises:
        CaptureError: it cannot be traced.
    """
    settle(model)
    twin = private_copy(model)
    if unwrapped:
        vars(twin).pop("forward", None)
    idle = dict.fromkeys((path for path, _ in twin.named_modules()), False)  # nobody trains it
    capture = partial(capture_verified, example=example, dynamic_shapes="auto" if every_size else None, modes=idle)
    if forward is not None:
        return capture(_with_forward(twin, forward))
    try:
        return capture(twin)
    except CaptureError as problem:
        whole = problem
    try:
        captured = capture(_up_to(twin, parts, example))
    except CaptureError as problem:
        raise CaptureError(f"{whole}. To write it as one file, {_REMEDY}") from problem
    last = _keep_last(captured.graph_module)
    reason = f"{type(model).__name__} cannot be traced: {reason_of(whole)}"
    warn_user(f"the file ends with what {', '.join(last)} returned, since {reason}. To have more in it, {_REMEDY}", FileWarning)
    return captured


def _with_forward(twin: nn.Module, forward: Forward) -> nn.Module:
    """`twin`, which computes `forward`."""
    give_class(twin, {"forward": forward})
    return twin


# ---------------------------------------------------------------------------------------------- outputs of parts


class _Done(BaseException):
    """All parts have been called; no `except Exception` of a model is to stop it."""


def _up_to(twin: nn.Module, parts: Sequence[str], example: ExampleInputs) -> nn.Module:
    """`twin`, which runs up to the last call of one of its `parts` and returns what each returned, by its path."""
    own = type(twin).forward
    with torch.no_grad(), _collecting(twin, parts, None) as calls:
        given = example.copy()
        twin(*given.args, **given.kwargs)
    expected = sum(map(len, calls.values()))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _collecting(self, parts, expected) as calls, _leaving_modules():
            own(self, *args, **kwargs)
        return {path: outputs[0] if len(outputs) == 1 else outputs for path, outputs in calls.items()}

    forward.__wrapped__ = own  # type: ignore[attr-defined]  # for those who look at its signature
    return _with_forward(twin, forward)


@contextmanager
def _leaving_modules() -> Iterator[None]:
    """Stop at `_Done`; a trace in progress is told that the modules around it have been left, which it does not see itself."""
    mode = get_proxy_mode()
    stack = getattr(mode.tracer, "module_stack", {}) if mode is not None else {}
    depth = len(stack)
    try:
        yield
    except _Done:
        while len(stack) > depth:
            stack.popitem()


@contextmanager
def _collecting(model: nn.Module, parts: Sequence[str], expected: int | None) -> Iterator[dict[str, list[Any]]]:
    """The outputs of every call of `parts`, which raise `_Done` with the last of those `expected`."""
    calls: dict[str, list[Any]] = {}

    def collector(path: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = run(*args, **kwargs)
            calls.setdefault(path, []).append(output)
            if sum(map(len, calls.values())) == expected:
                raise _Done
            return output

        return forward

    with forwards_replaced({path: model.get_submodule(path) for path in parts}, collector):
        yield calls


def _keep_last(graph_module: fx.GraphModule) -> list[str]:
    """Of the outputs by path keep those that no other is computed from, the only one without its path; returns their paths."""
    graph = graph_module.graph
    output, info = graph.output_node(), graph._codegen.pytree_info  # type: ignore[attr-defined]
    outputs: Mapping[str, Any] = pytree.tree_unflatten(list(output.args[0]), info.out_spec)  # type: ignore[arg-type]
    last = {
        path: value
        for path, value in outputs.items()
        if all(set(leaf.users) <= {output} for leaf in pytree.tree_leaves(value) if isinstance(leaf, fx.Node))
    }
    last = last or dict(outputs)
    kept = next(iter(last.values())) if len(last) == 1 else last
    leaves, spec = pytree.tree_flatten(kept)
    output.args = (tuple(leaves),)
    graph._codegen.pytree_info = info._replace(out_spec=spec)  # type: ignore[attr-defined]
    graph.eliminate_dead_code()
    graph_module.recompile()
    return list(last)
