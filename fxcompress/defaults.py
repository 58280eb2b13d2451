"""The pipelines used where the caller lists none."""

from __future__ import annotations

from fxcompress import passes
from fxcompress.driver.interface import Pass


def post_training() -> list[Pass]:
    """INT8 without training: what ``compile(model, data=loader)`` runs."""
    return [
        passes.FoldConstants(),
        passes.FoldBatchNorm(),
        passes.CanonicalizeActivations(),
        passes.SplitChannels(),
        passes.SmoothActivations(),
        passes.Quantize(),
        passes.RoundWeights(),
        passes.Calibrate(estimator="output_error"),
    ]


def weights_only() -> list[Pass]:
    """Weights in 4 bits, in groups, for models that generate; with data, the integers are chosen by what layers put out."""
    return [
        passes.FoldConstants(),
        passes.FoldBatchNorm(),
        passes.CanonicalizeActivations(),
        passes.CompressWeights(),
        passes.StoreIntegers(),
    ]


def training() -> list[Pass]:
    """INT8 to be trained further: batch norms stay alive, and ranges are parameters."""
    return [
        passes.CanonicalizeActivations(),
        passes.Quantize(exact_sums=True),
        passes.Calibrate(),
        passes.TrainQuantizers(),
    ]


def lowering(*, binary_convolutions: bool = False) -> list[Pass]:
    """From a compiled graph to the one that is written to a file.

    Args:
        binary_convolutions: the file is for a runtime that has them, OpenVINO.
    """
    return [
        passes.FoldConstants(),
        passes.RemoveFilters(),
        passes.FoldMasks(),
        passes.FoldBatchNorm(),
        passes.RemoveDropout(),
        *([passes.UseBinaryConvolutions()] if binary_convolutions else []),
        passes.LowerBinarizers(),
        passes.LowerQuantizers(),
        passes.AbsorbClamps(),
    ]
