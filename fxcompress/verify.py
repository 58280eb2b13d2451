"""Whether a pass kept its promise, and which of its rewrites did not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxcompress.dialect import copy_graph
from fxcompress.effect import Effect
from fxcompress.errors import VerificationError
from fxcompress.inputs import ExampleInputs
from fxcompress.rewrite import Replacement


@torch.no_grad()
def outputs(model: torch.nn.Module, example: ExampleInputs) -> list[Any]:
    """The outputs of `model` on a copy of `example`, flattened."""
    given = example.copy()
    return pytree.tree_leaves(model(*given.args, **given.kwargs))


def sqnr(reference: Tensor, other: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``10 log10(sum(reference^2) / sum((reference - other)^2))``.

    Infinite where all values are equal (NaN equals NaN), minus infinite where shape, dtype or a non-finite value differ.
    """
    if reference.shape != other.shape or reference.dtype != other.dtype:
        return float("-inf")
    same = (reference == other) | (reference.isnan() & other.isnan())
    if same.all():
        return float("inf")
    if not reference.dtype.is_floating_point:
        return float("-inf")
    exact, found = reference.detach().double(), other.detach().double()
    signal = exact[exact.isfinite()].square().sum()
    noise = (exact - found)[~same].square().sum()
    return (10 * torch.log10(signal / noise)).item() if noise.isfinite() else float("-inf")


def agreement(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The lowest `sqnr` over all outputs; minus infinity where their number or a non-tensor value differs."""
    if len(before) != len(after):
        return float("-inf")
    return min((_agreement(b, a) for b, a in zip(before, after)), default=float("inf"))


def _agreement(before: Any, after: Any) -> float:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return sqnr(before, after)
    return float("inf") if before == after else float("-inf")


class Verifier:
    """Compares a graph's outputs on the example inputs before and after each pass."""

    def __init__(self, graph_module: fx.GraphModule, example: ExampleInputs):
        self.graph_module, self.example = graph_module, example
        self.outputs = outputs(graph_module, example)
        self.snapshot = _Snapshot(graph_module)

    def check(
        self,
        name: str,
        effect: Effect,
        before: fx.Graph,
        rewritten: Sequence[Replacement],
        retry: Callable[..., Sequence[Replacement]],
    ) -> float:
        """The agreement in dB with the outputs before the pass called `name`.

        Args:
            before: the graph that the pass was given.
            rewritten: what it did.
            retry: runs the pass again, as ``retry(graph_module, limit=number of rewrites)``.

        Raises:
            VerificationError: the promise was broken.
        """
        snapshot = _Snapshot(self.graph_module)
        if not rewritten and snapshot.shows_what(self.snapshot):
            return float("inf")
        after = outputs(self.graph_module, self.example)
        decibels = agreement(self.outputs, after)
        if not effect.kept(decibels):
            culprit = self._culprit(effect, before, rewritten, retry)
            where = culprit and f"; rule {culprit.rule!r} is wrong where it replaced {culprit.root!r} ({culprit.source})"
            remedy = "Correct the rule" if culprit else f"Correct {name}.run"
            raise VerificationError(
                f"{name} promised {effect.promise}, but the outputs agree to {decibels:.1f} dB only{where or ''}. "
                f"{remedy}, or declare the pass's effect as it is"
            )
        self.outputs, self.snapshot = after, snapshot
        return decibels

    def _culprit(
        self, effect: Effect, before: fx.Graph, rewritten: Sequence[Replacement], retry: Callable[..., Sequence[Replacement]]
    ) -> Replacement | None:
        """The first rewrite after which the promise is broken, by bisection over how many are allowed."""
        if not any(replacement.rule for replacement in rewritten):
            return None
        low, high, culprit = 0, len(rewritten), rewritten[-1]  # the promise holds with `low` rewrites, not with `high`
        while high - low > 1:
            middle = (low + high) // 2
            trial = fx.GraphModule(self.graph_module, copy_graph(before))
            done = retry(trial, limit=middle)
            if effect.kept(agreement(self.outputs, outputs(trial, self.example))):
                low = middle
            else:
                high, culprit = middle, done[-1]
        return culprit


class _Snapshot:
    """What the outputs depend on: the calls of the graph, its modules and tensors, and the version of each tensor.

    A write through ``tensor.data`` leaves the version as it is and is not seen; passes may write to no tensor at all.
    """

    def __init__(self, graph_module: fx.GraphModule):
        self.calls = [node.format_node() for node in graph_module.graph.nodes]
        tensors = [*graph_module.parameters(), *graph_module.buffers()]
        self.versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        self.held = [*graph_module.modules(), *tensors]  # not their ids, which new ones could take over

    def shows_what(self, other: _Snapshot) -> bool:
        """Whether both are of the same calls on the same modules and tensors, unchanged."""
        same = len(self.held) == len(other.held) and all(a is b for a, b in zip(self.held, other.held))
        return same and self.calls == other.calls and self.versions == other.versions
