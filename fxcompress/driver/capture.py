"""A model captured and compared with itself: as a whole, or its largest submodules that can be."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.capture import (
    Modes,
    PartialCapture,
    calls_outside,
    capture,
    capture_submodules,
    does_not_run,
    forgetting,
    in_precision_of,
    plain_kernels,
    reason_of,
    twin_of,
    unwritten,
    widen,
)
from fxcompress.data.batch import Batch
from fxcompress.data.convention import in_order
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.effect import ROUNDING_DECIBELS
from fxcompress.driver.sizes import weight_bytes
from fxcompress.driver.training_agreement import differs_in_training
from fxcompress.errors import BranchWarning, CaptureError, PartialCaptureWarning, warn_user
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.execution.last_bits import decided_by_last_bits
from fxcompress.ir.place import place_parts
from fxcompress.report.rows import Row

VERIFIED_SAMPLES = 2
"""Samples of the example batch that verification runs on: more cost time and show no more."""

_LEAST_DECIBELS = {torch.float16: 40.0, torch.bfloat16: 20.0}
"""How well a graph in float32 agrees with a model in half precision, at least, whose every operation rounds (66 and 48 dB)."""


@dataclass(frozen=True)
class Captured:
    """A captured graph, the inputs to verify it with, and its row of the report."""

    graph_module: fx.GraphModule
    example: ExampleInputs
    row: Row


def capture_verified(
    model: Any,
    example: ExampleInputs,
    *,
    dynamic_shapes: Any = None,
    check: bool = True,
    modes: Modes | None = None,
    half_weights: bool = False,
) -> Captured:
    """`model` as a graph that takes `example`, compared with the model where `check` is set.

    A model in one precision is given inputs of another in its own. Inputs by name are in the order of forward's parameters.
    Large weights in half precision are left so where `half_weights` is set, and are float32 otherwise.

    Raises:
        CaptureError: it cannot be traced, or the graph computes something else.
        InputError: a weight is empty or not finite.
    """
    started = time.perf_counter()
    traced_on = example = in_order(model, example)
    try:
        graph_module = capture(model, example, dynamic_shapes=dynamic_shapes, modes=modes)
    except CaptureError:
        converted = in_precision_of(model, example) if isinstance(model, nn.Module) else None
        if converted is None:
            raise
        traced_on = converted
        graph_module = capture(model, converted, dynamic_shapes=dynamic_shapes, given=example, modes=modes)
    if not half_weights:
        widen(graph_module)
    seconds, batch = time.perf_counter() - started, Batch.of(graph_module.graph)
    small, decibels = batch.first(example, VERIFIED_SAMPLES), None
    if check and isinstance(model, nn.Module):
        given = batch.first(traced_on, VERIFIED_SAMPLES)
        decibels = _agreement(graph_module, small, model, given)
        _tell_of_training(graph_module, small, model, given)
    size = len(graph_module.graph.nodes)
    notes = tuple(graph_module.meta.get("capture_notes", ()))
    weights = weight_bytes(graph_module)
    for answer in graph_module.meta["decided"]:
        warn_user(f"{answer}; compile it once for each answer that is needed", BranchWarning)
    row = Row("Capture", "exact", size, size, 0, weights, decibels, seconds * 1e3, notes)
    return Captured(graph_module, small, row)


def capture_parts(
    model: nn.Module,
    example: ExampleInputs,
    names: Sequence[str] | None,
    whole: CaptureError | None,
    *,
    dynamic_shapes: Any,
    check: bool,
    half_weights: bool = False,
) -> tuple[dict[str, Captured], PartialCapture]:
    """The submodules `names`, or the largest ones that can be captured where the `whole` cannot; that is warned of.

    `dynamic_shapes` are as of `capture`; those for torch.export are of the whole, and say nothing of parts. `half_weights` are
    as of `capture_verified`.

    Raises:
        CaptureError: none can, or the model does not run.
        ScopeError: `names` names no submodule.
    """
    parts: dict[fx.GraphModule, Captured] = {}
    shapes = dynamic_shapes if isinstance(dynamic_shapes, str) else None

    def capture_one(module: nn.Module, inputs: ExampleInputs, modes: Modes) -> fx.GraphModule:
        done = capture_verified(module, inputs, dynamic_shapes=shapes, check=check, modes=modes, half_weights=half_weights)
        parts[done.graph_module] = done
        return done.graph_module

    why = reason_of(whole) if whole else ""
    found = capture_submodules(model, example, names, capture=capture_one, why=why, several_sizes=shapes == "auto")
    if not found.graphs:
        assert whole is not None
        raise whole
    graphs = {path: graph_module.graph for path, graph_module in found.graphs.items()}
    place_parts(model, graphs, calls_outside(model, example, graphs))
    if whole:
        warn_user(_told(model, whole, found), PartialCaptureWarning)
    return {path: parts[graph_module] for path, graph_module in found.graphs.items()}, found


def _told(model: nn.Module, whole: CaptureError, found: PartialCapture) -> str:
    reason = reason_of(whole)
    count = len(found.graphs)
    parts = f"{count} parts of it are" if count > 1 else f"only its part {next(iter(found.graphs))!r} is"
    remedy = "print(compiled) lists the parts; submodules=[...] names others"
    if getattr(getattr(model, "config", None), "use_cache", False) and "not a known type" in reason:
        remedy = "it returns a cache, which a graph cannot: set model.config.use_cache = False to compile it as a whole"
    return f"{type(model).__name__} cannot be captured as a whole, so {parts} compiled: {reason}. {remedy}"


def _agreement(graph_module: fx.GraphModule, example: ExampleInputs, model: nn.Module, given: ExampleInputs) -> float:
    """How well the graph on `example` agrees with `model` on `given`, the same inputs in its precision, in dB.

    Raises:
        CaptureError: worse than rounding explains.
    """
    reference = _reference(model, given, graph_module.meta.get("never_in_inference", ()))
    computed = outputs(graph_module, example)
    if len(computed) == len(reference):
        reference = [
            r.to(c.dtype) if isinstance(r, Tensor) and isinstance(c, Tensor) and r.is_floating_point() else r
            for r, c in zip(reference, computed)
        ]
    decibels = agreement(reference, computed)
    least = _LEAST_DECIBELS.get(graph_module.meta.get("precision", torch.float32), ROUNDING_DECIBELS)
    if decibels < least and not _is_rounding_alone(graph_module, example, reference, computed):
        raise CaptureError(
            f"the captured graph agrees with the model to {decibels:.1f} dB only; does its forward depend on randomness, "
            "on state that it changes, or on the values of its inputs? Such a part must stay outside the compiled submodule"
        )
    return decibels


def _is_rounding_alone(
    graph_module: fx.GraphModule, example: ExampleInputs, reference: Sequence[Any], computed: Sequence[Any]
) -> bool:
    """Whether `computed`, which the graph gives twice, is as near to `reference` as to itself with other last bits."""
    same = agreement(computed, outputs(graph_module, example)) == math.inf
    return same and decided_by_last_bits(graph_module, example, computed, reference)


def _tell_of_training(graph_module: fx.GraphModule, example: ExampleInputs, model: nn.Module, given: ExampleInputs) -> None:
    """Look at training where the model does something else there, and nothing of it is known to be lost."""
    trained_in = graph_module.meta.pop("trained_in", None)
    if trained_in is None or graph_module.meta.get("lost_in_training"):
        return
    told = differs_in_training(graph_module, example, model, given, trained_in)
    if told:
        graph_module.meta["lost_in_training"] = (told,)
        graph_module.meta["capture_notes"].append(told)


def _reference(model: nn.Module, example: ExampleInputs, staying: Collection[str]) -> list[Any]:
    """The model's own outputs in inference mode, with the kernels that were traced; all of it is put back.

    `staying` are the paths of modules that its ``eval()`` leaves in training. The modes of a model that is in others are not
    touched, since another thread may be training it: its twin runs.
    """
    if any(module.training != (path in staying) for path, module in model.named_modules()):
        model = twin_of(model)
        for path, module in model.named_modules():
            module.training = path in staying
    try:
        with plain_kernels(), forgetting(model), unwritten(model):
            return outputs(model, example)
    except Exception as error:
        raise does_not_run(model, example, error) from error
