"""Make the ranges of quantizers parameters, for training with simulated quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import fx

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantizers import native
from fxcompress.quantizers.trainable import TrainableQuantizer
from fxcompress.rewrite.rule import Replacement
from fxcompress.training.levels import Epoch
from fxcompress.training.quantization import QuantizationController


@dataclass(frozen=True, kw_only=True)
class TrainQuantizers(Pass):
    """Turn the ranges of quantizers into parameters, which start from what calibration found.

    Training with simulated quantization (Jacob et al., arXiv 1712.05877, section 3) and learned ranges; the parameters and
    gradients are those of NNCF (arXiv 2002.08679), see `fxcompress.quantization.trainable` and
    `fxcompress.quantization.straight_through`.

    Args:
        weights_start_epoch: the quantizers of weights return their input unchanged before that epoch. When it comes, their
            ranges are set from the weights as they are then.
        activations_start_epoch: likewise, those of activations, which keep their calibrated ranges.
        learning_rate_multiplier: of the gradients of the ranges.
        inputs: train also the ranges of what the model is given, which training does not change. Their gradients take the
            backward pass through the first layers to their inputs, where a model takes images the most expensive of all.

    Raises:
        InputError: an option cannot be used.
    """

    weights_start_epoch: Epoch = 0
    activations_start_epoch: Epoch = 0
    learning_rate_multiplier: Annotated[float, Ge(0)] = 1.0
    inputs: bool = False

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        if native.load() is None:
            context.notes.append("there is no C compiler, so that quantizers take longer in training")
        calls = quantizer_calls(graph_module)
        trained = {str(call.target): found for call, found in calls.items() if self.inputs or call.args[0].op != "placeholder"}
        for target, quantizer in trained.items():
            owner, _, leaf = target.rpartition(".")
            setattr(graph_module.get_submodule(owner), leaf, TrainableQuantizer(quantizer, self.learning_rate_multiplier))
        if controller := self.controller(graph_module):
            controller.start()
        return [Replacement.at(call) for call in calls if str(call.target) in trained]

    def controller(self, graph_module: fx.GraphModule) -> QuantizationController | None:
        """See `QuantizationController`; None where nothing is quantized."""
        if not quantizer_calls(graph_module):
            return None
        return QuantizationController(
            graph_module,
            weights_start_epoch=self.weights_start_epoch,
            activations_start_epoch=self.activations_start_epoch,
        )
