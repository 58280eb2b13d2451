"""NNCF's controller of a compressed model, over the model's own."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from fxcompress.compat.nncf.inputs import FillerInputInfo
from fxcompress.compat.nncf.stripping import stripped
from fxcompress.errors import InputError
from fxcompress.inplace.compression import Compression
from fxcompress.training.controller import CompositeController, CompressionStage, Controller
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
        original: the user's, where accuracy is to be compared with its.
    """

    original: nn.Module | None = None

    def __init__(self, compression: Compression, inputs: FillerInputInfo | None = None, name: str | None = None):
        self.compression, self.model, self.name = compression, compression.model, name
        self.own = compression.controller
        self.scheduler = CompressionScheduler(self.own.scheduler)
        self.model.nncf = SimpleNamespace(input_infos=inputs or FillerInputInfo([]))  # type: ignore[assignment]

    def loss(self) -> Tensor:
        return self.own.loss()

    def statistics(self, quickly_collected_only: bool = False) -> NNCFStatistics:
        levels = {f"{path}/level": child.level for path, child in children(self.own) if hasattr(child, "level")}
        if quickly_collected_only:
            return NNCFStatistics("", levels)
        return NNCFStatistics(str(self.own.statistics()), levels)

    def compression_stage(self) -> CompressionStage:
        return self.own.compression_stage()

    def get_compression_state(self) -> dict[str, Any]:
        """What `create_compressed_model` needs to make a model whose state can be loaded: plain data."""
        return {"scheduler": self.scheduler.get_state(), "config": self.compression.compiled.config_text()}

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
        """Write the model as an ONNX file, or in OpenVINO's format to a path that ends in ``.xml``."""
        if str(save_path).endswith(".xml"):
            self.compression.to_openvino(save_path)
            return
        opset = int(save_format.partition("_")[2]) if save_format and save_format.partition("_")[2].isdigit() else None
        lowest = None if opset is None or opset < 20 else opset
        self.compression.to_onnx(save_path, input_names=input_names, output_names=output_names, opset=lowest)

    def strip(self, do_copy: bool = True) -> nn.Module:
        """The model with torch's own `fake_quantize` in place of quantizers, for exporters that know that."""
        twin = stripped(copy.deepcopy(self.model) if do_copy else self.model)
        twin.nncf = self.model.nncf
        return twin

    prepare_for_inference = strip

    def strip_model(self, model: nn.Module, do_copy: bool = False) -> nn.Module:
        """As `strip`, of this controller's `model`."""
        return self.strip(do_copy)

    @property
    def leveled(self) -> Any:
        """What has the level of the first algorithm that has one.

        Raises:
            InputError: there is none.
        """
        found = self._leveled()
        if not found:
            raise InputError("no algorithm of this configuration has a level: sparsity and filter pruning have")
        return found[0] if len(found) == 1 else _Together(found)

    def _leveled(self) -> list[Any]:
        """The controllers of the first algorithm that has a level, one for each part of the model."""
        found = [(path, child) for path, child in children(self.own) if hasattr(child, "set_level")]
        return [child for path, child in found if path.rpartition("/")[2] == found[0][0].rpartition("/")[2]]

    @property
    def compression_rate(self) -> float:
        """The level of sparsity or pruning; 0 where there is none."""
        return self.leveled.level if self._leveled() else 0.0

    @compression_rate.setter
    def compression_rate(self, level: float) -> None:
        self.leveled.set_level(level)

    @property
    def maximal_compression_rate(self) -> float:
        return HIGHEST


class QuantizationController(CompressionAlgorithmController):
    """Of a model that is quantized or binarized and nothing else."""


class _Together:
    """The level of several parts."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts

    @property
    def level(self) -> float:
        return self.parts[0].level

    def set_level(self, level: float) -> None:
        for part in self.parts:
            part.set_level(level)


def children(controller: CompositeController, path: str = "") -> Iterator[tuple[str, Controller]]:
    """The controllers of all algorithms, each by its name, behind that of the part that it is of."""
    for name, child in controller.children.items():
        if isinstance(child, CompositeController):
            yield from children(child, f"{path}{name}/")
        else:
            yield f"{path}{name}", child
