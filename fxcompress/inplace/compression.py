"""`compress`: `compile` for the user's own instance, which goes on being trained and used by whatever holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fxcompress import defaults
from fxcompress.capture import check_model, is_surrounded
from fxcompress.compiled import Compiled
from fxcompress.compiler import compile
from fxcompress.config import Config
from fxcompress.data.inputs import ExampleInputs, peek
from fxcompress.data.inputs import example_inputs as find_example_inputs
from fxcompress.driver.interface import Pass
from fxcompress.errors import InputError
from fxcompress.inplace.default_parts import default_parts
from fxcompress.inplace.graft import check_graftable, check_insides, check_state, graft
from fxcompress.inplace.source import source_of
from fxcompress.integrations import make_callback
from fxcompress.ir.modes import warn_of_training
from fxcompress.parts import PartlyCompiled
from fxcompress.report.rows import Report
from fxcompress.training.controller import CompositeController


@dataclass(frozen=True)
class Compression:
    """What was made of a model in place: its controller, its report, its checkpoints and its files.

    Attributes:
        model: the user's instance.
        compiled: the compiled model, or its compiled parts, on the tensors of `model`.
        example: what `model` was called with.
    """

    model: nn.Module
    compiled: Compiled | PartlyCompiled
    example: ExampleInputs

    @property
    def controller(self) -> CompositeController:
        """A training loop's hold on compression; see `Compiled.controller`."""
        return self.compiled.controller

    @property
    def config(self) -> Config:
        """What was run; see `Compiled.config`."""
        return self.compiled.config

    @property
    def report(self) -> Report:
        """One row a pass; see `Compiled.report`."""
        return self.compiled.report

    def callback(self, framework: str, **options: Any) -> Any:
        """A callback for a trainer: it steps the schedules, keeps them in the trainer's checkpoints, and adds the loss.

        Args:
            framework: ``"transformers"``, ``"lightning"``, ``"mmengine"`` or ``"accelerate"``.
            options: ``add_loss=False`` where you add ``controller.loss()`` yourself; ``accelerator`` of Accelerate.

        Raises:
            InputError: there is no such framework, or it is not installed.
        """
        return make_callback(framework, self.controller, self.model, **options)

    def checkpoint(self) -> dict[str, Any]:
        """All that `model` and its compression need to go on from here; see `Compiled.checkpoint`."""
        return self.compiled.checkpoint()

    def load_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Go on from a `checkpoint` of the same compression; see `Compiled.load_checkpoint`.

        Raises:
            CheckpointError: it is of another model or other passes; says what differs.
        """
        self.compiled.load_checkpoint(state)

    def to_onnx(self, path: str | os.PathLike[str], **options: Any) -> Path | list[Path]:
        """Write the model; see `Compiled.to_onnx`, and `PartlyCompiled.to_onnx` of one that was compressed in parts."""
        check_insides(self.model)
        return self._called().to_onnx(path, **options)

    def to_openvino(self, path: str | os.PathLike[str], **options: Any) -> Path | list[Path]:
        """As `to_onnx`, in OpenVINO's own format; see `Compiled.to_openvino`, and `PartlyCompiled.to_openvino`."""
        check_insides(self.model)
        return self._called().to_openvino(path, **options)

    def _called(self) -> Compiled | PartlyCompiled:
        """What a call of `model` computes: more than its forward where hooks or a `__call__` of its own surround that."""
        if isinstance(self.compiled, PartlyCompiled) or not is_surrounded(self.model):
            return self.compiled
        return PartlyCompiled(self.model, {"": self.compiled}, {}, self.example, every_size=True)


def compress(
    model: nn.Module,
    passes: Sequence[Pass] | None = None,
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    submodules: Sequence[str] | None = None,
    dynamic_shapes: Any = "auto",
    **options: Any,
) -> Compression:
    """Compress `model` itself: afterwards it computes what ``compile(model, passes, ...)`` returns.

    The instance, its class, methods, attributes, children, parameter objects and their names stay; what passes insert becomes
    children and parameters beside them, and `forward` alone changes. So losses, optimizers made before, trainers and
    frameworks that hold the model go on. Parameters that a pass replaced (folded batch norms) stay, and nothing reads them.

    Args:
        model: not in training by another process; in either mode.
        passes: None for `fxcompress.defaults.training()`, or those of ``config=``.
        example_inputs, data: as of `fxcompress.compile`.
        submodules: paths of the submodules to compress; the rest of forward stays Python. None compresses the whole model,
            or else the largest submodules that can be traced; but of models that compute a loss in forward, or return other
            things in training, their parts: the base model and the heads of Hugging Face's, backbone, neck and heads of
            detectors, the outermost modules that return the same in both. The report lists them.
        dynamic_shapes: as of `fxcompress.compile`, but every size that can be is free, since trainers call models with many;
            ``"batch"`` fixes all but the batch.
        options: others of `fxcompress.compile`.

    Raises:
        InputError: `model` is no module, or has been compressed already, or its forward was replaced on the instance; or as
            `compile`, like all other errors. `model` is as it was then.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"compress takes a torch.nn.Module and changes it; {type(model).__name__} is none")
    check_model(model)
    check_graftable(model)
    config = options.get("config")
    chosen = defaults.training() if passes is None and config is None else passes
    if config is not None and example_inputs is None and data is None:
        example_inputs = config.example()
    first, data = peek(data) if data is not None else (None, None)
    example = find_example_inputs(model, example_inputs, None if data is None else [first])
    chosen_here = default_parts(model, example) if submodules is None else []
    options |= {"submodules": chosen_here or submodules, "dynamic_shapes": dynamic_shapes}
    source, given, data = source_of(model, example, data)
    compiled = compile(source, chosen, example_inputs=given, data=data, **options)
    for part in [compiled] if isinstance(compiled, Compiled) else compiled.parts.values():
        if not part.compilation.steered:  # else `compile` has told it
            warn_of_training(part)
    if isinstance(compiled, Compiled):
        return Compression(model, graft(model, compiled), example)
    for path, part in compiled.parts.items():  # all of them, before the first is changed
        check_graftable(model.get_submodule(path))
        check_state(model.get_submodule(path), part)
    twins = {path: graft(model.get_submodule(path), part) for path, part in compiled.parts.items()}
    left = compiled.left_alone
    if chosen_here:
        left = {"": f"its forward is another in training, and stays Python; compressed are {', '.join(chosen_here)}"}
    return Compression(model, PartlyCompiled(model, twins, left, example, every_size=compiled.every_size), example)
