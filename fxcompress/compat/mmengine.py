"""Compression from one line of a configuration of MMEngine, whose Runner builds the model itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import load_checkpoint
from torch.utils.data import DataLoader

from fxcompress import Config, compress, parameter_groups
from fxcompress.errors import InputError
from fxcompress.inplace.compression import Compression
from fxcompress.integrations.for_mmengine import CompressionHook


class Compress(Hook):
    """Compresses the model of a Runner when it begins, with a configuration file, and steps its schedules from then on.

    In the Runner's own configuration::

        custom_hooks = [dict(type="fxcompress.compat.mmengine.Compress", config="int8.yaml", file="int8.onnx")]

    Weights are initialised, or loaded (``load_from``), before. What compression trains joins the optimizer, without weight
    decay.

    Args:
        config: the path of the file (see `fxcompress.Config`).
        batches: so many of the training data, of the size that the training loader gives, are for calibration.
        submodules: paths of the parts to compress; None for those of the file, or else backbone, neck and heads.
        file: where the model is written after training, as ONNX (``.onnx``) or OpenVINO's format (``.xml``).
        add_loss: whether the loss of compression becomes one of the model's.

    Raises:
        InputError: the Runner has wrapped the model already, as for several processes.
        ConfigError: the file cannot be used.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        config: str | os.PathLike[str],
        batches: int = 32,
        submodules: Sequence[str] | None = None,
        file: str | os.PathLike[str] | None = None,
        add_loss: bool = True,
    ):
        self.config, self.batches, self.submodules = Config.load(config), batches, submodules
        self.file, self.add_loss = None if file is None else Path(file), add_loss
        self.compression: Compression | None = None
        self.steps: CompressionHook | None = None

    def before_run(self, runner: Any) -> None:
        """Compress, once."""
        if self.compression is not None:
            return
        model = runner.model
        if is_model_wrapper(model):
            raise InputError(
                f"the Runner has wrapped the model in {type(model).__name__}; compress it in the script, before the Runner "
                "is made"
            )
        if hasattr(model, "init_weights"):
            model.init_weights()
        if runner._load_from and not (runner._resume or runner._has_loaded):
            load_checkpoint(model, runner._load_from, map_location="cpu")  # alone: other hooks are not ready for it yet
            runner._has_loaded = True
        with _without_augments(model.data_preprocessor) as prepare:
            given = (prepare(batch, True) for batch in islice(_another(runner.train_dataloader), self.batches))
            data = [_inputs(one) for one in given]
        self.compression = compress(model, config=self.config, data=data, submodules=self.submodules)
        _join(runner.optim_wrapper, self.compression)
        self.steps = CompressionHook(self.compression.controller, model, self.add_loss)
        runner.register_hook(self.steps)
        self.steps.before_run(runner)

    def after_train(self, runner: Any) -> None:
        """Write the file that was asked for."""
        if self.file is not None and self.compression is not None:
            write = self.compression.to_openvino if self.file.suffix == ".xml" else self.compression.to_onnx
            write(self.file)


def _another(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same data, as it is for every run: samplers without an end cannot be read a second time."""
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1)
    seeded = torch.Generator().manual_seed(0)
    return DataLoader(loader.dataset, size, shuffle=True, generator=seeded, collate_fn=loader.collate_fn)


def _inputs(batch: Any) -> dict[str, Any]:
    """What the model is given of `batch` where it is to find something.

    Raises:
        InputError: it is no batch of OpenMMLab's.
    """
    if not isinstance(batch, Mapping) or "inputs" not in batch:
        form = f"a dict of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise InputError(
            f"Compress reads batches that are dicts with 'inputs', as OpenMMLab's are, and this loader gives {form}; compress "
            "the model in the script, fxcompress.compress(model, data=...), and give the Runner its callback: "
            'compression.callback("mmengine")'
        )
    return {"inputs": batch["inputs"]}


@contextmanager
def _without_augments(preprocessor: Any) -> Iterator[Any]:
    """Prepare batches as training does, which pads images of several sizes, but for what is random and reads the step."""
    augments = getattr(preprocessor, "batch_augments", None)
    if augments is not None:
        preprocessor.batch_augments = None
    try:
        yield preprocessor
    finally:
        if augments is not None:
            preprocessor.batch_augments = augments


def _join(optim_wrapper: Any, compression: Compression) -> None:
    """Let the optimizer, if there is one, train what passes inserted."""
    optimizer = getattr(optim_wrapper, "optimizer", None)
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for group in parameter_groups(compression.model):
        new = [parameter for parameter in group["params"] if id(parameter) not in held]
        if new:
            optimizer.add_param_group({**group, "params": new})
