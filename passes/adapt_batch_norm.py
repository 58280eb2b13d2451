"""Let batch norms take their statistics from the model as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute
from fxcompress.ir.signature import argument
from fxcompress.rewrite.rule import Replacement
from fxcompress.training.batch_norm import take_statistics


@dataclass(frozen=True, kw_only=True)
class AdaptBatchNorm(Pass):
    """Let the batch norms take their running statistics from the data, and nothing else change.

    What was quantized or pruned shifts the values that they see. See `fxcompress.training.adapt_batch_norm`, which does it at
    any time later. `Distill` is to be listed before it, so that the teacher keeps its own statistics.

    Args:
        samples: at most so many, in whole batches; None for all of the data.

    Raises:
        CalibrationError: statistics would be NaN or infinite.
        InputError: there is no data, or a batch does not fit the model.
    """

    samples: Annotated[int, Ge(1)] | None = 2000

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        norms = graph_module.graph.find_nodes(op="call_function", target=resolve("batch_norm"))
        held = {argument(node, name) for node in norms for name in ("running_mean", "running_var")}
        for node in held - {None}:  # what earlier steps share stays as it was
            owner, _, name = str(node.target).rpartition(".")
            graph_module.get_submodule(owner)._buffers[name] = attribute(graph_module, str(node.target)).clone()
        assert context.data is not None
        seen = take_statistics(graph_module, context.example, context.data, self.samples, context.nonfinite, context.note)
        context.notes.append("no batch norm takes statistics" if seen is None else f"{seen} samples")
        return [Replacement.at(node) for node in norms] if seen else []
