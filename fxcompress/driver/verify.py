"""Whether a pass kept its promise, and which of its rewrites did not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.effect import Effect
from fxcompress.errors import VerificationError
from fxcompress.execution.agreement import agreement
from fxcompress.execution.last_bits import decided_by_last_bits
from fxcompress.ir.constants import is_computed
from fxcompress.ir.dialect import copy_graph
from fxcompress.quantization.by_rows import outputs_by_rows
from fxcompress.quantization.quantized import activations_in_float
from fxcompress.quantizers.trainable import TrainableQuantizer
from fxcompress.rewrite.rule import Replacement

SAME_IN_DOUBLE = 240.0
"""In dB. Double precision rounds to 319; one weight in a million that is off by the last bit of single precision gives 200."""
SAME_BUT_FOR_WEIGHTS = 130.0
"""In dB, of a pass that computes weights once, in single precision, which the graph before it did in every call."""


class Verifier:
    """Compares a graph's outputs on the example inputs before and after each pass."""

    def __init__(self, graph_module: fx.GraphModule, example: ExampleInputs):
        self.graph_module, self.example = graph_module, example
        self.outputs = outputs_by_rows(graph_module, example)
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
        after = outputs_by_rows(self.graph_module, self.example)
        decibels, kept = self._agreement(effect, before, self.graph_module, after)
        if kept and _loses_numbers(self.outputs, after):  # which no promise allows
            raise VerificationError(
                f"{name} makes NaN of an output that is numbers; look for values in the data or the weights that "
                "are too large to be scaled, and divide them by what makes them ordinary"
            )
        if not kept:
            culprit = self._culprit(effect, before, rewritten, retry)
            where = culprit and f"; rule {culprit.rule!r} is wrong where it replaced {culprit.root!r} ({culprit.source})"
            remedy = "Correct the rule" if culprit else f"Correct {name}.run"
            raise VerificationError(
                f"{name} promised {effect.promise}, but the outputs agree to {decibels:.1f} dB only{where or ''}. "
                f"{remedy}, or declare the pass's effect as it is"
            )
        self.outputs, self.snapshot = after, snapshot
        return decibels

    def look_again(self) -> None:
        """Take the model as it is now for what the last check saw: what it reads no more may have become a shape."""
        self.snapshot = _Snapshot(self.graph_module)

    def _agreement(
        self, effect: Effect, before: fx.Graph, graph_module: fx.GraphModule, after: Sequence[Any]
    ) -> tuple[float, bool]:
        """How well `after`, the outputs of `graph_module`, agree with those of the graph `before`, in dB; whether well enough.

        A library may add up the same numbers in another order when a tensor lies elsewhere in memory. In double precision
        that is far below the last bit of what passes write, so what agrees to `SAME_IN_DOUBLE` there is taken for the same.
        A weight that is computed anew differs in its last bits for the same reason.

        Where values are rounded, a difference in the last bit can become a whole step. So a promise of equality but for
        rounding, where it does not hold at once, is looked at again in double precision, where that hardly ever happens; and
        with real activations, since tensors that the pass made differ in the last bit in any precision. Where the model itself
        decides by last bits, as one does that sorts scores which are nearly the same, the pass may change what they do.
        """
        decibels = agreement(self.outputs, after)
        if effect.kept(decibels) or not self.snapshot.is_unwritten(graph_module):
            return decibels, effect.kept(decibels)
        pair = [fx.GraphModule(graph_module, copy_graph(graph)) for graph in (before, graph_module.graph)]
        in_double = _agreement_in_double(pair, self.example)
        if effect is Effect.EXACT:
            computed = _computes_weights(before) and not _computes_weights(graph_module.graph)
            same = in_double >= (SAME_BUT_FOR_WEIGHTS if computed else SAME_IN_DOUBLE)
            return (math.inf, True) if same else (decibels, False)
        decibels = max(decibels, in_double)
        if effect.kept(decibels):
            return decibels, True
        with activations_in_float(graph_module):
            expected, found = (outputs_by_rows(one, self.example) for one in pair)
            decibels = max(decibels, agreement(expected, found))
            return decibels, effect.kept(decibels) or decided_by_last_bits(pair[0], self.example, expected, found)

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
            if self._agreement(effect, before, trial, outputs_by_rows(trial, self.example))[1]:
                low = middle
            else:
                high, culprit = middle, done[-1]
        return culprit


def _loses_numbers(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether an output has nothing but NaN left where it had numbers; single ones may be at the edge of a logarithm's."""
    pairs = [(a, b) for a, b in zip(before, after) if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape]
    floats = [(a.isfinite(), b) for a, b in pairs if b.is_floating_point() or b.is_complex()]
    return any(bool(known.any()) and bool(b[known].isnan().all()) for known, b in floats)


def _agreement_in_double(pair: Sequence[fx.GraphModule], example: ExampleInputs) -> float:
    """The agreement of two graphs in double precision; minus infinity where they cannot be run in it."""
    found = []
    given = pytree.tree_map_only(Tensor, _doubled, (example.args, example.kwargs))
    for one in pair:
        grids = tuple(f"{name}." for name, module in one.named_modules() if isinstance(module, TrainableQuantizer))
        tensors = (*one.named_parameters(), *one.named_buffers())
        held = {name: _doubled(tensor) for name, tensor in tensors if not name.startswith(grids)}  # a grid is of float32
        try:
            with torch.no_grad(), _InDouble():
                found.append(pytree.tree_leaves(torch.func.functional_call(one, held, *given)))
        except RuntimeError:
            return float("-inf")
    return agreement(*found)


def _computes_weights(graph: fx.Graph) -> bool:
    return any(map(is_computed, graph.nodes))


class _InDouble(TorchDispatchMode):
    """Makes double precision of every float32 that a call names."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs or {}))
        return func(*args, **kwargs)


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach().clone()


class _Snapshot:
    """What the outputs depend on: the calls of the graph, its modules and tensors, and the version of each tensor.

    A write through ``tensor.data`` leaves the version as it is and is not seen; passes may write to no tensor at all.
    """

    def __init__(self, graph_module: fx.GraphModule):
        self.calls = [node.format_node() for node in graph_module.graph.nodes]
        self.named = _held(graph_module)
        self.versions = [_version(one) for _, one in self.named]
        self.held = [one for _, one in self.named]  # not their ids, which new ones could take over

    def is_unwritten(self, graph_module: fx.GraphModule) -> bool:
        """Whether all that was held is there under its name, and no tensor was written to: the graph before can be run."""
        present = dict(_held(graph_module))
        versions = zip(self.named, self.versions)
        return all(present.get(name) is one and _version(one) == version for (name, one), version in versions)

    def shows_what(self, other: _Snapshot) -> bool:
        """Whether both are of the same calls on the same modules and tensors, unchanged."""
        same = len(self.held) == len(other.held) and all(a is b for a, b in zip(self.held, other.held))
        return same and self.calls == other.calls and self.versions == other.versions


def _held(graph_module: fx.GraphModule) -> list[tuple[str, Any]]:
    """The modules and tensors of `graph_module` by their names, but for itself."""
    modules = list(graph_module.named_modules(remove_duplicate=False))[1:]
    parameters = graph_module.named_parameters(remove_duplicate=False)
    return [*modules, *parameters, *graph_module.named_buffers(remove_duplicate=False)]


def _version(one: Any) -> int:
    return one._version if isinstance(one, Tensor) and not one.is_inference() else 0
