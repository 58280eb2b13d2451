"""What a training loop sees of compression: controllers, schedulers, schedules and losses.

In: a graph with masks, quantizers and binarizers. Out: levels, losses and statistics.

Imports: options, report, ir, pattern, data, masks, quantizers, binarization, quantization, channels, sparsity.
"""

from fxcompress.training.accuracy_aware import TrainingResult, adaptive_level, early_exit
from fxcompress.training.batch_norm import adapt_batch_norm, freeze_batch_norm
from fxcompress.training.controller import CompositeController, CompressionStage, Controller, Statistics
from fxcompress.training.learned_ranking import RankingResult, learn_ranking
from fxcompress.training.level_controller import LevelController
from fxcompress.training.levels import (
    Adaptive,
    Baseline,
    Exponential,
    ExponentialWithBias,
    MultiStep,
    Polynomial,
    Schedule,
)
from fxcompress.training.scheduler import CompositeScheduler, Scheduler

__all__ = [
    "Adaptive",
    "Baseline",
    "CompositeController",
    "CompositeScheduler",
    "CompressionStage",
    "Controller",
    "Exponential",
    "ExponentialWithBias",
    "LevelController",
    "MultiStep",
    "Polynomial",
    "RankingResult",
    "Schedule",
    "Scheduler",
    "Statistics",
    "TrainingResult",
    "adapt_batch_norm",
    "adaptive_level",
    "early_exit",
    "freeze_batch_norm",
    "learn_ranking",
]
