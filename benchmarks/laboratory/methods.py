"""What the laboratory tries: a stack of passes each, how it is trained, and what it may cost in accuracy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxcompress
from benchmarks.laboratory.fashion import Fashion
from benchmarks.laboratory.networks import NETWORKS
from benchmarks.laboratory.training import Recipe, accuracy, train_step
from fxcompress import Pass, QuantizationSpec, passes
from fxcompress.errors import InputError, did_you_mean
from fxcompress.training import Polynomial, learn_ranking

FLOAT, CONTROL = "FP32", "FP32, trained on"
BINARY, STACK = "binary", "stack"

CANONICAL = passes.CanonicalizeActivations()
RANKINGS, POPULATION, TUNING_STEPS, SCORED = 16, 8, 20, 2000
"""Of the learned ranking: how many are tried and kept, optimizer steps for each, and images that score it."""


@dataclass(frozen=True)
class Situation:
    """What a stack may depend on: the trained float model, the data, and how many epochs there will be."""

    model: nn.Module
    data: Fashion
    epochs: int

    @property
    def ramp(self) -> Polynomial:
        """A cubic rise of the level over the first half of the epochs (arXiv 1710.01878, equation 1), step by step."""
        epochs = max(1, self.epochs // 2)
        return Polynomial(epochs=epochs, power=3, steps_per_epoch=self.data.steps_per_epoch)


Stack = Callable[[Situation], Sequence[Pass]]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: of the row.
        kind: what it is one of, for the colours of plots.
        stack: the passes.
        recipe: of the training; it starts from the trained float model, unless `from_scratch`.
        max_drop: percentage points of accuracy that it may lose; None for no bar.
        repeated: trained with every seed; others with the first one only.
        networks: that it makes sense for.
    """

    name: str
    kind: str
    stack: Stack
    recipe: Recipe
    max_drop: float | None = None
    repeated: bool = False
    from_scratch: bool = False
    networks: tuple[str, ...] = tuple(NETWORKS)

    def shortened(self, epochs: int) -> Method:
        """With at most so many epochs."""
        return replace(self, recipe=replace(self.recipe, epochs=min(epochs, self.recipe.epochs)))

    @property
    def slug(self) -> str:
        return slug(self.name)

    @property
    def openvino(self) -> bool:
        """Whether the file is OpenVINO's own, since ONNX has no binary convolutions."""
        return self.kind == BINARY


def quantized(weight_bits: int = 8, symmetric: bool | None = None, per_channel: bool = True) -> list[Pass]:
    """Trained quantizers; `symmetric` of weights and activations, None for symmetric weights and asymmetric activations."""
    weights = QuantizationSpec(bits=weight_bits, symmetric=symmetric is not False, signed=True)
    activations: QuantizationSpec | Literal["target"] = "target" if symmetric is None else QuantizationSpec(symmetric=symmetric)
    grids = passes.Quantize(weights=weights, activations=activations, per_channel=per_channel, exact_sums=True)
    return [grids, passes.Calibrate(), passes.TrainQuantizers()]


def mixed(situation: Situation) -> list[Pass]:
    quantize, *rest = quantized()
    return [CANONICAL, quantize, passes.ChooseBits(loss=batch_loss, ratio=1.6), *rest]


