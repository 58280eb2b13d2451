"""A model compiled in part: its submodules that trace, in the place of the originals."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import fx, nn

from fxcompress.capture import private_copy, twin_of, unwritten
from fxcompress.capture.recording import recording
from fxcompress.compiled import Compiled
from fxcompress.config import Config
from fxcompress.conformance.writing import Verify
from fxcompress.data.fitting import aligned
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.inputs import example_inputs as find_example_inputs
from fxcompress.driver.compilation import Compilation
from fxcompress.driver.for_losses import without_loss_inputs
from fxcompress.driver.leave_out import loss_inputs
from fxcompress.driver.whole import Forward, capture_whole
from fxcompress.errors import InputError
from fxcompress.ir.dialect import copy_graph
from fxcompress.report.rows import Report, Row
from fxcompress.report.tables import printed, titled
from fxcompress.report.units import readable_bytes, readable_decibels
from fxcompress.storage.atomic import as_file, as_path, make_folder
from fxcompress.storage.names import file_names
from fxcompress.training.checkpoint import load_checkpoint, take_checkpoint
from fxcompress.training.controller import CompositeController

_SHOWN, _REASONS, _WIDTH = 12, 4, 100
"""Rows, reasons and columns of a summary."""


class PartlyCompiled(nn.Module):
    """The model, with some submodules compiled; called like the model.

    Attributes:
        model: a copy of the user's model whose compiled submodules are replaced, or the user's, compressed in place.
        parts: the compiled submodules by path.
        left_alone: the modules that could not be traced, with the reason.
        example: the inputs that the parts were traced with.
        every_size: whether all sizes of theirs are free that can be.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: dict[str, Compiled],
        left_alone: dict[str, str],
        example: ExampleInputs,
        *,
        every_size: bool = False,
    ):
        """Of `model` itself, which calls its parts."""
        super().__init__()
        self.model, self.parts, self.left_alone = model, parts, left_alone
        self.example, self.every_size = example, every_size
        self.training = model.training
        self._unwrapped = "forward" not in vars(model)
        self._controller: CompositeController | None = None
        self._schedules: Mapping[str, Any] | None = None  # where those of the model that this is a copy of were
        self._files: list[Row] = []

    @classmethod
    def of_copy(cls, model: nn.Module, parts: dict[str, Compiled], *rest: Any, **options: Any) -> PartlyCompiled:
        """Of a copy of `model`, in inference mode, with `parts` in the place of its own."""
        twin = private_copy(model)
        for path, part in parts.items():
            twin.set_submodule(path, part)
        made = cls(twin, parts, *rest, **options)
        made.training = False
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    @property
    def report(self) -> Report:
        """The rows of all parts, each pass under its part's path, and what was left alone."""
        rows = [replace(row, name=f"{path}: {row.name}") for path, part in self.parts.items() for row in part.report.rows]
        left = [f"{path or type(self.model).__name__} was not compiled: {why}" for path, why in self.left_alone.items()]
        return Report([*rows, *self._files], remarks=left)

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
            if self._schedules is not None:
                self._controller.scheduler.load_state_dict(self._schedules)
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
        schedules = self._schedules if self._controller is None else self._controller.scheduler.state_dict()
        return {**self.__dict__, "_controller": None, "_schedules": schedules}  # a copy has its own, which goes on from there

    def dump(self, folder: str | os.PathLike[str]) -> list[Path]:
        """As `Compiled.dump`, each part in a folder of its own."""
        names = file_names(self.parts)
        return [file for path, part in self.parts.items() for file in part.dump(as_path(folder) / names[path])]

    def whole(self, forward: Forward | None = None, *, example_inputs: Any = None) -> Compiled:
        """The model as one graph in inference mode, with its parts as they are now: quantizers and masks, tensors copied.

        Args:
            forward: what it computes, ``forward(model, *inputs)``, which calls the parts and can be traced. None for what the
                model computes; or where that cannot be traced, what its last parts return, up to post-processing.
            example_inputs: as of `compile`, of `forward`; None for those that the parts were traced with.

        Raises:
            CaptureError: it cannot be traced; says what to do instead.
        """
        example = self.example if example_inputs is None else find_example_inputs(self.model, example_inputs)
        captured = capture_whole(
            self.model, list(self.parts), example, forward, every_size=self.every_size, unwrapped=self._unwrapped
        )
        one = next(iter(self.parts.values())).compilation
        graph_module, steps = captured.graph_module, [("Capture", copy_graph(captured.graph_module.graph))]
        record = Compilation(Report([captured.row]), one.passes, captured.example, one.target, steps)
        made = Compiled.wrap(graph_module, record)
        made._controller_of_parts = self.controller
        return made

    def without(self, *inputs: str) -> Compiled:
        """The model as one graph (see `whole`) without `inputs` that a loss in forward needs; see `Compiled.without`."""
        return self.whole().without(*inputs)

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        forward: Forward | None = None,
        example_inputs: Any = None,
        batch_size: int | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        opset: int | None = None,
        verify: Verify = True,
    ) -> Path | list[Path]:
        """Write the whole model to the file `path`, or each part to the folder `path` as ``<part>.onnx``.

        The file computes what the model does, without the losses and the inputs that they alone need (``labels``). Where the
        model cannot be traced, as with post-processing by values, it computes what the last parts return.

        Args:
            path: ends in ``.onnx`` where it is the file.
            forward, example_inputs: of the file; as of `whole`.
            batch_size, input_names, output_names, opset, verify: as of `Compiled.to_onnx`; names are of the file.

        Raises:
            CaptureError: as `whole`.
            InputError: `path` cannot be written, and as `Compiled.to_onnx`.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "opset": opset, "verify": verify}
        named: dict[str, Any] = {"input_names": input_names, "output_names": output_names}
        if as_path(path).suffix == ".onnx":
            file = as_file(path)
            return self._write(forward, example_inputs, lambda whole: whole.to_onnx(file, **named, **options))
        files = self._parts_files(path, ".onnx", {"forward": forward, "example_inputs": example_inputs, **named})
        return [part.to_onnx(file, **options) for part, file in files]

    def to_openvino(
        self,
        path: str | os.PathLike[str],
        *,
        forward: Forward | None = None,
        example_inputs: Any = None,
        batch_size: int | None = None,
        stateful: bool = False,
        verify: Verify = True,
    ) -> Path | list[Path]:
        """As `to_onnx`, in OpenVINO's own format: the file ends in ``.xml``; see `Compiled.to_openvino`."""
        options: dict[str, Any] = {"batch_size": batch_size, "stateful": stateful, "verify": verify}
        if as_path(path).suffix == ".xml":
            file = as_file(path)
            return self._write(forward, example_inputs, lambda whole: whole.to_openvino(file, **options))
        files = self._parts_files(path, ".xml", {"forward": forward, "example_inputs": example_inputs})
        return [part.to_openvino(file, **options) for part, file in files]

    def _write(self, forward: Forward | None, example_inputs: Any, write: Callable[[Compiled], Path]) -> Path:
        if forward is None:
            given = self.example if example_inputs is None else find_example_inputs(self.model, example_inputs)
            example_inputs = without_loss_inputs(self.model, given)
        whole = self.whole(forward, example_inputs=example_inputs)
        for_losses = loss_inputs(whole, whole.compilation.example)
        whole = whole.without(*for_losses) if for_losses else whole
        written = write(whole)
        self._files = [replace(row, name=f"whole: {row.name}") for row in whole.report.rows]
        return written

    def _parts_files(self, folder: Any, suffix: str, of_files: dict[str, Any]) -> Iterator[tuple[Compiled, Path]]:
        """Each part with the file to write it to, in `folder`, which is made where it does not exist."""
        directory, names = as_path(folder), file_names(self.parts)
        given = [name for name, value in of_files.items() if value is not None]
        if given or directory.suffix in (".onnx", ".xml"):
            why = f"{', '.join(given)} is for one file" if given else "the other format has a method of its own"
            raise InputError(f"name a file that ends in {suffix}, not {directory}, or a folder for a file a part: {why}")
        make_folder(directory)
        return ((part, directory / f"{names[path]}{suffix}") for path, part in self.parts.items())


class SubmoduleData:
    """What the submodule at `path` is given while `model` runs over `data`: calibration data for that part."""

    def __init__(self, model: nn.Module, path: str, data: Iterable[Any], example: ExampleInputs):
        self.model, self.path, self.data, self.example = twin_of(model), path, data, example

    def __iter__(self) -> Iterator[ExampleInputs]:
        submodule = self.model.get_submodule(self.path)
        for batch in self.data:
            inputs = aligned(batch, self.example).copy()
            with recording({self.path: submodule}) as calls, torch.no_grad(), unwritten(self.model):
                self.model(*inputs.args, **inputs.kwargs)
            yield from calls.get(self.path, [])
