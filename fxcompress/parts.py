"""A model compiled in part: its submodules that trace, in the place of the originals."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import fx, nn

from fxcompress.capture import private_copy
from fxcompress.capture.recording import recording
from fxcompress.compiled import Compiled
from fxcompress.config import Config
from fxcompress.conformance.writing import Verify
from fxcompress.data.fitting import aligned
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError
from fxcompress.report.rows import Report
from fxcompress.report.tables import printed, titled
from fxcompress.report.units import readable_bytes, readable_decibels
from fxcompress.storage.atomic import as_path, make_folder
from fxcompress.storage.names import file_names
from fxcompress.training.checkpoint import load_checkpoint, take_checkpoint
from fxcompress.training.controller import CompositeController

_SHOWN, _REASONS, _WIDTH = 12, 4, 100
"""Rows, reasons and columns of a summary."""


class PartlyCompiled(nn.Module):
    """The model, with some submodules compiled; called like the model.

    Attributes:
        model: a copy of the user's model whose compiled submodules are replaced.
        parts: the compiled submodules by path.
        left_alone: the modules that could not be traced, with the reason.
    """

    def __init__(self, model: nn.Module, parts: dict[str, Compiled], left_alone: dict[str, str]):
        super().__init__()
        self.model = private_copy(model)
        self.parts, self.left_alone = parts, left_alone
        for path, part in parts.items():
            self.model.set_submodule(path, part)
        self.training = False
        self._controller: CompositeController | None = None

    @classmethod
    def around(cls, model: nn.Module, parts: dict[str, Compiled], left_alone: dict[str, str]) -> PartlyCompiled:
        """Of `model` itself, which calls its parts already."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.model, made.parts, made.left_alone, made._controller = model, parts, left_alone, None
        made.training = model.training
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    @property
    def report(self) -> Report:
        """The rows of all parts, each pass under its part's path, and what was left alone."""
        rows = [replace(row, name=f"{path}: {row.name}") for path, part in self.parts.items() for row in part.report.rows]
        left = [f"{path or type(self.model).__name__} was not compiled: {why}" for path, why in self.left_alone.items()]
        return Report(rows, remarks=left)

    def summary(self) -> str:
        """What was compiled, in a table that fits a screen: the largest parts, and what was left alone, with the reason."""
        left = [f"{path or type(self.model).__name__} was not compiled: {why}" for path, why in self.left_alone.items()]
        told = [textwrap.shorten(one, _WIDTH * 2, placeholder=" ...") for one in left[:_REASONS]]
        if len(left) > _REASONS:
            told.append(f"... and {len(left) - _REASONS} more")
        return printed(self._table(), _WIDTH) + "".join(f"{textwrap.fill(one, _WIDTH)}\n" for one in told)

    def __repr__(self) -> str:
        return self.summary()

    def _table(self) -> Table:
        sizes = {path: part.report.rows[-1].bytes for path, part in self.parts.items()}
        shown = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        title = f"{type(self.model).__name__}, compiled in {len(self.parts)} parts"
        table = titled(title, "part", "weights", "dB", numbers={"weights", "dB"})
        for path in shown:
            decibels = min((row.decibels for row in self.parts[path].report.rows if row.decibels is not None), default=None)
            table.add_row(path, readable_bytes(sizes[path]), readable_decibels(decibels))
        if len(sizes) > len(shown):
            rest = readable_bytes(sum(sizes[path] for path in sizes if path not in shown))
            table.add_row(f"{len(sizes) - len(shown)} smaller ones", rest, "")
        return table

    def text(self) -> str:
        """The graphs of all parts as text, each under its part's path."""
        return "\n".join(f"{path}:\n{part.text()}" for path, part in self.parts.items())

    def lower(self, *, binary_convolutions: bool = False) -> dict[str, fx.GraphModule]:
        """As `Compiled.lower`, of each part, by its path."""
        return {path: part.lower(binary_convolutions=binary_convolutions) for path, part in self.parts.items()}

    @property
    def config(self) -> Config:
        """As `Compiled.config`; all parts were compiled with the same."""
        return next(iter(self.parts.values())).config

    def config_text(self) -> str | None:
        """As `Compiled.config_text`."""
        return next(iter(self.parts.values())).config_text()

    @property
    def controller(self) -> CompositeController:
        """The controllers of all parts, each under its part's path; see `Compiled.controller`."""
        if self._controller is None:
            self._controller = CompositeController({path: part.controller for path, part in self.parts.items()})
        return self._controller

    def checkpoint(self) -> dict[str, Any]:
        """As `Compiled.checkpoint`, of the whole model."""
        return take_checkpoint(self, self.controller.scheduler, self._passes(), self._computes(), self.config_text())

    def load_checkpoint(self, state: Mapping[str, Any]) -> None:
        """As `Compiled.load_checkpoint`."""
        load_checkpoint(self, self.controller.scheduler, self._passes(), self._computes(), state)

    def _computes(self) -> dict[str, str]:
        return {f"{what} of {path}": value for path, part in self.parts.items() for what, value in part.computes().items()}

    def _passes(self) -> list[str]:
        return [f"{path}: {one}" for path, part in self.parts.items() for one in part.compilation.passes]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_controller": None}  # a copy has its own

    def dump(self, folder: str | os.PathLike[str]) -> list[Path]:
        """As `Compiled.dump`, each part in a folder of its own."""
        names = file_names(self.parts)
        return [file for path, part in self.parts.items() for file in part.dump(as_path(folder) / names[path])]

    def to_onnx(
        self,
        folder: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        opset: int | None = None,
        verify: Verify = True,
    ) -> list[Path]:
        """Write each part to `folder` as ``<path>.onnx``; see `Compiled.to_onnx`.

        Raises:
            InputError: `folder` cannot be written, and as `Compiled.to_onnx`.
        """
        directory, names = self._folder(folder), file_names(self.parts)
        return [
            part.to_onnx(directory / f"{names[path]}.onnx", batch_size=batch_size, opset=opset, verify=verify)
            for path, part in self.parts.items()
        ]

    def to_openvino(
        self, folder: str | os.PathLike[str], *, batch_size: int | None = None, verify: Verify = True
    ) -> list[Path]:
        """Write each part to `folder` as ``<path>.xml`` and ``<path>.bin``; see `Compiled.to_openvino`.

        Raises:
            InputError: `folder` cannot be written, or as `Compiled.to_openvino`.
        """
        directory, names = self._folder(folder), file_names(self.parts)
        return [
            part.to_openvino(directory / f"{names[path]}.xml", batch_size=batch_size, verify=verify)
            for path, part in self.parts.items()
        ]

    def _folder(self, folder: str | os.PathLike[str]) -> Path:
        """The folder for the parts' files, made where it does not exist."""
        directory = as_path(folder)
        if directory.suffix in (".onnx", ".xml"):
            raise InputError(f"the model was compiled in {len(self.parts)} parts, a file each: name a folder, not {directory}")
        return make_folder(directory)


class SubmoduleData:
    """What the submodule at `path` is given while `model` runs over `data`: calibration data for that part."""

    def __init__(self, model: nn.Module, path: str, data: Iterable[Any], example: ExampleInputs):
        self.model, self.path, self.data, self.example = private_copy(model), path, data, example

    def __iter__(self) -> Iterator[ExampleInputs]:
        submodule = self.model.get_submodule(self.path)
        for batch in self.data:
            inputs = aligned(batch, self.example).copy()
            with recording({self.path: submodule}) as calls, torch.no_grad():
                self.model(*inputs.args, **inputs.kwargs)
            yield from calls.get(self.path, [])
