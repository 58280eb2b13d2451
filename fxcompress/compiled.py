"""A compiled model: what `compile` returns."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import onnx_ir as ir
import torch
from torch import fx, nn

from fxcompress import defaults
from fxcompress.config import Config
from fxcompress.config.config import text_or_none
from fxcompress.conformance.writing import CheckedFile, Verify
from fxcompress.driver.both_modes import BothModes
from fxcompress.driver.compilation import Compilation
from fxcompress.driver.leave_out import leave_out
from fxcompress.emit.batch import fix_batch_size
from fxcompress.emit.files import check_onnx_path, write_onnx
from fxcompress.emit.forms import Form
from fxcompress.emit.interface import with_float32_interface
from fxcompress.emit.lowering import lower
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.openvino import check_openvino_path, write_openvino
from fxcompress.errors import FileWarning, ScheduleWarning, warn_user
from fxcompress.ir import modes
from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.exclusion import one_thread_at_a_time
from fxcompress.ir.naming import keep_state_keys, keeps_its_names
from fxcompress.ir.state import share_state
from fxcompress.options import check_arguments
from fxcompress.report.rows import Report
from fxcompress.storage.atomic import as_path
from fxcompress.training.checkpoint import fingerprint, load_checkpoint, take_checkpoint
from fxcompress.training.controller import CompositeController, compose
from fxcompress.views.dump import dump_step
from fxcompress.views.text import to_text


@keeps_its_names
class Compiled(BothModes):
    """A compiled model: an ordinary module with the original's parameters and calling convention.

    What is no tensor in a call is as in the example, lists are as long and dicts have the same keys: others are `InputError`s.
    Another size than `compile` left free is warned of, since what forward computes from sizes is of those that it had.
    """

    compilation: Compilation
    _controller: CompositeController | None = None
    _schedules: Mapping[str, Any] | None = None  # where those of the model that this is a copy of were
    _controller_of_parts: CompositeController | None = None  # which this was captured from

    @classmethod
    def wrap(cls, graph_module: fx.GraphModule, compilation: Compilation) -> Compiled:
        """`graph_module` as a compiled model; the two share their tensors."""
        compiled = cls(graph_module, graph_module.graph, "Compiled")
        share_state(graph_module, compiled)
        compiled.meta = dict(graph_module.meta)
        compiled.compilation = compilation
        keep_state_keys(compiled, compiled.meta.get("own_names", {}))
        return compiled.eval()

    @classmethod
    def sharing(cls, module: nn.Module, graph: fx.Graph, compiled: Compiled) -> Compiled:
        """`graph` on the state of `module`, now and later, with the record of `compiled`."""
        shared = cls(module, graph, "Compiled")
        share_state(module, shared)
        shared.meta, shared.compilation = dict(compiled.meta), compiled.compilation
        shared.training = module.training
        return shared

    @property
    def report(self) -> Report:
        """One row a pass: effect, nodes, rewrites, bytes, dB, ms. Print it."""
        return self.compilation.report

    @property
    def config(self) -> Config:
        """What was run, as a configuration: ``compiled.config.dump("as_run.yaml")`` loads to equal passes."""
        return Config(passes=self.compilation.passes, target=self.compilation.target.name)

    def config_text(self) -> str | None:
        """`config` as the text of a file; None where no file can hold it."""
        return text_or_none(self.compilation.passes, self.compilation.target.name)

    @property
    def controller(self) -> CompositeController:
        """The loop's hold on compression: a controller for each pass that has one. A copy goes on with its own."""
        if self._controller_of_parts is not None:
            return self._controller_of_parts
        if self._controller is None:
            found = [(one.name, one.controller(self)) for one in self.compilation.passes]
            self._controller = compose([(name, controller) for name, controller in found if controller is not None])
            if self._schedules is not None:
                self._controller.scheduler.load_state_dict(self._schedules)
        return self._controller

    def checkpoint(self) -> dict[str, Any]:
        """All that this model needs to go on training from here: weights, the state of compression, schedules, passes.

        Tensors are copies. It is plain data: ``torch.save`` it, and ``torch.load(path, weights_only=True)``. The optimizer's
        state, and the random generators', are yours to keep.
        """
        passes, config = self.compilation.passes, self.config_text()
        return take_checkpoint(self, self.controller.scheduler, passes, self.computes(), config)

    def load_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Go on from a `checkpoint` of the same compilation of the same model; whole, or not at all.

        Raises:
            CheckpointError: it is of another model or other passes, was damaged, or has values that cannot be; says which.
        """
        load_checkpoint(self, self.controller.scheduler, self.compilation.passes, self.computes(), state)

    def computes(self) -> dict[str, str]:
        """What tells this model from another with the same names for its tensors: its graph and its target."""
        return {"graph": fingerprint(self.graph), "target": self.compilation.target.name}

    def train(self, mode: bool = True) -> Self:
        """As of any module; warns of what the model does in training and this one does not (`TrainingWarning`)."""
        if mode is True and not self.training:
            modes.warn_of_training(self)
        return super().train(mode)

    def without(self, *inputs: str) -> Compiled:
        """This model, on the same tensors, without `inputs` that a loss in forward needs, such as ``"labels"``.

        What it returns has the same form; outputs that need the inputs are None, and its files hold the others.

        Raises:
            InputError: there is no such input, or every output needs them.
        """
        graph, example = leave_out(self, self.compilation.example, inputs)
        left = Compiled.sharing(self, graph, self)
        left.compilation, left._controller = replace(self.compilation, example=example), self.controller
        left._controller_of_parts = self._controller_of_parts
        left.training = any(child.training for child in self.children())  # in place only they are told of the mode
        return left

    def text(self) -> str:
        """The graph as text, a line a node."""
        return to_text(self)

    def dump(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the graph after every pass to `folder`: text, DOT, GraphML and a picture each.

        Raises:
            InputError: `folder` cannot be written.
        """
        written = []
        for position, (name, graph) in enumerate(self.compilation.steps):
            written += dump_step(self.compilation.earlier.step(self, graph), as_path(folder), position, name)
        return written

    @one_thread_at_a_time
    def lower(self, *, binary_convolutions: bool = False) -> fx.GraphModule:
        """The graph that is written to a file: quantize and dequantize operations, integer weights.

        Its ``meta["report"]`` tells what the lowering did. With `binary_convolutions` it is the one for OpenVINO's format.

        Raises:
            PlanError: a quantizer has no range yet.
            VerificationError: the lowered graph does not compute what this model computes.
        """
        passes = defaults.lowering(binary_convolutions=binary_convolutions)
        return lower(self, passes, self.compilation.example, self.compilation.target)

    @check_arguments("input_names", "output_names")
    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        opset: int | None = None,
        verify: Verify = True,
    ) -> Path:
        """Write the model as ONNX with QuantizeLinear, DequantizeLinear and integer weights.

        It is written under a temporary name first: `path` never holds half a model.

        Args:
            batch_size: of the file's inputs. None leaves it free, so that the file takes every batch that the model takes;
                small networks run up to a fifth faster in OpenVINO where it is fixed.
            input_names: names of the inputs, in the order of forward's parameters; None for those of the parameters.
            output_names: of the outputs; None for ``output``, the keys of a dict, or ``output_0``, ``output_1`` ...
            opset: of the ONNX operators; None for the lowest that the model needs: 20, or 21.
            verify: run the file in the target's runtime, where that is installed, in a process of its own, and compare it with
                this model on the example inputs, in two batch sizes and every other size that is free. The report has a row for
                it. A file that computes something else than rounding explains is warned of (`FileWarning`), with ``"strict"``
                an error. False for neither.

        Raises:
            InputError: `path` cannot be written, or an option cannot be used.
            EmitError: an operation has no ONNX translation.
            VerificationError: the file does not load in the target's runtime, or see `verify`; nothing is written.
        """
        check_onnx_path(path)
        file = CheckedFile(
            lower=partial(self._lowered, batch_size=batch_size),
            emit=partial(self._emitted, opset=opset),
            names={"input_names": input_names, "output_names": output_names},
            write=write_onnx,
            runtime=self.compilation.target.runtime,
            example=self.compilation.example,
        )
        return self._write(path, file, verify)

    @check_arguments("stateful")
    def to_openvino(
        self, path: str | os.PathLike[str], *, batch_size: int | None = None, stateful: bool = False, verify: Verify = True
    ) -> Path:
        """Write the model as OpenVINO IR: the ``.xml`` file `path`, and its weights beside it, as ``.bin``.

        Binarized convolutions become `BinaryConvolution`, which runs on bits. Apart from them the file is what OpenVINO
        makes of the ONNX file.

        Args:
            batch_size: of the file's inputs. None leaves it free, but makes it 1 where there are binary convolutions, which
                OpenVINO runs with fixed sizes only: all others that are free are those of the example then. Other ones can be
                set in OpenVINO: ``model.reshape(...)``.
            stateful: a decoder compiled on `decoding_inputs` keeps its cache itself, with OpenVINO's kernel for that, as its
                pipelines for generation expect; see `fxcompress.emit.stateful`.
            verify: as of `to_onnx`, in OpenVINO.

        Raises:
            InputError: `path` cannot be written or does not end in ``.xml``, `batch_size` cannot be used, the model has no
                cache to keep, or OpenVINO is not installed.
            EmitError: an operation has no translation.
            VerificationError: as of `to_onnx`.
        """
        check_openvino_path(path)
        file = CheckedFile(
            lower=partial(self._lowered, binary_convolutions=True),
            emit=partial(self._emitted, forms={Form.TIED_ONCE, *([Form.FUSED_ATTENTION] if stateful else [])}),
            write=partial(write_openvino, batch_size=batch_size),
            form={"stateful": stateful},
            runtime="openvino",
            example=self.compilation.example,
        )
        return self._write(path, file, verify)

    @one_thread_at_a_time  # the process that runs files is one for all
    def _write(self, path: str | os.PathLike[str], file: CheckedFile, verify: Verify) -> Path:
        """Write `file` and tell of it; a schedule that was never stepped is warned of, since the file has little of it."""
        lacking = [*self.controller.lacking()]
        written = file.write_to(path, verify)
        if file.row:
            self.report.replace(file.row)
        if file.mismatch:
            warn_user(file.mismatch, FileWarning)
        too_large = self.compilation.beyond_limit(file.weight_bytes, file.told)
        if too_large:
            warn_user(f"{path} {too_large}", FileWarning)
        for lack in lacking:
            warn_user(f"{path} has {lack}", ScheduleWarning)
        return written

    def _lowered(self, batch_size: int | None = None, **how: bool) -> fx.GraphModule:
        return fix_batch_size(with_float32_interface(self.lower(**how)), batch_size)

    def _emitted(self, lowered: fx.GraphModule, **how: Any) -> ir.Model:
        return to_onnx_model(lowered, metadata=self._metadata(), faults=self.compilation.target.faults, **how)

    def _metadata(self) -> dict[str, str]:
        return {
            "fxcompress.passes": "; ".join(map(str, self.compilation.passes)),
            "fxcompress.target": self.compilation.target.name,
            "torch": torch.__version__,
        }

    def __reduce__(self) -> Any:
        """Pickling would trace the generated code again and lose what the graph knows."""
        raise TypeError(
            "a compiled model cannot be pickled; save its state, torch.save(compiled.checkpoint(), path), and load that into "
            "the same compilation of the model, or write the model itself with compiled.to_onnx(path)"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """A copy with tensors and a controller of its own, at the same step; the record of how it came about is shared."""
        twin = memo[id(self)] = Compiled(self, copy_graph(self.graph), "Compiled")
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        twin.meta, twin.compilation, twin.training = dict(self.meta), self.compilation, self.training
        keep_state_keys(twin, twin.meta.get("own_names", {}))
        twin._controller_of_parts = self._controller_of_parts
        twin._schedules = self._schedules if self._controller is None else self._controller.scheduler.state_dict()
        return twin
