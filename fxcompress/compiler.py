"""`compile`: from a PyTorch model to a compressed one, pass by pass."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from fxcompress import defaults, modes, pipeline
from fxcompress import verify as verification
from fxcompress.capture import capture
from fxcompress.errors import CaptureError
from fxcompress.inputs import ExampleInputs, example_inputs as find_example_inputs, peek
from fxcompress.pipeline import Context, Pass
from fxcompress.report import Report, Row
from fxcompress.targets import Target, find_target

Progress = Callable[[str, int, int | None], None]


@dataclass
class Compilation:
    """How a compiled model came about.

    Attributes:
        report: one row a pass.
        passes: what was run.
        example: the inputs that it was traced and verified with.
        target: the runtime that it is meant for.
        steps: the graph after capture and after every pass, by name.
    """

    report: Report
    passes: tuple[Pass, ...]
    example: ExampleInputs
    target: Target
    steps: list[tuple[str, fx.GraphModule]] = field(default_factory=list)


class Compiled(fx.GraphModule):
    """A compiled model: an ordinary module with the original's parameters and calling convention."""

    compilation: Compilation

    @classmethod
    def wrap(cls, graph_module: fx.GraphModule, compilation: Compilation) -> Compiled:
        """`graph_module` as a compiled model; the two share their tensors."""
        compiled = cls(graph_module, graph_module.graph, "Compiled")
        _share_state(graph_module, compiled)
        compiled.meta = dict(graph_module.meta)
        compiled.compilation = compilation
        return compiled.eval()

    @property
    def report(self) -> Report:
        """One row a pass: effect, nodes, rewrites, bytes, dB, ms. Print it."""
        return self.compilation.report

    def train(self, mode: bool = True) -> Compiled:
        """Switch batch norms and dropouts of the graph between training and inference."""
        super().train(mode)
        modes.set_training(self, mode)
        return self

    def text(self) -> str:
        """The graph as text, a line a node."""
        from fxcompress.graph.text import to_text

        return to_text(self)

    def dump(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the graph after every pass to `folder`: text, DOT, GraphML and a picture each.

        Raises:
            InputError: `folder` cannot be written.
        """
        from fxcompress.graph.dump import dump

        written = []
        for position, (name, graph_module) in enumerate(self.compilation.steps):
            stem = f"{position:02d}-{name.partition('(')[0]}"
            highlight = stem.partition("-")[2] if position else None
            written += dump(graph_module, Path(folder), stem, highlight=highlight, title=name)
        return written

    def lower(self) -> fx.GraphModule:
        """The graph that is written to a file: quantize and dequantize operations, integer weights.

        Its ``meta["report"]`` tells what the lowering did.

        Raises:
            PlanError: a quantizer has no range yet.
            VerificationError: the lowered graph does not compute what this model computes.
        """
        training = self.training
        self.eval()
        try:
            lowered = pipeline.snapshot(self)
            context = Context(self.compilation.example, self.compilation.target)
            lowered.meta["report"] = pipeline.run(lowered, defaults.lowering(), context)
        finally:
            self.train(training)
        return lowered

    def to_onnx(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as ONNX with QuantizeLinear, DequantizeLinear and integer weights, opset 21.

        The file is written under a temporary name first, so `path` never holds half a model.

        Raises:
            InputError: `path` cannot be written.
            EmitError: an operation has no ONNX translation.
        """
        from fxcompress.emit.files import check_writable
        from fxcompress.emit.onnx import to_onnx_model, write_onnx

        check_writable(path)
        metadata = {
            "fxcompress.passes": "; ".join(map(str, self.compilation.passes)),
            "fxcompress.target": self.compilation.target.name,
            "torch": torch.__version__,
        }
        return write_onnx(to_onnx_model(self.lower(), metadata=metadata), path)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        memo[id(self.compilation)] = self.compilation  # a record of what was done: never changed, so shared
        twin = super().__deepcopy__(memo)
        twin._parameters = copy.deepcopy(self._parameters, memo)
        twin._buffers = copy.deepcopy(self._buffers, memo)
        twin._modules = copy.deepcopy(self._modules, memo)
        twin.compilation = self.compilation
        twin.training = self.training
        return twin


def _share_state(source: nn.Module, sink: nn.Module) -> None:
    """Give `sink` all of `source`'s state, also what its graph does not read (such as num_batches_tracked)."""
    sink._parameters, sink._buffers, sink._modules = source._parameters, source._buffers, source._modules
    sink._non_persistent_buffers_set = source._non_persistent_buffers_set


def compile(
    model: nn.Module | fx.GraphModule | ExportedProgram,
    passes: Sequence[Pass] | None = None,
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    target: str | Target = "openvino",
    verify: bool = True,
    dump: str | os.PathLike[str] | None = None,
    dynamic_shapes: Any = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compress `model` with `passes`, verifying each; by default INT8 after training, for OpenVINO.

    Args:
        model: never modified. A `torch.fx.GraphModule` or an `ExportedProgram` will do as well.
        passes: run in this order; None for `fxcompress.defaults.post_training()`.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs. Without it they come from the first batch of
            `data`, or from the model (Hugging Face `dummy_inputs`, Lightning `example_input_array`, timm `pretrained_cfg`).
        data: calibration data, any iterable of batches: a tensor, a tuple whose first items are the inputs, or a dict of
            keyword inputs.
        target: a name in `fxcompress.targets.TARGETS`, or a `Target`.
        verify: compare the outputs before and after each pass on the example inputs.
        dump: a folder for the graph after every pass (as `Compiled.dump`, but written while compiling).
        dynamic_shapes: as `torch.export.export` takes it; None for a free batch size.
        progress: called as ``progress(description, done, total)``.

    Raises:
        InputError: example inputs are missing, or an argument or the data cannot be used.
        CaptureError: the model cannot be traced.
        PlanError: a pass is listed before what it needs.
        VerificationError: a pass broke its promise.
    """
    chosen = tuple(defaults.post_training() if passes is None else passes)
    pipeline.plan(chosen)
    runtime = find_target(target)
    if data is not None:
        first, data = peek(data)
        example = find_example_inputs(model, example_inputs, [first])
    else:
        example = find_example_inputs(model, example_inputs)
    context = Context(example, runtime, data, **({"progress": progress} if progress else {}))
    graph_module, row = _capture(model, example, dynamic_shapes, verify)
    steps: list[tuple[str, fx.GraphModule]] = []
    writer = pipeline.write_dump(Path(dump)) if dump is not None else None

    def watch(position: int, one: Pass | None, graph_module: fx.GraphModule) -> None:
        steps.append((str(one or "Capture"), pipeline.snapshot(graph_module)))
        if writer:
            writer(position, one, graph_module)

    report = pipeline.run(graph_module, chosen, context, check=verify, watch=watch)
    report.rows.insert(0, row)
    return Compiled.wrap(graph_module, Compilation(report, chosen, example, runtime, steps))


def _capture(model: Any, example: ExampleInputs, dynamic_shapes: Any, check: bool) -> tuple[fx.GraphModule, Row]:
    """The captured graph, compared with the model, and its row of the report."""
    started = time.perf_counter()
    graph_module = capture(model, example, dynamic_shapes=dynamic_shapes)
    seconds = time.perf_counter() - started
    decibels = None
    if check and isinstance(model, nn.Module):
        decibels = verification.agreement(_reference(model, example), verification.outputs(graph_module, example))
        if decibels < verification.ROUNDING_DECIBELS:
            raise CaptureError(
                f"the captured graph agrees with the model to {decibels:.1f} dB only; does its forward depend on randomness, "
                "on state that it changes, or on the values of its inputs? Such a part must stay outside the compiled submodule"
            )
    size = len(graph_module.graph.nodes)
    notes = tuple(graph_module.meta.get("capture_notes", ()))
    weights = pipeline.weight_bytes(graph_module)
    return graph_module, Row("Capture", "exact", size, size, 0, weights, decibels, seconds * 1e3, notes)


def _reference(model: nn.Module, example: ExampleInputs) -> list[Any]:
    """The model's own outputs in inference mode; its modes are put back."""
    modes_before = {module: module.training for module in model.modules()}
    try:
        for module in modes_before:
            module.training = False
        return verification.outputs(model, example)
    finally:
        for module, mode in modes_before.items():
            module.training = mode
