"""A twin of a quantized model whose weights and ranges are trained until its outputs are the float model's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.data.samples import in_chunks
from fxcompress.execution.gradients import Differentiable
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.precision import FLOAT32
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import attribute, insert_constant, name_of, owner_of
from fxcompress.ir.modes import inference_twin
from fxcompress.ir.reach import reached
from fxcompress.masks.mask import masked, source_constant
from fxcompress.quantization.matrix_layers import MatrixLayer
from fxcompress.quantization.patches import weight_rows
from fxcompress.quantization.quantized import quantizer_calls, quantizer_of, serves_weight
from fxcompress.quantizers.trainable import TrainableQuantizer

LOOK_UP = resolve("embedding")

WARM_UP = 0.1
"""The share of training over which the learning rate grows."""

INSIDE = 0.49
"""Steps around an integer that are rounded to it, in float32 too."""


class Student:
    """A twin of `quantized`, in inference mode, with constants and ranges of its own, which are trained.

    Constants are the model's parameters, frozen or not, but for tables that are looked up in: samples show few of their rows.
    A weight that is zero stays zero. One of a layer is where the float model's is, as far as it rounds to the same integer from
    there: so it is near the border to the next integer where it may well cross it. Ranges are those of all quantizers but the
    ones of what the model is given.

    Attributes:
        twin: the model, to be run and measured.
        constants, ranges: what is trained, by the name of the tensor and of the quantizer.
    """

    def __init__(self, quantized: fx.GraphModule, layers: Sequence[MatrixLayer] = ()):
        self.quantized, self.twin = quantized, inference_twin(quantized)
        self.constants: dict[str, nn.Parameter] = {}
        self.ranges: dict[str, TrainableQuantizer] = {}
        for node in self.twin.graph.find_nodes(op="get_attr"):
            held = attribute(self.twin, str(node.target))
            if isinstance(held, nn.Parameter) and held.is_floating_point() and not _is_looked_up(node):
                self.constants[str(node.target)] = self._own(str(node.target), held)
        for layer in layers:
            held = self.constants.get(str(source_constant(layer.node.args[1]).target))
            if held is not None:
                held.data.copy_(_within_the_same_step(layer))
        for call, quantizer in quantizer_calls(self.twin).items():
            if quantizer.ready and quantizer.enabled and call.args[0].op != "placeholder":
                target = str(call.target)
                self.ranges.setdefault(target, TrainableQuantizer(quantizer))
                setattr(owner_of(self.twin, target), target.rpartition(".")[2], self.ranges[target])
        self.zeros = {name: held.detach() == 0 for name, held in self.constants.items() if held.dim() > 1}

    def _own(self, target: str, held: nn.Parameter) -> nn.Parameter:
        owner, leaf = owner_of(self.twin, target), target.rpartition(".")[2]
        setattr(owner, leaf, nn.Parameter(held.detach().clone()))
        return getattr(owner, leaf)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """What an optimizer takes: each tensor with a learning rate by which a step moves what it makes by about such a share.

        That is this share of the tensor's mean size, over the root of how many products are added up.
        """
        trained = [held for held in self._trained() if held.numel()]
        sizes = [held.detach().abs().mean().item() for held in trained]
        terms = [held[0].numel() if held.dim() > 1 else 1 for held in trained]
        return [{"params": [held], "lr": rate * size / count**0.5} for held, size, count in zip(trained, sizes, terms)]

    def loss(self, teacher: fx.GraphModule, leaves: Leaves) -> Tensor:
        """The energy of the difference of the outputs over that of the teacher's, added up over outputs of floats."""
        with torch.no_grad():
            wanted = _outputs(Execution(teacher, leaves))
        found = _outputs(_Attached(self.twin, leaves, Differentiable(FLOAT32)))
        return sum((_error(*pair) for pair in zip(wanted, found, strict=True)), torch.zeros(()))

    @torch.no_grad()
    def keep_zeros(self) -> None:
        """Put back the zeros of weights, to be called when all has been moved."""
        for name, zeros in self.zeros.items():
            self.constants[name].masked_fill_(zeros, 0.0)

    def state(self) -> list[Tensor]:
        """What is trained, as it stands."""
        return [held.detach().clone() for held in self._trained()]

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        for held, value in zip(self._trained(), state, strict=True):
            held.copy_(value)

    def _trained(self) -> Iterator[nn.Parameter]:
        yield from self.constants.values()
        for one in self.ranges.values():
            yield from one.parameters()

    @torch.no_grad()
    def teach(self, created_by: str) -> list[fx.Node]:
        """Give the quantized model the constants and ranges; the constants that were put in place of others."""
        made: dict[str, fx.Node] = {}
        for node in self.quantized.graph.find_nodes(op="get_attr"):
            target = str(node.target)
            if target in self.constants:
                if target not in made:
                    name, value = f"{name_of(node)}_tuned", self.constants[target]
                    made[target] = insert_constant(
                        self.quantized, name, value, before=node.next, created_by=created_by, replaces=node
                    )
                node.replace_all_uses_with(made[target], propagate_meta=False)
        for call in quantizer_calls(self.quantized):
            if trained := self.ranges.get(str(call.target)):
                quantizer = quantizer_of(self.quantized, call)
                assert quantizer is not None
                quantizer.set_grid(trained.scale, trained.zero_point, trained.signed)
                if serves_weight(call):
                    quantizer.spread(masked(self.quantized, call.args[0]))
        return list(made.values())


