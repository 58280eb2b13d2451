"""NNCF 2's names for training: ``import fxcompress.compat.nncf as nncf``, with its modules (``nncf.torch``, ``nncf.config``).

`install` puts the package in the place of `nncf`, so that scripts run unchanged.
"""

from __future__ import annotations

import sys

from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.compat.nncf.controller import CompressionAlgorithmController, NNCFStatistics, QuantizationController
from fxcompress.compat.nncf.environment import TargetDevice, disable_logging, set_log_level
from fxcompress.compat.nncf.initialization import default_criterion_fn, register_default_init_args
from fxcompress.compat.nncf.inputs import FillerInputInfo
from fxcompress.compat.nncf.model import adapt_batch_norm, create_compressed_model, load_state, strip
from fxcompress.compat.nncf.places import find_modules
from fxcompress.compat.nncf.training_loop import create_accuracy_aware_training_loop, is_accuracy_aware_training
from fxcompress.errors import InputError as InvalidPathError
from fxcompress.errors import InputError as UnsupportedDatasetError
from fxcompress.errors import InputError as ValidationError
from fxcompress.errors import TrainingError as InternalError
from fxcompress.training.controller import CompressionStage

find_modules()


def install() -> None:
    """Let ``import nncf`` give this package, wherever it is written from now on."""
    sys.modules["nncf"] = sys.modules[__name__]


__all__ = [
    "CompressionAlgorithmController",
    "CompressionStage",
    "FillerInputInfo",
    "InternalError",
    "InvalidPathError",
    "NNCFConfig",
    "NNCFStatistics",
    "QuantizationController",
    "TargetDevice",
    "UnsupportedDatasetError",
    "ValidationError",
    "adapt_batch_norm",
    "create_accuracy_aware_training_loop",
    "create_compressed_model",
    "default_criterion_fn",
    "disable_logging",
    "install",
    "is_accuracy_aware_training",
    "load_state",
    "register_default_init_args",
    "set_log_level",
    "strip",
]
