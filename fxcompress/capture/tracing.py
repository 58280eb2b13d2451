"""Tracing with torch.export: a symbolic batch, and errors that name the user's line."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.nn.modules.batchnorm import _BatchNorm

from fxcompress.capture.bins import BinsOfAList, lengths_of_lists
from fxcompress.capture.decided import Decided, Decisions, decisions
from fxcompress.capture.emptiness import SomethingFound
from fxcompress.capture.forward_contexts import while_it_runs
from fxcompress.capture.free_sizes import Dimensions, Ties, are_free, dynamic_shapes, tied, widened
from fxcompress.capture.gradients import OwnGradients
from fxcompress.capture.lines import is_users, quoted
from fxcompress.capture.loops import LoopsOverSteps
from fxcompress.capture.memory import remember_others
from fxcompress.capture.mode_reads import ModeReads, mode_reads
from fxcompress.capture.numbers_in_arrays import NumbersInArrays
from fxcompress.capture.reached_otherwise import read_as_parameters
from fxcompress.capture.selected import LoopsOverAllPlaces, Most
from fxcompress.capture.sizes_in_tensors import SizesInTensors
from fxcompress.capture.tolerated import symbolic_extremes, symbolic_lengths
from fxcompress.capture.traceable import traceable
from fxcompress.capture.watched import Watched
from fxcompress.capture.written_out import LoopError
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import CaptureError, InputError


def prepare(model: nn.Module, example: ExampleInputs) -> None:
    """Make a twin of a model (see `fxcompress.capture.twin`) ready for `trace`.

    Raises:
        CaptureError: `model` has a name that torch cannot trace.
        InputError: its forward does not take `example`.
    """
    _check_call(model, example)
    _name_arguments(model, example)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None:
            module.momentum = 0.0  # which it is in a graph, that has no number of batches
        elif isinstance(module, _BatchNorm) and module.running_mean is not None and not module.track_running_stats:
            module.track_running_stats, module.momentum = True, 0.0  # it has statistics, which training leaves as they are
        elif getattr(getattr(module, "config", None), "_experts_implementation", None) == "grouped_mm":
            choose = getattr(module, "set_experts_implementation", None)  # of Transformers: layers that hold experts lack it
            if choose is not None:
                choose("batched_mm")  # the same sums, in operations that files have


def trace(model: nn.Module, example: ExampleInputs, shapes: Any = None) -> ExportedProgram:
    """`model` as an exported program, with `shapes` as torch.export takes them.

    Raises:
        CaptureError: `model` cannot be traced.
    """
    return _export(model, example, shapes)


def trace_free(
    model: nn.Module, example: ExampleInputs, free: Dimensions, ties: Ties = ()
) -> tuple[ExportedProgram | None, str]:
    """`model` as a program with sizes that are `free`, as many of them as can be; None, where none can, and why.

    Sizes of the `ties` are the same, which the trace need not find out by itself.

    Raises:
        CaptureError: `model` cannot be traced, whatever its sizes.
    """
    with tied(model, ties):
        program, reason = _traced_free(model, example, free)
        if program is None and remember_others(model, example, free):
            program, reason = _traced_free(model, example, free)
    return program, reason


def _traced_free(model: nn.Module, example: ExampleInputs, free: Dimensions) -> tuple[ExportedProgram | None, str]:
    wide = widened(example, free)
    try:
        program = _export(model, wide, dynamic_shapes(model, wide, free))
    except CaptureError as error:
        if "data-dependent" in str(error.__cause__):
            raise
        return None, _first_sentence(error.__cause__)
    return (program, "") if are_free(program) else (None, _why_static(model, wide, free))


class TraceError(CaptureError):
    """torch stops at something in the model, which is the cause of this error."""


def stopped_by(error: BaseException | None) -> str:
    """What stopped a trace, and the line of the user's that did."""
    return f"{_first_sentence(error)}; the line that stopped it: {_user_line(error)}"


def _check_call(model: nn.Module, example: ExampleInputs) -> None:
    try:
        inspect.signature(model.forward).bind(*example.args, **example.kwargs)
    except TypeError as problem:
        raise InputError(
            f"forward of {type(model).__name__} takes {inspect.signature(model.forward)}, not {example!r}: {problem}; give the "
            "inputs in this order, or a dict (a .npz file) with these names"
        ) from None


def _name_arguments(model: nn.Module, example: ExampleInputs) -> None:
    """Let forward name what it takes by ``**kwargs`` in this call, where torch cannot leave sizes free."""
    declared = inspect.signature(model.forward)
    given = declared.bind(*example.args, **example.kwargs).arguments
    variadic = next((name for name, p in declared.parameters.items() if p.kind is p.VAR_KEYWORD), "")
    if not given.get(variadic):
        return
    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    named = [parameter for name, parameter in declared.parameters.items() if name in given and name != variadic]
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given[variadic]]
    forward.__signature__ = inspect.Signature([*named, *extra])  # type: ignore[attr-defined]
    model.forward = forward


def _export(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any) -> ExportedProgram:
    try:
        return _exported(model, example, dynamic_shapes, None)
    except TraceError as error:
        if "data-dependent" not in str(error.__cause__):
            raise
    return _exported(model, example, dynamic_shapes, decisions(model, example))


