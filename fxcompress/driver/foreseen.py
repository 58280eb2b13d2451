"""Changes that are to make the work of a later pass, which quantizes, easier, judged by what that pass would make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from fxcompress.data.batch import Leaves
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import ScopeError
from fxcompress.ir.dialect import copy_graph
from fxcompress.quantization.acceptance import TRIALS, KindAt, judged
from fxcompress.quantization.extremes import Known, set_extremes


def kept_ahead(
    changes: Sequence[KindAt],
    graph_module: fx.GraphModule,
    context: Context,
    choosing: Sequence[Leaves],
    others: Sequence[Leaves],
    *,
    present: Callable[[], fx.GraphModule] | None = None,
    activations: bool = True,
    in_place: bool = False,
) -> list[KindAt]:
    """Undo those of `changes` to the float model that do not lower the quantized model's error at the outputs, on `others`.

    For every measurement a copy is quantized by the next pass in the list that does so, the ranges of its activations from the
    lowest to the highest value in `choosing`: a range that is wide enough for these may cut off others, the more channels
    reach its ends. Where none is listed, or one that asks for data, nothing is undone.

    Args:
        present: gives the model with the changes that are made at the time; None where that is `graph_module` itself.
        activations: quantize them too; not for changes that leave their rounding as it is.
        in_place: the changes alter what the nodes compute whose arguments they change, and nothing else: what is known of the
            other values is not computed for every measurement.
    """
    one = _quantizing(context.coming)
    if one is None or not changes:
        return list(changes)
    known: Known | None = {} if in_place else None

    def quantized() -> fx.GraphModule:
        made = graph_module if present is None else present()
        graph = copy_graph(made.graph)
        graph.eliminate_dead_code()
        twin = fx.GraphModule(made, graph)
        one.run(twin, Context(context.example, context.target, pass_name=one.name))
        if activations:
            set_extremes(twin, choosing, known)
        return twin

    try:
        return judged(changes, quantized, graph_module, others, notes=context.notes, trials=TRIALS)
    except ScopeError:  # of a name that is yet to come, or of none: the pass itself will tell
        for change in changes:
            change.make()
        return list(changes)


def _quantizing(coming: Sequence[Pass]) -> Pass | None:
    found = next((one for one in coming if "quantized" in one.gives), None)
    return None if found is None or found.reads_data else found