def learned_ranking(situation: Situation) -> list[Pass]:
    """30% of the filters of all layers, by a ranking that is learned in short trials before (LeGR)."""
    chosen = passes.PruneFilters(amount=0.3, multiple=1, ranking="global")
    start = fxcompress.compile(situation.model, [CANONICAL, chosen], data=situation.data.calibration())
    data, held = situation.data, slice(-SCORED, None)
    scored = replace(data, test_images=data.train_images[held], test_labels=data.train_labels[held])

    def tune_and_score(candidate: Any) -> float:
        torch.manual_seed(0)
        candidate.train()
        optimizer = torch.optim.SGD(candidate.parameters(), lr=0.01, momentum=0.9)
        for batch in itertools.islice(data.epoch(0), TUNING_STEPS):
            train_step(candidate, optimizer, batch)
        return accuracy(candidate, scored)

    found = learn_ranking(start, tune_and_score, generations=RANKINGS, population=POPULATION, sampled=POPULATION // 2)
    return [CANONICAL, replace(chosen, ranking=found.ranking, schedule=situation.ramp), *quantized()]


def batch_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What `ChooseBits` takes the curvature of."""
    return cross_entropy(model(batch[0]), batch[1])


def _then(*first: Callable[[Situation], Pass], last: Callable[[Situation], Pass] | None = None) -> Stack:
    """Some passes in front of INT8 quantizers, and maybe one behind them."""
    return lambda situation: [CANONICAL, *(one(situation) for one in first), *quantized(), *([last(situation)] if last else [])]


def _quantized(*arguments: Any, **options: Any) -> Stack:
    return lambda situation: [CANONICAL, *quantized(*arguments, **options)]


def _filters(s: Situation) -> Pass:
    return passes.PruneFilters(amount=0.3, multiple=1, schedule=s.ramp)


def _sparse(s: Situation) -> Pass:
    return passes.Sparsify(level=0.5, schedule=s.ramp)


def _learned_sparsity(s: Situation) -> Pass:
    return passes.LearnSparsity(level=0.5, schedule=s.ramp, freeze_epoch=max(1, s.epochs - 1))


def _distill(s: Situation) -> Pass:
    return passes.Distill(loss="softmax", temperature=3.0, scale=0.1)


def _binary(weights: str) -> Callable[[Situation], Pass]:
    return lambda s: passes.Binarize(weights=weights)


SCRATCH = Recipe(epochs=10, learning_rate=4e-3, weight_decay=0.05)
SHORT = Recipe(epochs=3)
LEARNED = Recipe(epochs=3, added_learning_rate=0.05)
"""For masks that are learned: their logits start at 4.6, and have a thousand steps to change sign."""
LONG = Recipe(epochs=8, learning_rate=5e-3, weight_decay=0.0, added_learning_rate=1e-2)
"""For binary layers, whose weights have to change their signs."""

PRUNED = Recipe(epochs=8, learning_rate=3e-3)
"""For networks that lose filters, and with them half of their multiply-adds."""

DENSE = ("residual",)
"""The convolutions of the other one are depthwise or of one pixel, and `Binarize` leaves those alone."""

METHODS = [
    Method(FLOAT, "float", lambda s: [], SCRATCH, repeated=True, from_scratch=True),
    Method("INT8", "quantized", _quantized(), SHORT, 0.1, repeated=True),
    Method("W4A8", "quantized", _quantized(4), SHORT, 0.3, repeated=True),
    Method("sparse 50%, INT8", "sparse", _then(_sparse), SHORT, 0.3, repeated=True),
    Method("filters 30%, INT8", "pruned", _then(_filters), PRUNED, 0.5, repeated=True),
    Method("binary (XNOR), INT8 ends", BINARY, _then(_binary("xnor")), LONG, 3.0, repeated=True, networks=DENSE),
    Method("filters, sparse, INT8, distilled", STACK, _then(_filters, _sparse, last=_distill), PRUNED),
    Method("INT8 symmetric, per channel", "quantized", _quantized(symmetric=True), SHORT, 0.1),
    Method("INT8 symmetric, per tensor", "quantized", _quantized(symmetric=True, per_channel=False), SHORT, 0.1),
    Method("INT8 asymmetric, per channel", "quantized", _quantized(symmetric=False), SHORT, 0.1),
    Method("INT8 asymmetric, per tensor", "quantized", _quantized(symmetric=False, per_channel=False), SHORT, 0.1),
    Method("mixed 4 and 8 bits (HAWQ-V2)", "quantized", mixed, SHORT),
    Method("sparse 2:4, INT8", "sparse", _then(lambda s: passes.Sparsify(pattern="2:4")), SHORT),
    Method("sparse 50% (RB), INT8", "sparse", _then(_learned_sparsity), LEARNED),
    Method("binary (DoReFa), INT8 ends", BINARY, _then(_binary("dorefa")), LONG, 3.0, networks=DENSE),
    Method("filters 30% (LeGR), INT8", "pruned", learned_ranking, PRUNED, 0.5),
    Method(CONTROL, "float", lambda s: [], SHORT),
]
"""In the order in which they run. `CONTROL` shows what the epochs of fine-tuning alone are worth."""


def slug(name: str) -> str:
    """A method's name for the command line and for files: ``"filters-30-int8"``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def find_methods(slugs: Sequence[str]) -> list[Method]:
    """The methods of these names, spelled as `slug` does.

    Raises:
        InputError: there is none of a name.
    """
    known = {method.slug: method for method in METHODS}
    for name in slugs:
        if name not in known:
            raise InputError(f"there is no method {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    return [known[name] for name in slugs]
