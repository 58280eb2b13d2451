"""Partial capture: the submodules that trace, of a model that does not as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.capture.driver import capture
from fxcompress.capture.recording import recording
from fxcompress.capture.tracing import TraceError, stopped_by
from fxcompress.capture.training_trace import Modes, training_modes
from fxcompress.capture.twin import ForwardAlone, bared, is_surrounded, twin_of, unwritten
from fxcompress.data.inputs import ExampleInputs, describe_value
from fxcompress.errors import CaptureError, ScopeError, did_you_mean


@dataclass(frozen=True)
class PartialCapture:
    """The captured submodules by path, the inputs that each had in the run of the whole, and the rest.

    Attributes:
        left_alone: path of each module that was tried and not captured, with the reason.
    """

    graphs: dict[str, fx.GraphModule] = field(default_factory=dict)
    inputs: dict[str, ExampleInputs] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


Capture = Callable[[nn.Module, ExampleInputs, Modes], fx.GraphModule]
"""Captures a module, with its modes in training, on its inputs and compares the two.

Raises CaptureError where it cannot, or where they differ.
"""


def _capture(module: nn.Module, inputs: ExampleInputs, modes: Modes) -> fx.GraphModule:
    return capture(module, inputs, modes=modes)


def capture_submodules(
    model: nn.Module,
    example_inputs: ExampleInputs,
    names: Sequence[str] | None = None,
    *,
    capture: Capture = _capture,
    why: str = "",
    several_sizes: bool = False,
) -> PartialCapture:
    """Capture the submodules `names` of `model`; without names, the largest ones that trace.

    Each is traced with the inputs that it gets while `model` runs on `example_inputs`. Without names the search starts at the
    root, or below it where it is known `why` that does not trace, and goes down into the modules that do not trace, those with
    most parameters first. With `several_sizes` a module may be called with other sizes in the same run, which `capture` leaves
    free; else only with another number of samples.

    Raises:
        ScopeError: `model` has no submodule of that name; suggests the nearest ones.
        CaptureError: the model does not run on the example inputs, or a named submodule cannot be traced.
    """
    if names is not None:
        check_names(model, names)
    twin = twin_of(model)
    calls = _Calls(_record_calls(twin, example_inputs), several_sizes)
    modes = training_modes(model, twin)
    found = PartialCapture()

    def capture_at(path: str, module: nn.Module, inputs: ExampleInputs) -> fx.GraphModule:
        inside = f"{path}." if path else ""
        module = bared(module) if isinstance(model, ForwardAlone) and is_surrounded(module) else module
        below = {name.removeprefix(inside): mode for name, mode in modes.items() if name.startswith(inside)}
        return capture(module, inputs, {**below, "": modes[path]})

    if names is None:
        if why:
            found.left_alone[""] = why
            _search_below(twin, "", calls, capture_at, found)
        else:
            _search(twin, "", calls, capture_at, found)
        return found
    for name in names:
        found.inputs[name] = calls.inputs(name)
        found.graphs[name] = capture_at(name, twin.get_submodule(name), found.inputs[name])
    return found


def called_submodules(model: nn.Module, example: ExampleInputs) -> set[str]:
    """The paths of the modules of `model` whose forward runs while it runs on `example`.

    Raises:
        CaptureError: it does not run.
    """
    return set(_record_calls(twin_of(model), example))


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raise `ScopeError` for a name that is no submodule of `model`."""
    if isinstance(names, str):
        raise ScopeError(f"submodules is a list of names; write submodules=[{names!r}]")
    if not names or not isinstance(model, nn.Module):
        raise ScopeError(
            "submodules names at least one submodule of a torch.nn.Module; leave it out to compile the whole model"
        )
    known = [path for path, _ in model.named_modules() if path]
    for name in names:
        if name not in known:
            other = dict(model.named_modules(remove_duplicate=False)).get(name)
            if same := next((path for path in known if model.get_submodule(path) is other), None):
                raise ScopeError(f"the submodule {name!r} is {same!r} by another name, by which it is compiled: name that")
            hint, some = did_you_mean(name, known), ", ".join(known[:5])
            raise ScopeError(
                f"{type(model).__name__} has no submodule {name!r}{hint}; it has {some}{' ...' * (len(known) > 5)}"
            )
        for outer in names:
            if name.startswith(f"{outer}."):
                raise ScopeError(
                    f"the submodule {name!r} is a part of {outer!r}, which is compiled as a whole; name one of the two"
                )


_CaptureAt = Callable[[str, nn.Module, ExampleInputs], fx.GraphModule]


def _search(root: nn.Module, path: str, calls: _Calls, capture: _CaptureAt, found: PartialCapture) -> None:
    """Capture the module at `path`, or else what is below it."""
    module = root.get_submodule(path)
    if not any(True for _ in module.parameters()):
        return
    if path in calls.recorded:
        try:
            inputs = calls.inputs(path)
            found.graphs[path] = capture(path, module, inputs)
            found.inputs[path] = inputs
            return
        except CaptureError as error:
            found.left_alone[path] = reason_of(error)
    _search_below(root, path, calls, capture, found)


def _search_below(root: nn.Module, path: str, calls: _Calls, capture: _CaptureAt, found: PartialCapture) -> None:
    module = root.get_submodule(path)
    children = [(name, child) for name, child in module.named_children()]
    for name, _ in sorted(children, key=lambda item: -sum(p.numel() for p in item[1].parameters())):
        _search(root, f"{path}.{name}".lstrip("."), calls, capture, found)


def reason_of(error: CaptureError) -> str:
    """Why a module was not captured, in a sentence."""
    return stopped_by(error.__cause__) if isinstance(error, TraceError) else str(error)


def _record_calls(model: nn.Module, example: ExampleInputs) -> dict[str, list[ExampleInputs]]:
    """The inputs of every call of every submodule while `model` runs on `example`, by path."""
    with recording(dict(model.named_modules())) as calls, torch.no_grad(), unwritten(model):
        given = example.copy()
        try:
            model(*given.args, **given.kwargs)
        except Exception as error:
            raise does_not_run(model, example, error) from error
    return calls


def does_not_run(model: nn.Module, example: ExampleInputs, error: Exception) -> CaptureError:
    """What to raise where the user's own model raised `error`."""
    return CaptureError(
        f"{type(model).__name__} does not run on the example inputs {example!r}: {error}; they, or the first batch of data, "
        "must be what forward takes"
    )


@dataclass(frozen=True)
class _Calls:
    """The inputs of every call of every submodule, by path; `several_sizes` is whether those of one may differ in size."""

    recorded: dict[str, list[ExampleInputs]]
    several_sizes: bool

    def inputs(self, path: str) -> ExampleInputs:
        """The inputs to trace the module at `path` with, provided that all its calls agree in what a graph fixes."""
        if path not in self.recorded:
            raise CaptureError(f"{path!r} is not called when the model runs on the example inputs; name a module that is")
        first, *rest = self.recorded[path]
        for other in rest:
            if self._form(other) != self._form(first):
                raise CaptureError(
                    f"{path!r} is called with different inputs in one run, {first!r} and {other!r}, "
                    "and a graph has one size; name the module that calls it instead"
                )
        return first

    def _form(self, inputs: ExampleInputs) -> list[Any]:
        """What must be the same in every call: sizes beyond the batch, dtypes, other values."""
        return [
            (name, leaf.dim() if self.several_sizes else leaf.shape[1:], leaf.dtype)
            if isinstance(leaf, Tensor)
            else (name, describe_value(leaf))
            for name, leaf in inputs.leaves()
        ]
