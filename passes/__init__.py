"""The passes that `fxcompress.compile(passes=[...])` takes, one a file.

In: a graph, and what the driver knows of it. Out: the graph, rewritten in place.

Imports: options, report, storage, ir, pattern, rewrite, data, masks, quantizers, binarization, targets, execution,
quantization, channels, sparsity, training, driver, emit, measure, patterns.
"""

from fxcompress.passes.absorb_clamps import AbsorbClamps
from fxcompress.passes.adapt_batch_norm import AdaptBatchNorm
from fxcompress.passes.binarize import Binarize
from fxcompress.passes.calibrate import Calibrate
from fxcompress.passes.canonicalize_activations import CanonicalizeActivations
from fxcompress.passes.choose_bits import ChooseBits
from fxcompress.passes.compress_weights import CompressWeights
from fxcompress.passes.correct_bias import CorrectBias
from fxcompress.passes.distill import Distill
from fxcompress.passes.equalize_layers import EqualizeLayers
from fxcompress.passes.fold_batch_norm import FoldBatchNorm
from fxcompress.passes.fold_constants import FoldConstants
from fxcompress.passes.fold_masks import FoldMasks
from fxcompress.passes.learn_rounding import LearnRounding
from fxcompress.passes.learn_sparsity import LearnSparsity
from fxcompress.passes.lower_binarizers import LowerBinarizers
from fxcompress.passes.lower_quantizers import LowerQuantizers
from fxcompress.passes.order_channels import OrderChannels
from fxcompress.passes.prune_filters import PruneFilters
from fxcompress.passes.quantize import Quantize
from fxcompress.passes.reconstruct_outputs import ReconstructOutputs
from fxcompress.passes.remove_dropout import RemoveDropout
from fxcompress.passes.remove_filters import RemoveFilters
from fxcompress.passes.restore_precision import RestorePrecision
from fxcompress.passes.restore_slow_layers import RestoreSlowLayers
from fxcompress.passes.round_weights import RoundWeights
from fxcompress.passes.smooth_activations import SmoothActivations
from fxcompress.passes.sparsify import Sparsify
from fxcompress.passes.split_channels import SplitChannels
from fxcompress.passes.store_integers import StoreIntegers
from fxcompress.passes.train_quantizers import TrainQuantizers
from fxcompress.passes.use_binary_convolutions import UseBinaryConvolutions

__all__ = [
    "AbsorbClamps",
    "AdaptBatchNorm",
    "Binarize",
    "Calibrate",
    "CanonicalizeActivations",
    "ChooseBits",
    "CompressWeights",
    "CorrectBias",
    "Distill",
    "EqualizeLayers",
    "FoldBatchNorm",
    "FoldConstants",
    "FoldMasks",
    "LearnRounding",
    "LearnSparsity",
    "LowerBinarizers",
    "LowerQuantizers",
    "OrderChannels",
    "PruneFilters",
    "Quantize",
    "ReconstructOutputs",
    "RemoveDropout",
    "RemoveFilters",
    "RestorePrecision",
    "RestoreSlowLayers",
    "RoundWeights",
    "SmoothActivations",
    "Sparsify",
    "SplitChannels",
    "StoreIntegers",
    "TrainQuantizers",
    "UseBinaryConvolutions",
]
