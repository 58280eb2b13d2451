"""Give each weight the bits that it deserves: mixed precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from fxcompress.data.batch import leading_size
from fxcompress.data.inputs import ExampleInputs, describe_value
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.errors import InputError, apart
from fxcompress.ir.constants import fold_computed
from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.edit import attribute
from fxcompress.masks.mask import constant_behind, masked
from fxcompress.quantization.allocation import allocate
from fxcompress.quantization.hessian import mean_traces
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantization.weights import fit
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.rewrite.rule import Replacement
from fxcompress.targets.table import Target

SEED = 0


@dataclass(frozen=True, kw_only=True)
class ChooseBits(Pass):
    """Give fewer bits to the weights where the loss feels it least, until they are small enough.

    HAWQ-V2 (Dong et al., arXiv 1911.03852, section 3): a weight W at so many bits costs ``trace * |Q(W) - W|^2``, where the
    trace is the mean of the diagonal of the loss's Hessian. Of all choices that keep the size, the one with the least sum is
    taken, and of several the one with most bits (`fxcompress.quantization.allocation`).

    Args:
        loss: called as ``loss(model, batch)``, with a batch as the data yields it: the training loss, a scalar. It is needed;
            a file cannot hold it, so that `Config.given` gives it to passes from files.
        ratio: how many times smaller the weights are to be in a file than at 8 bits.
        bits: to choose from.
        samples: of the data, at most so many, in whole batches.
        draws: random vectors a batch, for the estimate of the traces.

    Raises:
        InputError: an option cannot be used, there is no data, the loss is not finite, or no choice is small enough.
    """

    loss: Callable[[nn.Module, Any], Tensor] | None = None
    ratio: Annotated[float, Ge(1)] = 1.5
    bits: Annotated[Sequence[Annotated[int, Ge(2), Le(8)]], MinLen(1)] = (4, 8)
    samples: Annotated[int, Ge(1)] = 100
    draws: Annotated[int, Ge(1)] = 10

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        calls = {call: found for call, found in quantizer_calls(graph_module).items() if serves_weight(call)}
        if not calls:
            return []
        traces = self._traces(graph_module, list(calls), context)
        values = [masked(graph_module, call.args[0]) for call in calls]
        candidates = [[_with_bits(q, w, bits, context.target) for bits in self.bits] for q, w in zip(calls.values(), values)]
        losses = [
            [float(trace.clamp(min=0) * (candidate(weight) - weight).double().square().sum()) for candidate in of_weight]
            for trace, weight, of_weight in zip(traces, values, candidates)
        ]
        costs = [[int(2 * q.bytes_per_weight * w.numel()) for q in of_weight] for w, of_weight in zip(values, candidates)]
        whole = sum(2 * weight.numel() for weight in values)  # in halves of a byte
        merits = [[float(bits * weight.numel()) for bits in self.bits] for weight in values]
        chosen = allocate(costs, losses, int(whole / self.ratio), merits)
        if chosen is None:
            smallest, asked = apart(whole / sum(map(min, costs)), self.ratio)
            raise InputError(f"with bits={tuple(self.bits)} weights are at most {smallest} times smaller, not {asked}")
        for call, of_weight, choice in zip(calls, candidates, chosen):
            owner, _, leaf = str(call.target).rpartition(".")
            setattr(graph_module.get_submodule(owner), leaf, of_weight[choice])
        counts = sorted(Counter(self.bits[choice] for choice in chosen).items())
        reached = whole / sum(cost[choice] for cost, choice in zip(costs, chosen))
        told = ", ".join(f"{count} of {bits} bits" for bits, count in counts)
        context.notes.append(f"weights: {told}; {reached:.2f} times smaller than at 8 bits")
        for bits in sorted({self.bits[choice] for choice in chosen})[:-1]:
            names = [str(call.args[0]) for call, choice in zip(calls, chosen) if self.bits[choice] == bits]
            context.notes.append(f"of {bits} bits: {', '.join(names)}")
        return [Replacement.at(call) for call in calls]

    def _traces(self, graph_module: fx.GraphModule, calls: list[fx.Node], context: Context) -> Tensor:
        """The mean trace of each weight, ``[calls]``, of the model without quantizers."""
        if self.loss is None:
            raise InputError("ChooseBits needs a loss: ChooseBits(loss=function), or config.given(loss=function)")
        if context.data is None:
            raise InputError("ChooseBits needs data: compile(model, data=loader), any iterable of batches that the loss takes")
        graph_module = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
        fold_computed(graph_module, self.name)  # what is asked for is the curvature along the weights themselves
        twins = {node.name: node for node in graph_module.graph.nodes}
        constants = [constant_behind(graph_module, twins[call.name].args[0]) for call in calls]
        names = [str(constant.target) for constant in constants if constant is not None]
        weights = {name: attribute(graph_module, name) for name in names}
        total, seen = torch.zeros(len(weights), dtype=torch.float64), 0
        random = torch.Generator().manual_seed(SEED)
        with _in_float(graph_module, list(weights.values())):
            for batch in context.data:
                leaves = [leaf for _, leaf in batch.leaves()] if isinstance(batch, ExampleInputs) else pytree.tree_leaves(batch)
                count = leading_size(leaves) or 1
                loss = self.loss(graph_module, batch)
                _check_loss(loss)
                with _twice_differentiable():
                    total += count * mean_traces(loss, list(weights.values()), self.draws, random)
                seen += count
                context.progress("estimating traces", seen, self.samples)
                if seen >= self.samples:
                    break
        if not seen:
            raise InputError("the data is empty: give at least one batch")
        by_name = dict(zip(weights, total / seen))
        return torch.stack([by_name[name] for name in names])


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.isfinite():
        shown = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else describe_value(loss)
        raise InputError(f"the loss must be one finite number a batch, a tensor, not {shown}")
    if not loss.requires_grad:
        raise InputError("the loss has no gradient: compute it from the model's outputs, and neither detach nor convert it")


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Where an operation has no second derivative, say so and what else there is."""
    try:
        yield
    except RuntimeError as problem:
        if "derivative" not in str(problem) and "differentiate" not in str(problem):
            raise
        reason = str(problem).splitlines()[0].rstrip(".")
        raise InputError(
            f"the loss cannot be differentiated twice ({reason}); choose the bits by hand with the overrides of Quantize, or "
            "let RestorePrecision(bits=8, max_size=...) choose them without a loss"
        ) from problem


def _with_bits(quantizer: Quantizer, weight: Tensor, bits: int, target: Target) -> Quantizer:
    """A quantizer like this one, with another number of bits, and the range of `weight` for them."""
    made = Quantizer(target.rebitted(quantizer.spec, bits), weight.shape, quantizer.estimator)
    fit(made, weight)
    return made


@contextmanager
def _in_float(graph_module: fx.GraphModule, weights: Sequence[Tensor]) -> Iterator[None]:
    """Without quantizers, and with gradients of `weights`."""
    quantizers = {quantizer: quantizer.enabled for quantizer in quantizer_calls(graph_module).values()}
    wanted = [weight.requires_grad for weight in weights]
    try:
        for quantizer in quantizers:
            quantizer.enabled = False
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # an attention that can be differentiated twice
            yield
    finally:
        for quantizer, enabled in quantizers.items():
            quantizer.enabled = enabled
        for weight, one in zip(weights, wanted):
            weight.requires_grad_(one)
