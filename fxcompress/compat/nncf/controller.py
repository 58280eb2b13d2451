"""NNCF's controller of a compressed model, over the model's own."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.compat.nncf.inputs import FillerInputInfo
from fxcompress.compiled import Compiled
from fxcompress.errors import InputError
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.training.controller import CompressionStage
from fxcompress.training.scheduler import Scheduler

HIGHEST = 0.95
"""Level of compression that is tried at most."""


@dataclass
class NNCFStatistics:
    """What a model's compression looks like, as text, and as numbers by name."""

    text: str
    numbers: dict[str, float] = field(default_factory=dict)

    def to_str(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text


class CompressionScheduler:
    """The scheduler of the model's controller, by NNCF's names."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler

    @property
    def current_epoch(self) -> int:
        return self.scheduler.current_epoch

    @property
    def current_step(self) -> int:
        return self.scheduler.current_step

    def epoch_step(self, next_epoch: int | None = None) -> None:
        self.scheduler.epoch_step(next_epoch)

    def step(self, next_step: int | None = None) -> None:
        self.scheduler.step(next_step)

    def get_state(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


class CompressionAlgorithmController:
    """The hold of a training loop on a compressed model.

    Attributes:
        model: the compressed one.
    """

    def __init__(self, model: Compiled, name: str | None = None):
        self.model, self.name = model, name
        self.own = model.controller
        self.scheduler = CompressionScheduler(self.own.scheduler)
        model.nncf = SimpleNamespace(input_infos=FillerInputInfo.of_example(model.compilation.example))  # type: ignore[assignment]

    def loss(self) -> Tensor:
        return self.own.loss()

    def statistics(self, quickly_collected_only: bool = False) -> NNCFStatistics:
        levels = {f"{name}/level": child.level for name, child in self.own.children.items() if hasattr(child, "level")}
        if quickly_collected_only:
            return NNCFStatistics("", levels)
        return NNCFStatistics(str(self.own.statistics()), levels)

    def compression_stage(self) -> CompressionStage:
        return self.own.compression_stage()

    def get_compression_state(self) -> dict[str, Any]:
        """What `create_compressed_model` needs to make a model whose state can be loaded: plain data."""
        return {"scheduler": self.scheduler.get_state(), "config": self.model.config_text()}

    def distributed(self) -> None:
        """Nothing is to be done: see docs/training.md."""

    def disable_scheduler(self) -> None:
        """Let levels stay as they are, whatever epoch comes."""
        self.scheduler = CompressionScheduler(Scheduler())

    def prepare_for_export(self) -> None:
        """Nothing is to be done: files are written from a copy."""

    def export_model(
        self,
        save_path: str | os.PathLike[str],
        save_format: str | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        model_args: Any = None,
    ) -> None:
        """Write the model as an ONNX file, or, where `save_path` ends in ``.xml``, in OpenVINO's format."""
        if str(save_path).endswith(".xml"):
            self.model.to_openvino(save_path)
            return
        opset = int(save_format.partition("_")[2]) if save_format and save_format.partition("_")[2].isdigit() else None
        lowest = None if opset is None or opset < 20 else opset
        self.model.to_onnx(save_path, input_names=input_names, output_names=output_names, opset=lowest)

    def strip(self, do_copy: bool = True) -> nn.Module:
        """The model with torch's own `fake_quantize` in place of quantizers, for exporters that know that."""
        twin = copy.deepcopy(self.model) if do_copy else self.model
        for call, quantizer in quantizer_calls(twin).items():
            owner, _, leaf = str(call.target).rpartition(".")
            setattr(twin.get_submodule(owner), leaf, _FakeQuantize(quantizer))
        twin.nncf = self.model.nncf  # type: ignore[assignment]
        return twin.eval()

    @property
    def leveled(self) -> Any:
        """The first controller that has a level.

        Raises:
            InputError: there is none.
        """
        found = next((child for child in self.own.children.values() if hasattr(child, "set_level")), None)
        if found is None:
            raise InputError("no algorithm of this configuration has a level: sparsity and filter pruning have")
        return found

    @property
    def compression_rate(self) -> float:
        """The level of sparsity or pruning; 0 where there is none."""
        levels = [getattr(child, "level", 0.0) for child in self.own.children.values() if hasattr(child, "set_level")]
        return levels[0] if levels else 0.0

    @compression_rate.setter
    def compression_rate(self, level: float) -> None:
        self.leveled.set_level(level)

    @property
    def maximal_compression_rate(self) -> float:
        return HIGHEST


class QuantizationController(CompressionAlgorithmController):
    """Of a model that is quantized or binarized and nothing else."""


class _FakeQuantize(nn.Module):
    """Torch's fake quantization on all 8 bits, behind a clamp to the levels that the quantizer has.

    This is the same function for every grid of up to 8 bits, and torch's exporters know no other than that of 8 bits.
    """

    def __init__(self, quantizer: Quantizer):
        super().__init__()
        low, high = quantizer.levels
        self.axis = None if quantizer.spec.group_size else quantizer.spec.scale_axis
        self.enabled, self.full = quantizer.enabled, (-128, 127) if low < 0 else (0, 255)
        scale, zero_point = quantizer.scale.detach().clone(), quantizer.zero_point.detach().clone().to(torch.int32)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.lowest: Tensor | None
        self.highest: Tensor | None
        clamps = (low, high) != self.full
        self.register_buffer("lowest", (low - zero_point) * scale if clamps else None)
        self.register_buffer("highest", (high - zero_point) * scale if clamps else None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self.lowest is not None and self.highest is not None:
            shape = [1] * x.dim()
            if self.axis is not None:
                shape[self.axis] = -1
            x = torch.maximum(torch.minimum(x, self.highest.reshape(shape)), self.lowest.reshape(shape))
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *self.full)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.axis, *self.full)
