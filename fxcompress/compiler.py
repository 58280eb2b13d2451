"""`compile`: from a PyTorch model to a compressed one, pass by pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import fx, nn
from torch.export import ExportedProgram

from fxcompress import defaults
from fxcompress.capture import check_model, has_pictures, is_compressed
from fxcompress.compiled import Compiled
from fxcompress.config import Config
from fxcompress.data.inputs import ExampleInputs, peek
from fxcompress.data.inputs import example_inputs as find_example_inputs
from fxcompress.driver.capture import Captured, capture_parts, capture_verified
from fxcompress.driver.compilation import Compilation
from fxcompress.driver.interface import Context, Pass
from fxcompress.driver.ownership import of_one_moment, own
from fxcompress.driver.plan import plan
from fxcompress.driver.run import run
from fxcompress.driver.state import recorded, settle, tensors
from fxcompress.emit.lowering import lower
from fxcompress.emit.onnx import unwritable
from fxcompress.errors import CaptureError, FileWarning, InputError, warn_user
from fxcompress.ir.exclusion import one_thread_at_a_time
from fxcompress.ir.modes import warn_of_training
from fxcompress.options import check_arguments
from fxcompress.parts import PartlyCompiled, SubmoduleData
from fxcompress.report.progress import shown
from fxcompress.storage.atomic import as_path
from fxcompress.storage.names import file_names
from fxcompress.targets import Target, find_target
from fxcompress.views.dump import dump_step

Progress = Callable[[str, int, int | None], None]


@one_thread_at_a_time
@check_arguments("target", "verify", "dump", "submodules", "progress")
def compile(
    model: nn.Module | fx.GraphModule | ExportedProgram,
    passes: Sequence[Pass] | None = None,
    *,
    example_inputs: Any = None,
    data: Iterable[Any] | None = None,
    target: str | Target | None = None,
    config: Config | None = None,
    verify: bool = True,
    dump: str | os.PathLike[str] | None = None,
    submodules: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    progress: Progress | bool | None = None,
) -> Compiled | PartlyCompiled:
    """Compress `model` with `passes`, verifying each; by default INT8 after training, for OpenVINO.

    Threads that compile wait for one another, since torch cannot trace in two at once.

    Args:
        model: never modified. A `torch.fx.GraphModule` or an `ExportedProgram` will do as well. One that is compiled already,
            or holds modules that are, keeps their quantizers and masks, and takes no passes but ``[]``.
        passes: run in this order; None for `fxcompress.defaults.post_training()`.
        example_inputs: a tensor, a tuple of inputs, or a dict of keyword inputs. Without it they come from the first batch of
            `data`, or from the model (Hugging Face `dummy_inputs`, Lightning `example_input_array`, timm `pretrained_cfg`).
        data: calibration data, any iterable of batches: a tensor, a tuple whose first items are the inputs, or a dict of
            keyword inputs. Passes may read it several times; what an iterator yields is kept for that.
        target: a name in `fxcompress.targets.TARGETS`, or a `Target`; None for OpenVINO, or what `config` says.
        config: of a file, in place of `passes`. Its inputs are the example where there is neither another nor data.
        verify: compare the outputs before and after each pass on the example inputs.
        dump: a folder for the graph after every pass (as `Compiled.dump`, but written while compiling).
        submodules: paths of the submodules to compile, where the whole forward cannot be traced. None compiles the whole
            model or else the largest submodules that trace.
        dynamic_shapes: None for every size that the model leaves free, such as the batch and the length of a sequence, but for
            the height and width of pictures (inputs of floats in four or more dimensions); ``"auto"`` for those as well;
            ``"batch"`` for none but the batch; or as `torch.export.export` takes it.
        progress: called as ``progress(description, done, total)``; True for a line on the terminal.

    Raises:
        InputError: example inputs are missing, or an argument or the data cannot be used.
        CaptureError: nothing of the model can be traced.
        ScopeError: an entry of `submodules` does not exist.
        PlanError: a pass is listed before what it needs.
        VerificationError: a pass broke its promise.
    """
    check_model(model)
    passes, found_target, example_inputs = _settled(passes, target, config, example_inputs, data)
    submodules = (config.submodules or None) if config is not None and submodules is None else submodules
    if isinstance(dynamic_shapes, str) and dynamic_shapes not in ("auto", "batch"):
        raise InputError(f"dynamic_shapes is None, 'auto', 'batch', or what torch.export takes, not {dynamic_shapes!r:.60}")
    chosen = defaults.post_training() if passes is None else passes
    plan(chosen)
    _check_compressed_once(model, chosen)
    if data is None:
        _check_without_data(chosen)
        example = find_example_inputs(model, example_inputs)
    else:
        first, data = peek(data)
        example = find_example_inputs(model, example_inputs, [first])
    folder = as_path(dump) if dump is not None else None
    with shown(Console(stderr=True), "compiling") if progress is True else nullcontext(progress or None) as show:
        settings = _Settings(tuple(chosen), found_target, verify, folder, show)
        with of_one_moment(model):
            return _compile(model, example, data, submodules, dynamic_shapes, settings)


def _compile(
    model: Any,
    example: Any,
    data: Iterable[Any] | None,
    submodules: Sequence[str] | None,
    dynamic_shapes: Any,
    settings: _Settings,
) -> Compiled | PartlyCompiled:
    """Compile the whole `model`; or its `submodules`, or those that trace where the whole does not."""
    whole = None
    if submodules is None:
        try:
            return settings.compile(*_captured(model, example, dynamic_shapes, settings), data, model)
        except CaptureError as problem:
            if not isinstance(model, nn.Module) or not (dynamic_shapes is None or isinstance(dynamic_shapes, str)):
                raise
            whole = problem
    free = _sizes(dynamic_shapes, "lengths" if has_pictures(example) else "auto")
    parts, found = capture_parts(model, example, submodules, whole, dynamic_shapes=free, **settings.of_capture())
    compiled, names = {}, file_names(parts)
    for path, part in parts.items():
        given = None if data is None else SubmoduleData(model, path, data, example)
        compiled[path] = settings.compile(part, unwritable(part.graph_module), given, model, names[path])
    return PartlyCompiled.of_copy(model, compiled, found.left_alone, example, every_size=free == "auto")


def _sizes(dynamic_shapes: Any, default: str) -> Any:
    """What `capture` is told, where `compile` is told `dynamic_shapes`."""
    if dynamic_shapes is None:
        return default
    return None if isinstance(dynamic_shapes, str) and dynamic_shapes == "batch" else dynamic_shapes


def _captured(model: Any, example: ExampleInputs, dynamic_shapes: Any, settings: _Settings) -> tuple[Captured, str | None]:
    """`model` as a graph, and what keeps that from being written, if anything does.

    It has the lengths of the example where nobody asked for free ones, and no file could have them.
    """
    captured = capture_verified(model, example, dynamic_shapes=_sizes(dynamic_shapes, "lengths"), **settings.of_capture())
    problem = unwritable(captured.graph_module)
    if problem is None or dynamic_shapes is not None:
        return captured, problem
    fixed = capture_verified(model, example, **settings.of_capture())
    if unwritable(fixed.graph_module) is not None:
        return captured, problem
    note = f"lengths are fixed to those of the example inputs, since a file cannot have them free: {problem}"
    return replace(fixed, row=replace(fixed.row, notes=(*fixed.row.notes, note))), None


def _settled(
    passes: Sequence[Pass] | None, target: str | Target | None, config: Config | None, example: Any, data: Any
) -> tuple[Sequence[Pass] | None, Target, Any]:
    """The passes, the target and the example inputs, of which `config` gives those that are None."""
    if config is None:
        return passes, find_target("openvino" if target is None else target), example
    if not isinstance(config, Config):
        raise InputError(f"config is a fxcompress.Config, such as Config.load('model.yaml'), not {config!r:.60}")
    if passes is not None:
        raise InputError("the passes come from config or from passes, not from both; passes=[*config.passes, ...] joins them")
    if example is None and data is None:
        example = config.example()
    return config.passes, find_target(config.target if target is None else target), example


def _check_compressed_once(model: Any, passes: Sequence[Pass]) -> None:
    """Raise InputError where `model` has been compiled, or compressed in part, and there are `passes` to run on it again."""
    if passes and isinstance(model, nn.Module) and any(map(is_compressed, model.modules())):
        what = "is compiled already" if is_compressed(model) else "holds modules that are compiled already"
        raise InputError(
            f"this {type(model).__name__} {what}; give the original, with all passes at once, or compile it with [], which "
            "keeps its quantizers and masks as they are"
        )


def _check_without_data(passes: Sequence[Pass]) -> None:
    """Raise InputError for a pass that reads data, before any work."""
    for one in passes:
        if one.reads_data:
            raise InputError(f"{one.name} needs data: compile(model, data=loader), any iterable of batches")


@dataclass(frozen=True)
class _Settings:
    """What the parts of a model are compiled with."""

    passes: tuple[Pass, ...]
    target: Target
    verify: bool
    folder: Path | None
    progress: Progress | None

    def of_capture(self) -> dict[str, Any]:
        """What the capture of the model, or of its parts, is told."""
        return {"check": self.verify, "half_weights": any(one.frees_floats for one in self.passes)}

    def compile(
        self, captured: Captured, problem: str | None, data: Iterable[Any] | None, model: Any, part: str = ""
    ) -> Compiled:
        """Run the passes over a captured graph of `model`, or of a `part` of it; `problem` keeps it from being written."""
        example, row = captured.example, captured.row
        if problem is not None:
            warn_user(f"unless a pass replaces them, {problem}", FileWarning)
            row = replace(row, notes=(*row.notes, problem.partition("\nRegister")[0]))
        to_file = partial(lower, passes=defaults.lowering(), example=example, target=self.target)
        context = Context(example, self.target, data, lower=to_file)
        if self.progress:
            context.progress = self.progress
        steps: list[tuple[str, fx.Graph]] = []

        def watch(position: int, one: Pass | None, graph_module: fx.GraphModule) -> None:
            steps.append((str(one or "Capture"), recorded(graph_module.graph)))
            if self.folder:
                dump_step(graph_module, self.folder / part, position, steps[-1][0])

        graph_module = captured.graph_module
        held = list(tensors(graph_module))
        report = run(graph_module, self.passes, context, check=self.verify, watch=watch)
        report.rows.insert(0, row)
        earlier = settle(graph_module, [graph for _, graph in steps], held, context.kept)
        own(graph_module, earlier.gone, model)
        compiled = Compiled.wrap(graph_module, Compilation(report, self.passes, example, self.target, steps, earlier))
        if compiled.compilation.steered:
            warn_of_training(compiled)  # they are there to be trained
        return compiled
