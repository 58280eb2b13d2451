"""Tracing with torch.export: a symbolic batch, and errors that name the user's line."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.export import Dim, ExportedProgram, export
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.nn.modules.batchnorm import _BatchNorm

from fxcompress.capture.autocasts import without_autocast
from fxcompress.capture.cross_map import cross_map_norms_as_operations
from fxcompress.capture.decided import Decided, Decisions, decisions
from fxcompress.capture.emptiness import SomethingFound
from fxcompress.capture.forward_contexts import while_it_runs
from fxcompress.capture.free_sizes import Dimensions, Ties, are_free, dynamic_shapes, tied, widened
from fxcompress.capture.gradients import data_as_detached, inference_as_no_grad, own_backwards
from fxcompress.capture.idle_dropouts import distinct_dropouts
from fxcompress.capture.lines import is_users, quoted
from fxcompress.capture.loops import LoopsOverSteps
from fxcompress.capture.memory import forgetting, remember_others
from fxcompress.capture.mode_reads import ModeReads, mode_reads
from fxcompress.capture.selected import LoopsOverAllPlaces
from fxcompress.capture.sizes_in_tensors import SizesInTensors
from fxcompress.capture.steps import LoopError
from fxcompress.capture.suppression import suppression_of_any_number
from fxcompress.capture.tolerated import idle_calls, symbolic_lengths
from fxcompress.capture.traced_kernels import flexible_attention_written_out, scores_all_at_once, traced_by
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.returned import outputs_put_together
from fxcompress.errors import CaptureError, InputError
from fxcompress.ir.recurrent_shapes import RECURRENT_SHAPES


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
            f"forward of {type(model).__name__} takes {inspect.signature(model.forward)}, not {example!r}: {problem}"
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
    messages, looped, reads = io.StringIO(), LoopsOverAllPlaces(), ModeReads()
    found = SomethingFound()
    asked: list[Decided] = []
    loops: list[LoopsOverSteps] = []
    try:
        with (
            own_backwards() as told,
            data_as_detached(),
            inference_as_no_grad(),
            plain_kernels(),
            without_autocast() as cast,  # innermost, which is the one that notes
            forgetting(model),
            outputs_put_together(model),
            cross_map_norms_as_operations(),
            distinct_dropouts(),
            suppression_of_any_number(),
            idle_calls(),
            scores_all_at_once(),
            _use_lazy_graph_module(True),  # the code of a program is never run, and written anew by every step of torch's
            contextlib.redirect_stderr(messages),
            warnings.catch_warnings(),
        ):
            # Of nn.LSTM, which reassigns its list of weights; they stay where they are.
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")

            def one() -> ExportedProgram:
                asked.append(Decided(answers or {}))
                loops.append(LoopsOverSteps())
                contexts = (
                    lambda: mode_reads(model, reads),
                    lambda: contextlib.nullcontext() if answers is None else found,
                    lambda: looped,
                    lambda: asked[-1],
                    SizesInTensors,
                    symbolic_lengths,
                    lambda: loops[-1],
                )
                with while_it_runs(model, *contexts):
                    return export(model, example.args, example.kwargs, dynamic_shapes=dynamic_shapes, strict=False)

            try:
                program = one()
            except RuntimeError as error:
                if "modified inplace" not in str(error):
                    raise
                with torch.no_grad():  # only there may the parts of a split be changed in place
                    program = one()
            meta = {
                "own_backwards": tuple(told),
                "left_out": (*looped.told, *cast),
                "decided": asked[-1].told,
                "found": tuple(found.told),
                "mode_reads": reads,
            }
            program.graph_module.meta |= meta
            return program
    except Exception as error:
        hidden = _hidden_names(model)
        if hidden:
            raise CaptureError(
                f"{type(model).__name__} cannot be traced: torch cannot find {', '.join(map(repr, hidden))}, whose names have "
                "a dot in them or are those of attributes that every module has; rename them"
            ) from error
        graph_so_far = getattr(error, "partial_fx_graph", None)
        messages = io.StringIO(messages.getvalue().replace(f"{graph_so_far}\n", ""))
        if any(one.met for one in loops) and "data-dependent" not in str(error):
            raise LoopError(f"a loop cannot be of any number of steps: {stopped_by(error)}") from error
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {stopped_by(error)}. Check that the example inputs {example!r} "
            "are what forward takes; where a part of the model cannot be traced, name those that can: "
            'submodules=["backbone"]'
        ) from error
    finally:
        sys.stderr.write(messages.getvalue())


def _hidden_names(model: nn.Module) -> list[str]:
    """The paths of modules and tensors that an attribute of their owner hides, or a dot in their name."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, owner in model.named_modules()
        for held in (owner._modules, owner._parameters, owner._buffers)
        for name, value in held.items()
        if value is not None and ("." in name or not name or getattr(owner, name, None) is not value)
    ]


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Without autocast, what `torch.compile` made, and the fused kernels of encoder layers, which hide their operations.

    What was compiled reads memory, which fake tensors do not have. Of calls on those that fail, torch prints the traceback as
    well as it raises the error, which is told in its place.
    """
    enabled, log = torch.backends.mha.get_fastpath_enabled(), logging.getLogger(fake_tensor.__name__)
    torch.backends.mha.set_fastpath_enabled(False)
    log.addFilter(_no_record)
    try:
        eager = torch.compiler.set_stance("force_eager")
        with traced_by(RECURRENT_SHAPES), flexible_attention_written_out(), without_autocast(), eager:
            yield
    finally:
        log.removeFilter(_no_record)
        torch.backends.mha.set_fastpath_enabled(enabled)


def _no_record(record: logging.LogRecord) -> bool:
    return record.exc_info is None


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
