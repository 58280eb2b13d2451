"""What the outputs owe to places of a graph: one backward pass tells it for all places at once.

The error of the outputs that a small error e of a value makes is ``|J e|^2``, with J the derivative of the outputs with respect
to the value. For a vector v of random signs, the mean of the squares of ``J^T v`` is the diagonal of ``J^T J``: so much one
element's error counts, where those of different elements are independent. (Hutchinson, "A stochastic estimator of the trace of
the influence matrix", Communications in Statistics 18, 1989; the Gauss-Newton matrix of the squared error.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch, Leaves
from fxcompress.execution.interpreter import Execution
from fxcompress.execution.precision import FLOAT32, Arithmetic
from fxcompress.ir.cost import value_bytes
from fxcompress.ir.dialect import resolve
from fxcompress.ir.signature import arguments

CHUNK = 8
"""Samples a backward pass, for which all values of the graph are in memory."""

MEMORY = 2**27
"""Bytes of these values, at most, about, where there are several samples."""

TINY = 1e-12

_CLAMP = resolve("clamp")


class Differentiable(Arithmetic):
    """The `given` arithmetic, but for calls whose derivative torch computes much more slowly than another's of the same kind.

    A clamp between two numbers is a hardtanh, whose derivative takes one pass over memory rather than five. A convolution in
    groups with a stride is float32: going back through it in bfloat16 takes forty times as long.
    """

    def __init__(self, given: Arithmetic):
        super().__init__([node for node in given.low if not _strides_in_groups(node)])

    def call(self, node: fx.Node, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        args, kwargs = self.arguments(node, target, args, kwargs)
        return (_clamped if target is _CLAMP else target)(*args, **kwargs)


def _clamped(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if x.is_floating_point() and all(isinstance(limit, int | float) for limit in (min, max)) and min < max:
        return torch.nn.functional.hardtanh(x, min, max)
    return torch.clamp(x, min, max)


def _strides_in_groups(node: fx.Node) -> bool:
    told = arguments(node)
    strides = told.get("stride", 1)
    return told.get("groups", 1) != 1 and any(step != 1 for step in (strides if isinstance(strides, Sequence) else [strides]))


def samples_a_pass(graph: fx.Graph, leaves: Leaves) -> int:
    """How many samples as large as those of `leaves` there is room for: from 1 to `CHUNK`."""
    size = value_bytes(graph, Batch.of(graph).cut(leaves, 0, 1))
    return max(1, min(CHUNK, MEMORY // max(size, 1)))


@dataclass
class RandomSigns:
    """The vectors that outputs are multiplied with: random signs, over the size of the output.

    So that an error counts by its share of the output, and each of several outputs as much as another. The size is the root of
    a sample's energy, in the mean of the first batch. Samples in the same order get the same signs, whatever their batches.
    """

    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    sizes: list[float] = field(default_factory=list)

    def __call__(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        if not self.sizes:
            self.sizes = [_energy(output) ** 0.5 for output in outputs]
        signs = [torch.randint(0, 2, x.shape, generator=self.random).mul_(2).sub_(1).to(x) for x in outputs]
        return [sign.div_(size) for sign, size in zip(signs, self.sizes, strict=True)]


def _energy(output: Tensor) -> float:
    """The sum of the squares of a sample's values, in the mean over the batch."""
    samples = output.shape[0] if output.dim() else 1
    return max(output.detach().float().square().sum().item() / max(samples, 1), TINY)


def output_gradients(
    graph_module: fx.GraphModule,
    places: Collection[fx.Node],
    leaves: Sequence[Any],
    vectors: Callable[[Sequence[Tensor]], list[Tensor]],
    arithmetic: Arithmetic = FLOAT32,
    before: Callable[[fx.Node, Execution], None] = lambda node, execution: None,
) -> Iterator[tuple[fx.Node, Tensor, Tensor | None]]:
    """Each of `places` that gets any values with them, and ``J^T v`` of them, for the samples of one batch.

    The gradient is None where none of the outputs has one, where an operation has no derivative, of what is computed from
    constants alone, and in inference mode, also where the model's tensors were made in it.

    Args:
        leaves: the flattened inputs.
        vectors: v, for all outputs of floats.
        before: called with each place before it runs.
    """
    made: dict[fx.Node, Tensor] = {}
    known: dict[fx.Node, Tensor] = {}
    leaves = [leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf for leaf in leaves]
    traceable = not any(held.is_inference() for held in (*graph_module.parameters(), *graph_module.buffers()))
    with torch.set_grad_enabled(traceable):
        execution = Execution(graph_module, leaves, arithmetic)
        *nodes, output = graph_module.graph.nodes
        for node in nodes:
            if node not in places:
                continue
            execution.advance(node)
            before(node, execution)
            execution.run(node)
            if node in execution.constants:
                known[node] = execution.value(node)
            else:
                made[node] = execution.separate(node)
        execution.advance(output)
        outputs = pytree.tree_leaves(fx.map_arg(output.args, execution.value))
        gradients = _gradients(outputs, list(made.values()), vectors)
    for node, value in known.items():
        yield node, value, None
    for (node, value), gradient in zip(made.items(), gradients):
        if value.numel():
            yield node, value.detach(), gradient


def _gradients(
    outputs: Sequence[Any], values: list[Tensor], vectors: Callable[[Sequence[Tensor]], list[Tensor]]
) -> Sequence[Tensor | None]:
    outputs = [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]
    found = [(output, vector) for output, vector in zip(outputs, vectors(outputs)) if output.requires_grad]
    if not found or torch.is_inference_mode_enabled():
        return [None] * len(values)
    try:
        differentiable, factors = zip(*found)
        return torch.autograd.grad(differentiable, values, factors, materialize_grads=True)
    except RuntimeError:  # an operation without a derivative, of which torch and libraries say so in words of their own
        return [None] * len(values)
