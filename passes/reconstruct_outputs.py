"""Train weights and ranges together, without labels, until the outputs are the float model's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import fx

from fxcompress.data.batch import Batch
from fxcompress.data.samples import divided
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.execution.agreement import decibels
from fxcompress.quantization.acceptance import OutputDifference
from fxcompress.quantization.matrix_layers import matrix_layers
from fxcompress.quantization.reconstruction import Student, train
from fxcompress.report.units import readable_decibels
from fxcompress.rewrite.rule import Replacement


@dataclass(frozen=True, kw_only=True)
class ReconstructOutputs(Pass):
    """Train weights, biases and ranges together, without labels, until the outputs are the float model's.

    The whole model is trained as in quantization-aware training, on the calibration data, with the float model's outputs for
    labels: the loss is the energy of the difference over that of the outputs. (Hubara et al., "Accurate Post Training
    Quantization With Small Calibration Sets", arXiv 2006.10518, fit layers, and Li et al., "BRECQ", arXiv 2102.05426, blocks;
    here the block is the model, where errors are judged.) Gradients of ranges are those of `TrainQuantizers`. Adam moves every
    tensor by a share of its own size, less the more products are added up (as in Yang et al., "Tensor Programs V", arXiv
    2203.03466), so that one learning rate does for all.

    After every epoch the outputs for other samples are measured. What is best there is kept, and where nothing is better than
    the model was, it stays as it was. Masked weights, and others that are zero, stay zero. Nothing is random but the order of
    the samples, which a fixed seed gives.

    List it after `Calibrate`. It takes minutes: `epochs` times `samples` forward and backward passes of the quantized model.

    Args:
        samples: of the calibration data, at most, to train on.
        judging: samples that come after these, at most, to judge on.
        epochs: passes over the samples.
        batch_size: samples a step, whose values are all in memory.
        learning_rate: at most: about the share of what a tensor makes that a step of Adam moves it by. It grows over the first
            tenth and falls along half a cosine.

    Raises:
        InputError: there is no data, a batch does not fit the model, or an option is out of its range.
    """

    samples: Annotated[int, Ge(1)] = 256
    judging: Annotated[int, Ge(1)] = 32
    epochs: Annotated[int, Ge(1)] = 6
    batch_size: Annotated[int, Ge(1)] = 8
    learning_rate: Annotated[float, Ge(0)] = 2e-4

    effect: ClassVar[Effect] = Effect.LOSSY
    reads_data: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        batches, others = divided(graph_module.graph, context, self.samples, self.judging)
        if not others:
            context.notes.append("nothing is trained: there are no samples to judge it on, beside those that it is trained on")
            return []
        batch = Batch.of(graph_module.graph)
        pieces = [piece for leaves in batches for piece in batch.split(leaves, 1)]
        with torch.inference_mode(False), torch.enable_grad():
            layers = matrix_layers(graph_module, context.reference, context.target, self.name, context.notes)
            student = Student(graph_module, layers)
            error = partial(OutputDifference(context.reference, others), student.twin)
            before, kept = error().sum().item(), None
            least, told = before, []
            rate, size = self.learning_rate, self.batch_size
            steps = train(student, context.reference, pieces, epochs=self.epochs, batch_size=size, learning_rate=rate)
            for epoch in range(self.epochs):
                context.progress("reconstructing outputs", epoch, self.epochs)
                next(steps)
                found = error().sum().item()
                told.append(found)
                if found < least:
                    least, kept = found, student.state()
            count = sum(map(batch.count, others))
            context.notes.append(
                f"the outputs of {count} other samples: {_decibels(before)} dB before, {_decibels(least)} dB as kept, "
                f"after epoch {told.index(least) + 1 if kept else 0} of {self.epochs}"
            )
            if kept is None:
                return []
            student.load(kept)
        return [Replacement.at(node) for node in student.teach(self.name)]


def _decibels(error: float) -> str:
    return readable_decibels(decibels(1.0, error))