def _exported(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any, answers: Decisions | None) -> ExportedProgram:
    """The program of `model`, whose questions about data, if there are `answers` to some, are answered, or stop it."""
    messages, tries = io.StringIO(), list[_Try]()
    most, lengths = Most(), lengths_of_lists(model)

    def one() -> ExportedProgram:
        while True:
            tries.append(_Try(model, answers, most, lengths))
            try:
                with symbolic_extremes(), tries[-1].watching():  # around torch's own, which it puts there and takes away
                    return export(model, example.args, example.kwargs, dynamic_shapes=dynamic_shapes, strict=False)
            except IndexError:
                if not (tries[-1].places.shortened() or tries[-1].bins.shortened()):
                    raise

    try:
        with traceable(model) as (gradients, casts), contextlib.redirect_stderr(messages):
            try:
                program = one()
            except RuntimeError as error:
                if "modified inplace" not in str(error):
                    raise
                with torch.no_grad():  # only there may the parts of a split be changed in place
                    program = one()
        tries[-1].watched(gradients, casts).note(program)
        read_as_parameters(program)
        return program
    except Exception as error:
        graph_so_far = getattr(error, "partial_fx_graph", None)
        messages = io.StringIO(messages.getvalue().replace(f"{graph_so_far}\n", ""))
        raise _named(error, model, example, any(one.loops.met for one in tries)) from error
    finally:
        sys.stderr.write(messages.getvalue())


class _Try:
    """What watches one trace of a model."""

    def __init__(self, model: nn.Module, answers: Decisions | None, most: Most, lengths: list[int]) -> None:
        self._model, self._finds = model, answers is not None
        self.reads, self.places, self.loops = ModeReads(), LoopsOverAllPlaces(most), LoopsOverSteps()
        self.bins, self._found, self._decided = BinsOfAList(lengths), SomethingFound(), Decided(answers or {})

    def watching(self) -> contextlib.AbstractContextManager[None]:
        contexts = (
            lambda: mode_reads(self._model, self.reads),
            lambda: self._found if self._finds else contextlib.nullcontext(),
            lambda: self.places,
            lambda: self._decided,
            SizesInTensors,
            NumbersInArrays,
            lambda: self.bins,
            symbolic_lengths,
            lambda: self.loops,
        )
        return while_it_runs(self._model, *contexts)

    def watched(self, gradients: OwnGradients, casts: Iterable[str]) -> Watched:
        """What it saw, beside what was seen of `gradients` and `casts`."""
        return Watched(
            reads=self.reads,
            places=self.places.told,
            found=(*self._found.told, *self.bins.told),
            chosen=self._found.chosen,
            decided=tuple(self._decided.told),
            autocasts=tuple(casts),
            checkpoints=tuple(gradients.checkpoints),
            backwards=tuple(gradients.backwards),
        )


def _named(error: Exception, model: nn.Module, example: ExampleInputs, looped: bool) -> Exception:
    """What to raise in the place of torch's own `error`, of a trace that was `looped` if it met loops of steps."""
    name, hidden = type(model).__name__, _hidden_names(model)
    if hidden:
        return CaptureError(
            f"{name} cannot be traced: torch cannot find {', '.join(map(repr, hidden))}, whose names have a dot in them or are "
            "those of attributes that every module has; rename them"
        )
    if looped and "data-dependent" not in str(error):
        return LoopError(f"a loop cannot be of any number of steps: {stopped_by(error)}")
    return TraceError(
        f"{name} cannot be traced: {stopped_by(error)}. Check that the example inputs {example!r} are what forward takes; "
        'where a part of the model cannot be traced, name those that can: submodules=["backbone"]'
    )


def _hidden_names(model: nn.Module) -> list[str]:
    """The paths of modules and tensors that an attribute of their owner hides, or a dot in their name.

    A property that computes a tensor from the one that is held hides nothing from a trace.
    """
    return [
        f"{path}.{name}".lstrip(".")
        for path, owner in model.named_modules()
        for held in (owner._modules, owner._parameters, owner._buffers)
        for name, value in held.items()
        if value is not None and ("." in name or not name or not isinstance(getattr(owner, name, None), (nn.Module, Tensor)))
    ]


def _why_static(model: nn.Module, example: ExampleInputs, free: Dimensions) -> str:
    """torch's explanation of why sizes cannot be symbolic, which it gives only if that is demanded."""
    try:
        _export(model, example, dynamic_shapes(model, example, free, Dim.DYNAMIC))
    except CaptureError as error:
        return _first_sentence(error.__cause__)
    return "the model uses it as a constant"


def _first_sentence(error: BaseException | None) -> str:
    """The explanation in torch's long messages: the first item of its list of reasons, or else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (
        next((line for line in lines if line.startswith("- ")), lines[0])
        .removeprefix("- ")
        .partition(". ")[0][:300]
        .rstrip(".")
    )


def _user_line(error: BaseException | None) -> str:
    """The innermost line outside torch and this package in the tracebacks behind `error`."""
    while error is not None:
        traceback, found = error.__traceback__, None
        while traceback is not None:
            if is_users(traceback.tb_frame):
                found = quoted(traceback.tb_frame, traceback.tb_lineno)
            traceback = traceback.tb_next
        if found:
            return found
        error = error.__cause__ or error.__context__
    return "no source recorded"
