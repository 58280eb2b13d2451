"""What a training loop sees of compression: controllers, schedulers and losses."""

from fxcompress.training.accuracy_aware import TrainingResult, adaptive_level, early_exit
from fxcompress.training.batch_norm import adapt_batch_norm
from fxcompress.training.controller import CompositeController, CompressionStage, Controller, Statistics
from fxcompress.training.scheduler import CompositeScheduler, Scheduler

__all__ = [
    "CompositeController",
    "CompositeScheduler",
    "CompressionStage",
    "Controller",
    "Scheduler",
    "Statistics",
    "TrainingResult",
    "adapt_batch_norm",
    "adaptive_level",
    "early_exit",
]
