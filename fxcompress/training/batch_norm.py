"""Statistics of batch norms: adapted to the compressed model, before it trains or without it, and frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch
from fxcompress.data.fitting import fitting
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.nonfinite import NonFinite
from fxcompress.errors import CalibrationError, InputError, describe
from fxcompress.ir import modes
from fxcompress.ir.edit import attribute
from fxcompress.options import check_arguments
from fxcompress.pattern.scopes import Scope, select
from fxcompress.training.models import CompiledModel

_UNFOLDED = "leave FoldBatchNorm() out of its passes"


@check_arguments("compiled", "frozen")
def freeze_batch_norm(compiled: CompiledModel, scopes: Iterable[Scope] = ("",), frozen: bool = True) -> list[str]:
    """Keep batch norms of a compiled model in inference mode in training, as ``module.eval()`` does in a loop over modules.

    A compiled model has no module a layer, so that such a loop finds nothing. The scale and the shift go on learning; their
    parameters have the names that they had, and can be frozen by ``requires_grad_(False)`` as ever. Not in a checkpoint.

    Args:
        compiled: a `Compiled` model, or what `fxcompress.compress` gives as ``compression.compiled``.
        scopes: of the batch norms (see `fxcompress.scopes.select`); all by default.
        frozen: False lets them train again, also those that the model itself had frozen.

    Returns:
        The names of the batch norms.

    Raises:
        ScopeError: a scope matches nothing.
        InputError: there is no batch norm among them.
    """
    everywhere = isinstance(scopes, (tuple, list)) and list(scopes) == [""]
    chosen = None if everywhere else select(compiled.graph, scopes)
    found = [node for node in modes.batch_norms(compiled.graph) if chosen is None or node in chosen]
    if not found:
        raise InputError(f"no batch norm of this model takes statistics there; {_UNFOLDED}")
    for node in found:
        node.meta["frozen"] = frozen
    compiled.recompile()
    return [node.name for node in found]


@check_arguments()
def adapt_batch_norm(compiled: CompiledModel, data: Iterable[Any], samples: Annotated[int, Ge(1)] | None = 2000) -> int:
    """Let the batch norms of a compiled model take their running statistics from `data`, and nothing else change.

    What was quantized or pruned shifts the values that batch norms see. Everything but the batch norms runs as in inference,
    and each batch counts with their momentum. The model's mode plays no part.

    Args:
        compiled: a `Compiled` model whose batch norms are not folded.
        data: batches as `compile` takes them.
        samples: at most so many, in whole batches; None for all of the data.

    Returns:
        How many samples were run.

    Raises:
        CalibrationError: statistics would be NaN or infinite; all are left as they were.
        InputError: the model has no such batch norm, `samples` is not positive, there is no data, or a batch does not fit.
    """
    nonfinite, graph_module = NonFinite(), cast(fx.GraphModule, compiled)
    with nonfinite.explaining():
        seen = take_statistics(graph_module, compiled.compilation.example, data, samples, nonfinite)
    if seen is None:
        frozen = modes.batch_norms(graph_module.graph)
        how = "they are frozen: call freeze_batch_norm(compiled, frozen=False) first" if frozen else _UNFOLDED
        raise InputError(f"no batch norm of this model takes statistics; {how}")
    return seen


def take_statistics(
    graph_module: fx.GraphModule,
    example: ExampleInputs,
    data: Iterable[Any],
    samples: int | None,
    nonfinite: NonFinite,
    note: Callable[[str], None] = lambda text: None,
) -> int | None:
    """As `adapt_batch_norm`, of a graph that takes inputs like `example`; None where it has no batch norm.

    `note` is told of NaN and infinity that `nonfinite` has not met before.

    Raises:
        CalibrationError: statistics would be NaN or infinite; all are left as they were.
        InputError: there is no data, or a batch does not fit.
    """
    twin, seen = modes.inference_twin(graph_module), 0
    if not modes.set_batch_norm_training(twin):
        return None
    norms, batch = modes.batch_norms(graph_module.graph), Batch.of(graph_module.graph)
    held = [attribute(graph_module, name) for node in norms for name in modes.statistics(node)]
    before = [one.clone() for one in held]
    with torch.no_grad():
        for inputs in fitting(data, example, graph_module.graph):
            leaves = pytree.tree_leaves((inputs.args, inputs.kwargs))
            for found in nonfinite.look(leaves, [name for name, _ in example.leaves()], batch, seen):
                note(found)
            twin(*inputs.args, **inputs.kwargs)
            seen += batch.count(leaves)
            for node in norms:
                if not all(attribute(graph_module, name).isfinite().all() for name in modes.statistics(node)):
                    for one, value in zip(held, before):
                        one.copy_(value)
                    problem = "would take statistics that are NaN or infinite; look for an overflow in front of it"
                    raise CalibrationError(f"{describe(node)} {problem}")
            if samples is not None and seen >= samples:
                break
    if not seen:
        raise InputError("the data is empty: give at least one batch")
    return seen
