"""From an exported program to a module in the dialect: no in-place operations, no regions, one spelling an operation."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx
from torch.export import ExportedProgram

from fxcompress.capture.canonical import canonicalize, remove_unused
from fxcompress.capture.constants import fold_constants
from fxcompress.capture.functionalize import functionalize, kept_for_training, transform_of
from fxcompress.capture.gradients import keep_stops
from fxcompress.capture.idle_dropouts import put_back_dropouts
from fxcompress.capture.inline import inline_regions
from fxcompress.capture.numbers import freeze_numbers
from fxcompress.capture.rolled import has_loops, roll
from fxcompress.capture.safe_names import with_safe_names
from fxcompress.capture.strided import order_places
from fxcompress.capture.unlifting import unlifted
from fxcompress.errors import CaptureError
from fxcompress.ir.calls import record_calls
from fxcompress.ir.dialect import copying
from fxcompress.ir.fake import settle_sizes
from fxcompress.ir.output_layout import note_contiguous_outputs

ClassOf = Callable[[str], str | None]
"""The name of the class of the submodule at a path."""


def in_dialect(program: ExportedProgram, notes: list[str], class_of: ClassOf) -> tuple[fx.GraphModule, dict[str, str]]:
    """`program` as a module in the dialect, and its own names for what has others there."""
    program, own_names = with_safe_names(program)
    module = _functional(program, notes, class_of)
    note_contiguous_outputs(module.graph)
    keep_stops(module)
    order_places(module.graph)
    canonicalize(module.graph)
    module.meta["loops"] = has_loops(module.graph)
    if module.meta["loops"]:
        notes += [note for note in roll(module.graph) if note not in notes]
        remove_unused(module.graph)
    return module, own_names


def _functional(program: ExportedProgram, notes: list[str], class_of: ClassOf) -> fx.GraphModule:
    """`program` as a module without in-place operations, regions or constant computations."""
    reason = transform_of(program.graph)
    if reason is None:
        module = unlifted(program)
        reason = _make_functional(module, notes, class_of)
        if reason is None:
            return module
    try:
        with copying():
            module = unlifted(kept_for_training(program, notes).run_decompositions({}))
    except Exception as problem:
        first = str(problem).strip().partition("\n")[0].rstrip(".")
        told = f"{reason}; torch's own way fails as well, with {type(problem).__name__}: {first}"
        raise CaptureError(told) from problem
    put_back_dropouts(module.graph)
    reason = _make_functional(module, notes, class_of)
    if reason is not None:
        raise CaptureError(f"{reason}; write it without the underscore")
    return module


def _make_functional(module: fx.GraphModule, notes: list[str], class_of: ClassOf) -> str | None:
    """Rewrite `module`; the reason, where it still changes something in place."""
    settle_sizes(module.graph)
    record_calls(module.graph, class_of)
    inline_regions(module)
    freeze_numbers(module, notes)
    fold_constants(module)
    reason = functionalize(module.graph, notes)
    return None if reason is None else f"an in-place operation cannot be replaced: {reason}"
