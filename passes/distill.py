"""Let the model, as it was, teach the compressed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError
from fxcompress.ir.edit import add_attribute
from fxcompress.rewrite.rule import Replacement
from fxcompress.training.distillation import (
    DistillationController,
    Teacher,
    frozen,
    is_floating,
    mean_squared_error,
    softened_cross_entropy,
)


@dataclass(frozen=True, kw_only=True)
class Distill(Pass):
    """Keep the model as it was captured, and give its distance from the compressed one as a training loss.

    Wherever it is listed, the teacher is the model before the first pass, in inference mode. It is no part of the compiled
    model's parameters or state, and moves with it. `controller.loss()` is of the last forward pass in training mode.

    Args:
        loss: of an output: ``"mse"``, the mean squared error, or ``"softmax"``, the cross entropy of class scores
            (`fxcompress.training.distillation.softened_cross_entropy`). All floating-point outputs are summed up.
        temperature: for ``"softmax"``: scores are divided by it first. The loss grows with its square, which keeps the
            gradients as large.
        scale: the weight of this loss beside others.
        axis: for ``"softmax"``: the axis of the classes.

    Raises:
        InputError: an option cannot be used, or the model has no output to compare.
    """

    loss: Literal["mse", "softmax"] = "mse"
    temperature: Annotated[float, Gt(0)] = 1.0
    scale: Annotated[float, Gt(0)] = 1.0
    axis: int = 1

    effect: ClassVar[Effect] = Effect.EXACT

    def __post_init__(self) -> None:
        if self.loss == "mse" and (self.temperature, self.axis) != (1.0, 1):
            raise InputError("temperature and axis are of Distill(loss='softmax'); leave them out with loss='mse'")

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.original is not None
        outputs = _floating_outputs(graph_module.graph)
        if not outputs:
            raise InputError("Distill compares floating-point outputs, and the model has none; leave the pass out")
        if self.loss == "softmax":
            for value in outputs:
                if not -value.dim() <= self.axis < value.dim():
                    raise InputError(
                        f"Distill(loss='softmax', axis={self.axis}) meets an output of {value.dim()} dimensions; "
                        "say which axis has the classes, or take loss='mse'"
                    )
        if _teacher(graph_module) is None:
            add_attribute(graph_module, "teacher", Teacher(frozen(graph_module, context.original)))
        return []

    def controller(self, graph_module: fx.GraphModule) -> DistillationController:
        teacher = _teacher(graph_module)
        assert teacher is not None
        criterion = mean_squared_error if self.loss == "mse" else softened_cross_entropy(self.temperature, self.axis)
        return DistillationController(graph_module, teacher, criterion, self.scale)


def _teacher(graph_module: fx.GraphModule) -> Teacher | None:
    return next((module for module in graph_module.children() if isinstance(module, Teacher)), None)


def _floating_outputs(graph: fx.Graph) -> list[Any]:
    values = [node.meta.get("val") for node in pytree.tree_leaves(graph.output_node().args) if isinstance(node, fx.Node)]
    return [value for value in values if is_floating(value)]
