"""The pipelines used where the caller lists none."""

from __future__ import annotations

from typing import Literal

from fxcompress import passes
from fxcompress.driver.interface import Pass
from fxcompress.options.declared import check_arguments

Effort = Literal["normal", "high"]


@check_arguments()
def post_training(*, effort: Effort = "normal") -> list[Pass]:
    """INT8 without labels: what ``compile(model, data=loader)`` runs.

    Args:
        effort: ``"high"`` trains weights and ranges on the calibration data as well, which takes minutes rather than seconds.

    Raises:
        InputError: there is no such effort.
    """
    return [
        passes.FoldConstants(),
        passes.FoldBatchNorm(),
        passes.CanonicalizeActivations(),
        passes.SplitChannels(),
        passes.SmoothActivations(),
        passes.OrderChannels(),
        passes.Quantize(),
        passes.RoundWeights(),
        passes.Calibrate(estimator="output_error"),
        *([passes.ReconstructOutputs()] if effort == "high" else []),
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


@check_arguments("binary_convolutions")
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
