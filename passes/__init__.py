"""The passes that `fxcompress.compile(passes=[...])` takes, one a file."""

from fxcompress.passes.absorb_clamps import AbsorbClamps
from fxcompress.passes.calibrate import Calibrate
from fxcompress.passes.canonicalize_activations import CanonicalizeActivations
from fxcompress.passes.choose_bits import ChooseBits
from fxcompress.passes.correct_bias import CorrectBias
from fxcompress.passes.equalize_layers import EqualizeLayers
from fxcompress.passes.fold_batch_norm import FoldBatchNorm
from fxcompress.passes.guard_shared_convolutions import GuardSharedConvolutions
from fxcompress.passes.learn_rounding import LearnRounding
from fxcompress.passes.lower_quantizers import LowerQuantizers
from fxcompress.passes.prune_filters import PruneFilters
from fxcompress.passes.quantize import Quantize
from fxcompress.passes.remove_dropout import RemoveDropout
from fxcompress.passes.remove_filters import RemoveFilters
from fxcompress.passes.restore_precision import RestorePrecision
from fxcompress.passes.restore_slow_layers import RestoreSlowLayers
from fxcompress.passes.round_weights import RoundWeights
from fxcompress.passes.smooth_activations import SmoothActivations
from fxcompress.passes.train_quantizers import TrainQuantizers

__all__ = [
    "AbsorbClamps",
    "Calibrate",
    "CanonicalizeActivations",
    "ChooseBits",
    "CorrectBias",
    "EqualizeLayers",
    "FoldBatchNorm",
    "GuardSharedConvolutions",
    "LearnRounding",
    "LowerQuantizers",
    "PruneFilters",
    "Quantize",
    "RemoveDropout",
    "RemoveFilters",
    "RestorePrecision",
    "RestoreSlowLayers",
    "RoundWeights",
    "SmoothActivations",
    "TrainQuantizers",
]