class _Attached(Execution):
    """An execution whose constants take part in autograd."""

    def value(self, node: fx.Node) -> Any:
        return attribute(self.graph_module, str(node.target)) if node.op == "get_attr" else super().value(node)


def train(
    student: Student,
    teacher: fx.GraphModule,
    pieces: Sequence[Leaves],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Iterator[float]:
    """Train `student` with Adam on shuffled `pieces`, single samples where they can be told apart; the loss of each epoch.

    The learning rate grows over the first tenth and falls along half a cosine. Nothing is drawn but the order, from a seed.
    """
    batch, random = Batch.of(teacher.graph), torch.Generator().manual_seed(0)
    groups = student.groups(learning_rate)
    optimizer, first = torch.optim.Adam(groups, eps=1e-12), [group["lr"] for group in groups]
    seen, total = 0, epochs * sum(map(batch.count, pieces))
    for _ in range(epochs):
        losses = []
        order = torch.randperm(len(pieces), generator=random).tolist()
        for leaves, count in in_chunks(batch, (pieces[place] for place in order), batch_size):
            for group, rate in zip(optimizer.param_groups, first):
                group["lr"] = rate * min(1.0, (seen + count) / (WARM_UP * total)) * 0.5 * (1 + math.cos(math.pi * seen / total))
            optimizer.zero_grad()
            loss = student.loss(teacher, leaves)
            if loss.requires_grad and loss.isfinite():
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                student.keep_zeros()
            losses.append(loss.item())
            seen += count
        yield sum(losses) / len(losses)


def _within_the_same_step(layer: MatrixLayer) -> Tensor:
    """The float weight of `layer`, moved as little as it takes to be rounded to the present integers."""
    scale, zero_point = layer.grid
    present = (layer.integers - zero_point) * scale
    float_rows = weight_rows(layer.node, layer.weight)
    nearest = float_rows.clamp(present - INSIDE * scale, present + INSIDE * scale)
    lowest, highest = ((level - zero_point) * scale for level in layer.quantizer.levels)
    beyond = ((present <= lowest) & (float_rows < present)) | ((present >= highest) & (float_rows > present))
    return torch.where(beyond, present, nearest).reshape(layer.weight.shape)


def _outputs(execution: Execution) -> list[Tensor]:
    """The floating-point outputs."""
    output = execution.graph_module.graph.output_node()
    execution.advance(output)
    leaves = pytree.tree_leaves(fx.map_arg(output.args, execution.value))
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def _error(wanted: Tensor, found: Tensor) -> Tensor:
    """The energy of the difference, where both are finite, over that of `wanted`."""
    both = wanted.isfinite() & found.isfinite()
    wanted, found = (torch.where(both, x, 0.0).float() for x in (wanted, found))
    return (found - wanted).square().sum() / wanted.square().sum().clamp(min=1e-30)


def _is_looked_up(node: fx.Node) -> bool:
    """Whether rows of the constant `node`, maybe masked and quantized, are looked up."""
    stages = reached([node], lambda one: (reader for reader in one.users if reader.op == "call_module"))
    return any(reader.target is LOOK_UP for one in stages for reader in one.users)
