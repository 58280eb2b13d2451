"""Distillation: the model as it was, beside the compressed one, and how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.errors import TrainingError
from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.edit import attribute
from fxcompress.training.controller import Controller
from fxcompress.training.models import CalledByName

Criterion = Callable[[Tensor, Tensor], Tensor]
"""A scalar from an output of the student and the same output of the teacher, both in float32 or wider."""


class Teacher(nn.Module):
    """A frozen model inside another one, which does not show: its tensors are in no parameters, buffers or state.

    It moves and changes its dtype as the model does that holds it, and is copied with it.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._held = (model.eval().requires_grad_(False),)  # in a tuple, where torch does not look for modules

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._held[0](*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Teacher:
        self._held[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def frozen(graph_module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """`graph`, which reads constants of `graph_module`, with copies of them."""
    constants = {str(node.target): attribute(graph_module, str(node.target)) for node in graph.find_nodes(op="get_attr")}
    copies = {path: value.detach().clone() if isinstance(value, Tensor) else value for path, value in constants.items()}
    return fx.GraphModule(copies, copy_graph(graph))


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the squared differences; what the teacher masked with an infinity counts as none."""
    said = teacher.isfinite()
    return torch.where(said, student - teacher, 0.0).square().sum() / said.sum().clamp(min=1)


def softened_cross_entropy(temperature: float, axis: int) -> Criterion:
    """``-temperature^2 sum(softmax(teacher / temperature) log_softmax(student / temperature))``, mean over all but `axis`.

    What is masked with minus infinity has no part in it: the limit of p log q where both go to 0 together is 0. Neither has a
    row of which nothing is left.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
    """

    def criterion(student: Tensor, teacher: Tensor) -> Tensor:
        nothing = teacher.isneginf().all(axis, keepdim=True)
        student, teacher = (torch.where(nothing, 0.0, logits) for logits in (student, teacher))
        wanted = torch.where(nothing, 0.0, (teacher / temperature).softmax(axis))
        logarithms = (student / temperature).log_softmax(axis)
        return -torch.where(wanted > 0, wanted * logarithms, 0.0).sum(axis).mean() * temperature**2

    return criterion


class DistillationController(Controller):
    """Compares every forward pass of `model` in training mode with the teacher's on the same inputs.

    The loss of a pass, and what autograd keeps for it, is held until the next pass begins.

    Args:
        model: what is trained.
        teacher: takes the same inputs, gives the same structure of outputs.
        criterion: of one output; the floating-point ones are summed up.
        scale: of the loss.
    """

    def __init__(self, model: nn.Module, teacher: Teacher, criterion: Criterion, scale: float = 1.0):
        super().__init__()
        self._loss: Tensor | None = None

        def forget(module: nn.Module, args: Any) -> None:
            self._loss = None

        def compare(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
            if module.training:
                if isinstance(module, CalledByName):
                    args, kwargs = module.as_known(args, kwargs)
                self._loss = scale * _total(criterion, outputs, teacher(*args, **kwargs))

        model.register_forward_pre_hook(forget)
        model.register_forward_hook(compare, with_kwargs=True)

    def loss(self) -> Tensor:
        """How far the outputs of the last forward pass are from the teacher's.

        Raises:
            TrainingError: the model has not run in training mode since, or its last pass was in inference mode.
        """
        if self._loss is None:
            raise TrainingError(
                "there is no forward pass to give the distillation loss of: get the controller with compiled.controller, "
                "then run the model in training mode, compiled.train() and compiled(x), and then ask for controller.loss()"
            )
        return self._loss


def _total(criterion: Criterion, students: Any, teachers: Any) -> Tensor:
    pairs = zip(pytree.tree_leaves(students), pytree.tree_leaves(teachers), strict=True)
    return sum(criterion(_wide(student), _wide(teacher)) for student, teacher in pairs if is_floating(student))


def is_floating(value: Any) -> bool:
    """Whether `value` is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def _wide(value: Tensor) -> Tensor:
    """`value` in float32 at least: a sum of squares in half precision is not worth much."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
