"""Accuracy-aware training by NNCF's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fxcompress.compat.nncf.configuration import NNCFConfig
from fxcompress.compat.nncf.controller import HIGHEST, CompressionAlgorithmController
from fxcompress.compat.nncf.initialization import ModelEvaluationArgs
from fxcompress.errors import InputError
from fxcompress.nncf_files.accuracy import ADAPTIVE, DEFAULTS, DROPS, EARLY_EXIT
from fxcompress.training import adaptive_level, early_exit
from fxcompress.training.accuracy_aware import TrainingResult


def is_accuracy_aware_training(config: Mapping[str, Any]) -> bool:
    """Whether `config` asks for accuracy-aware training."""
    return bool(config.get("accuracy_aware_training"))


@dataclass
class TrainingLoopStatistics:
    """What came of a loop; drops are of the accuracy, the relative one in percent."""

    uncompressed_accuracy: float
    compression_rate: float
    compressed_accuracy: float
    absolute_accuracy_degradation: float
    relative_accuracy_degradation: float
    accuracy_budget: float

    def to_str(self) -> str:
        return (
            f"accuracy {self.compressed_accuracy:.4f}, of {self.uncompressed_accuracy:.4f} without compression: "
            f"{self.absolute_accuracy_degradation:.4f} less ({self.relative_accuracy_degradation:.2f}%), "
            f"{self.accuracy_budget:.4f} above the least; level of compression {self.compression_rate:.4f}"
        )


class AccuracyAwareTrainingLoop:
    """Runs `fxcompress.training.early_exit` or `adaptive_level` as the configuration says."""

    def __init__(
        self,
        nncf_config: Mapping[str, Any],
        compression_controller: CompressionAlgorithmController,
        uncompressed_model_accuracy: float | None = None,
        **additional_runner_args: Any,
    ):
        section = nncf_config.get("accuracy_aware_training") or {}
        if section.get("mode") not in (EARLY_EXIT, ADAPTIVE):
            raise InputError(f"accuracy_aware_training has a mode, {EARLY_EXIT!r} or {ADAPTIVE!r}, not {section.get('mode')!r}")
        self.mode, self.params = section["mode"], {**DEFAULTS, **section.get("params", {})}
        self.controller, given = compression_controller, uncompressed_model_accuracy
        self.baseline = _accuracy(nncf_config, self.controller.original) if given is None else given
        self.result: TrainingResult | None = None

    def run(
        self,
        model: Any,
        train_epoch_fn: Callable[..., Any],
        validate_fn: Callable[..., float],
        configure_optimizers_fn: Callable[[], tuple[Any, Any]] | None = None,
        dump_checkpoint_fn: Callable[..., Any] | None = None,
        load_checkpoint_fn: Callable[..., Any] | None = None,
        early_stopping_fn: Callable[..., bool] | None = None,
        tensorboard_writer: Any = None,
        log_dir: Any = None,
        update_learning_rate_fn: Callable[..., Any] | None = None,
    ) -> Any:
        """Train `model` until its accuracy will do, and return it.

        Args:
            train_epoch_fn: called with the controller, the model, ``epoch=``, ``optimizer=`` and ``lr_scheduler=``.
            validate_fn: called with the model and ``epoch=``; larger is better.
            configure_optimizers_fn: returns an optimizer and a scheduler of its learning rate.
        """
        optimizer, rates = configure_optimizers_fn() if configure_optimizers_fn else (None, None)
        compressed = self.controller.compression
        done, scores = 0, [0.0]

        def validate(_: Any) -> float:
            with torch.no_grad():  # as NNCF does, whose scripts count on it
                scores[0] = float(validate_fn(model, epoch=done))
            return scores[0]

        def train(_: Any, epoch: int, scheduled: bool = True) -> None:
            nonlocal done
            if scheduled:
                self.controller.scheduler.epoch_step()
            train_epoch_fn(self.controller, model, epoch=done, optimizer=optimizer, lr_scheduler=rates)
            if update_learning_rate_fn is not None:
                update_learning_rate_fn(rates, done, scores[0], None)
            elif rates is not None:
                rates.step(*([scores[0]] if isinstance(rates, ReduceLROnPlateau) else []))
            done += 1

        epochs, drop = int(self.params["maximal_total_epochs"]), self._drop()
        if self.mode == EARLY_EXIT:
            self.result = early_exit(compressed, train, validate, baseline=self.baseline, epochs=epochs, **drop)
        else:
            for epoch in range(int(self.params["initial_training_phase_epochs"])):
                train(compressed, epoch)
            self.result = adaptive_level(
                compressed,
                self.controller.leveled,
                lambda one, epoch: train(one, epoch, scheduled=False),
                validate,
                baseline=self.baseline,
                epochs=max(epochs - done, 1),
                patience=int(self.params["patience_epochs"]),
                step=self.params["initial_compression_rate_step"],
                resolution=self.params["minimal_compression_rate_step"],
                highest=HIGHEST,
                optimizer=optimizer,
                lr_reduction=self.params["lr_reduction_factor"],
                **drop,
            )
        return model

    def _drop(self) -> dict[str, float]:
        relative, absolute = (self.params.get(name) for name in DROPS)
        return {"max_relative_drop": relative / 100} if relative is not None else {"max_drop": float(absolute or 0.0)}

    @property
    def statistics(self) -> TrainingLoopStatistics:
        """Of the model as it was left."""
        if self.result is None or self.result.best is None:
            raise InputError("the loop has not run yet")
        score, drop = self.result.best.score, self.baseline - self.result.best.score
        relative = 100 * drop / self.baseline if self.baseline else 0.0
        rate = self.controller.compression_rate
        return TrainingLoopStatistics(self.baseline, rate, score, drop, relative, score - self.result.least)


def create_accuracy_aware_training_loop(
    nncf_config: Mapping[str, Any],
    compression_ctrl: CompressionAlgorithmController,
    uncompressed_model_accuracy: float | None = None,
    **additional_runner_args: Any,
) -> AccuracyAwareTrainingLoop:
    """The loop that `nncf_config` asks for; what concerns NNCF's own log files is not looked at.

    Args:
        uncompressed_model_accuracy: None for what the registered ``model_eval_fn`` finds of the model before compression.

    Raises:
        InputError: it asks for none, or nothing says how accurate the model was.
    """
    return AccuracyAwareTrainingLoop(nncf_config, compression_ctrl, uncompressed_model_accuracy)


def _accuracy(config: Mapping[str, Any], model: nn.Module | None) -> float:
    if model is None or not isinstance(config, NNCFConfig) or not config.has_extra_struct(ModelEvaluationArgs):
        raise InputError(
            "nothing says how accurate the model is without compression: give uncompressed_model_accuracy, or a model_eval_fn "
            "to register_default_init_args"
        )
    with torch.no_grad():
        return float(config.get_extra_struct(ModelEvaluationArgs).eval_fn(model))
