"""`compile`: from a PyTorch model to a compressed one, pass by pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import fx, nn
from torch.export import ExportedProgram

from fxcompress import defaults
from fxcompress.capture import PartialCapture, capture, capture_submodules, does_not_run
from fxcompress.compiled import Compilation, Compiled, dump_step
from fxcompress.data.inputs import ExampleInputs, batch_is_free, first_samples, peek
from fxcompress.data.inputs import example_inputs as find_example_inputs
from fxcompress.driver.effect import ROUNDING_DECIBELS
from fxcompress.driver.interface import Context, Pass
from fxcompress.driver.plan import plan
from fxcompress.driver.run import run
from fxcompress.driver.sizes import weight_bytes
from fxcompress.emit.lowering import lower
from fxcompress.errors import CaptureError
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.ir.dialect import copy_graph
from fxcompress.parts import PartlyCompiled, SubmoduleData
from fxcompress.report.rows import Row
from fxcompress.storage.names import file_names
from fxcompress.targets import Target, find_target

Progress = Callable[[str, int, int | None], None]

VERIFIED_SAMPLES = 2
"""Samples of the example batch that verification runs on: more cost time and show no more."""


def compile(
    model: nn.Module | fx.GraphModule | ExportedProgram,
    passes: Sequence[Pass] | None = None,
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    target: str | Target = "openvino",
    verify: bool = True,
    dump: str | os.PathLike[str] | None = None,
    submodules: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    progress: Progress | None = None,
) -> Compiled | PartlyCompiled:
    """Compress `model` with `passes`, verifying each; by default INT8 after training, for OpenVINO.

    Args:
        model: never modified. A `torch.fx.GraphModule` or an `ExportedProgram` will do as well.
        passes: run in this order; None for `fxcompress.defaults.post_training()`.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs. Without it they come from the first batch of
            `data`, or from the model (Hugging Face `dummy_inputs`, Lightning `example_input_array`, timm `pretrained_cfg`).
        data: calibration data, any iterable of batches: a tensor, a tuple whose first items are the inputs, or a dict of
            keyword inputs. Passes may read it several times; what an iterator yields is kept for that.
        target: a name in `fxcompress.targets.TARGETS`, or a `Target`.
        verify: compare the outputs before and after each pass on the example inputs.
        dump: a folder for the graph after every pass (as `Compiled.dump`, but written while compiling).
        submodules: paths of the submodules to compile, where the whole forward cannot be traced. None compiles the whole
            model or else the largest submodules that trace.
        dynamic_shapes: as `torch.export.export` takes it; None for a free batch size.
        progress: called as ``progress(description, done, total)``.

    Raises:
        InputError: example inputs are missing, or an argument or the data cannot be used.
        CaptureError: nothing of the model can be traced.
        ScopeError: an entry of `submodules` does not exist.
        PlanError: a pass is listed before what it needs.
        VerificationError: a pass broke its promise.
    """
    chosen = defaults.post_training() if passes is None else passes
    plan(chosen)
    if data is None:
        example = find_example_inputs(model, example_inputs)
    else:
        first, data = peek(data)
        example = find_example_inputs(model, example_inputs, [first])
    settings = _Settings(tuple(chosen), find_target(target), verify, Path(dump) if dump is not None else None, progress)
    if submodules is None:
        try:
            return settings.compile(_capture(model, example, dynamic_shapes, verify), example, data)
        except CaptureError as problem:
            whole = problem
            if not isinstance(model, nn.Module):
                raise
    captured = capture_submodules(model, example, submodules)
    if not captured.graphs:
        raise whole
    return _compile_parts(model, captured, example, data, settings)


@dataclass(frozen=True)
class _Settings:
    """What the parts of a model are compiled with."""

    passes: tuple[Pass, ...]
    target: Target
    verify: bool
    folder: Path | None
    progress: Progress | None

    def compile(self, captured: _Captured, example: ExampleInputs, data: Iterable[Any] | None, part: str = "") -> Compiled:
        """Run the passes over a captured graph."""
        small = first_samples(example, VERIFIED_SAMPLES) if captured.free_batch else example
        to_file = partial(lower, passes=defaults.lowering(), example=small, target=self.target)
        context = Context(small, self.target, data, lower=to_file)
        if self.progress:
            context.progress = self.progress
        steps: list[tuple[str, fx.Graph]] = []

        def watch(position: int, one: Pass | None, graph_module: fx.GraphModule) -> None:
            steps.append((str(one or "Capture"), copy_graph(graph_module.graph)))
            if self.folder:
                dump_step(graph_module, self.folder / part, position, steps[-1][0])

        report = run(captured.graph_module, self.passes, context, check=self.verify, watch=watch)
        report.rows.insert(0, captured.row)
        return Compiled.wrap(captured.graph_module, Compilation(report, self.passes, small, self.target, steps))


@dataclass(frozen=True)
class _Captured:
    """A captured graph with its row of the report."""

    graph_module: fx.GraphModule
    row: Row

    @property
    def free_batch(self) -> bool:
        return batch_is_free(self.graph_module.graph)


def _capture(model: Any, example: ExampleInputs, dynamic_shapes: Any, check: bool) -> _Captured:
    """The captured graph, compared with the model."""
    started = time.perf_counter()
    graph_module = capture(model, example, dynamic_shapes=dynamic_shapes)
    return _described(graph_module, model, example, time.perf_counter() - started, check)


def _described(graph_module: fx.GraphModule, model: Any, example: ExampleInputs, seconds: float, check: bool) -> _Captured:
    decibels = None
    if check and isinstance(model, nn.Module):
        if batch_is_free(graph_module.graph):
            example = first_samples(example, VERIFIED_SAMPLES)
        decibels = agreement(_reference(model, example), outputs(graph_module, example))
        if decibels < ROUNDING_DECIBELS:
            raise CaptureError(
                f"the captured graph agrees with the model to {decibels:.1f} dB only; does its forward depend on randomness, "
                "on state that it changes, or on the values of its inputs? Such a part must stay outside the compiled submodule"
            )
    size = len(graph_module.graph.nodes)
    notes = tuple(graph_module.meta.get("capture_notes", ()))
    weights = weight_bytes(graph_module)
    return _Captured(graph_module, Row("Capture", "exact", size, size, 0, weights, decibels, seconds * 1e3, notes))


def _compile_parts(
    model: nn.Module, captured: PartialCapture, example: ExampleInputs, data: Iterable[Any] | None, settings: _Settings
) -> PartlyCompiled:
    """Compile each captured submodule on what it is given while the whole model runs over the data."""
    parts, names = {}, file_names(captured.graphs)
    for path, graph_module in captured.graphs.items():
        one = _described(graph_module, model.get_submodule(path), captured.inputs[path], 0.0, settings.verify)
        given = None if data is None else SubmoduleData(model, path, data, example)
        parts[path] = settings.compile(one, captured.inputs[path], given, names[path])
    return PartlyCompiled(model, parts, captured.left_alone)


def _reference(model: nn.Module, example: ExampleInputs) -> list[Any]:
    """The model's own outputs in inference mode; its modes are put back."""
    modes_before = {module: module.training for module in model.modules()}
    try:
        for module in modes_before:
            module.training = False
        return outputs(model, example)
    except Exception as error:
        raise does_not_run(model, example, error) from error
    finally:
        for module, mode in modes_before.items():
            module.training = mode
