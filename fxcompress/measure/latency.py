"""How long files take in OpenVINO's CPU plugin, whole and kernel by kernel, measured side by side.

Float parts run in float32 (``INFERENCE_PRECISION_HINT=f32``); the plugin would take bfloat16 where the CPU has it. Every
round gives each file one turn, in an order that rotates, so that what slows the machine for a while slows all of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.files import write_onnx
from fxcompress.emit.interface import float32_inputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.openvino import require_openvino
from fxcompress.ir.reach import reached
from fxcompress.quantization.regions import fused_chain
from fxcompress.storage.atomic import passing_folder
from fxcompress.targets import Target

INTEGERS = frozenset({"i8", "u8"})
_QUANTIZE = re.compile(r"_(de)?quantize(_\d+)?$")
_NO_WORK = frozenset({"Const", "Input", "Output"})


@dataclass(frozen=True)
class Kernel:
    """One kernel that the plugin runs.

    Attributes:
        names: the operations of the file that it computes, under their names there; the first gave the kernel its name.
        integer: whether it runs in 8-bit integers.
        seconds: the median of all runs, with the conversions that it is the cause of.
    """

    names: tuple[str, ...]
    integer: bool
    seconds: float


Lower = Callable[[fx.GraphModule], fx.GraphModule]
"""From a graph module with quantizers to that of its file: `Context.lower`, or `Compiled.lower`."""


def measure_latencies(variants: Mapping[str, fx.GraphModule], example: ExampleInputs, lower: Lower) -> dict[str, np.ndarray]:
    """`latencies` of the files of graph modules with quantizers, for one sample of `example`."""
    with passing_folder("fxcompress-latency") as folder:
        return latencies(_written(variants, lower, folder), _one_input(variants, example))


def measure_kernels(variants: Mapping[str, fx.GraphModule], example: ExampleInputs, lower: Lower) -> dict[str, list[Kernel]]:
    """`profiles` of the files of graph modules with quantizers, for one sample of `example`."""
    with passing_folder("fxcompress-latency") as folder:
        return profiles(_written(variants, lower, folder), _one_input(variants, example))


def is_faster(new: np.ndarray, old: np.ndarray, gain: float) -> bool:
    """Whether `new` takes less time than `old` by the share `gain` in the median round, and less in three of four rounds."""
    ratios = new / old
    return bool(np.median(ratios) <= 1 - gain and np.quantile(ratios, 0.75) < 1)


def _written(variants: Mapping[str, fx.GraphModule], lower: Lower, folder: Path) -> dict[str, Path]:
    require_openvino("measuring latency")
    lowered = {name: lower(module) for name, module in variants.items()}
    files: dict[str, Path] = {}
    for name, module in lowered.items():
        model = to_onnx_model(module, output_names=_output_names(module))
        files[name] = write_onnx(model, folder / f"{len(files)}.onnx")
    return files


def _output_names(lowered: fx.GraphModule) -> list[str]:
    """The names of the operations that compute the outputs, which their kernels are then called by."""
    leaves = [leaf for leaf in pytree.tree_leaves(lowered.graph.output_node().args[0]) if leaf is not None]
    return [leaf.name if isinstance(leaf, fx.Node) else f"output_{i}" for i, leaf in enumerate(leaves)]


def _one_input(variants: Mapping[str, fx.GraphModule], example: ExampleInputs) -> list[np.ndarray]:
    """The tensors of one call, of one sample where the batch size is free."""
    one = float32_inputs(Batch.of(next(iter(variants.values())).graph).first(example, 1))
    leaves = pytree.tree_leaves((one.args, one.kwargs))
    return [np.ascontiguousarray(leaf.detach().numpy()) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def latencies(
    files: Mapping[str, Path], inputs: Sequence[np.ndarray], *, loads: int = 3, rounds: int = 30
) -> dict[str, np.ndarray]:
    """Seconds an inference of each of `files`, by name, shape ``[loads * rounds]``.

    Equal positions are one round, so ratios round by round are free of the machine's drift. The files are compiled anew
    `loads` times, since where their memory lies moves a latency by more than the noise of one load.

    Raises:
        InputError: OpenVINO is not installed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(loads):
        requests = {name: _request(path, inputs) for name, path in files.items()}
        for order in _orders(files, rounds):
            for name in order:
                requests[name].infer()  # brings the weights back into the cache
                started = time.perf_counter()
                requests[name].infer()
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(taken) for name, taken in seconds.items()}


def profiles(
    files: Mapping[str, Path], inputs: Sequence[np.ndarray], *, loads: int = 3, rounds: int = 20
) -> dict[str, list[Kernel]]:
    """The kernels of each of `files`, by name, with their times from the plugin's own counters.

    A conversion (a reorder, or a quantization that is fused to nothing) is charged to the kernel on the float side of it,
    which it is there for; where both sides are of one kind, to the one that it reads.

    Raises:
        InputError: OpenVINO is not installed.
    """
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in files}
    graphs: dict[str, list[Executed]] = {}
    for _ in range(loads):
        requests = {name: _request(path, inputs, PERF_COUNT=True) for name, path in files.items()}
        graphs = {name: _executed(request.get_compiled_model()) for name, request in requests.items()}
        for order in _orders(files, rounds):
            for name in order:
                requests[name].infer()
                for entry in requests[name].get_profiling_info():
                    taken[name].setdefault(entry.node_name, []).append(entry.real_time.total_seconds())
    return {name: charge(graphs[name], {key: float(np.median(t)) for key, t in taken[name].items()}) for name in files}


def seconds_of(kernels: Sequence[Kernel], node: fx.Node, target: Target) -> float:
    """The time of the kernels that the operation `node` of the graph heads; 0 where it runs inside another one's.

    A kernel is called by any of its operations: by `node`, by what is fused to it, or by the quantizer behind them.
    """
    family = {member.name for member in fused_chain(node, target.fused)}
    return sum(kernel.seconds for kernel in kernels if _QUANTIZE.sub("", kernel.names[0]) in family)


@dataclass(frozen=True)
class Executed:
    """A node of the plugin's execution graph."""

    name: str
    kind: str
    integer: bool
    originals: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def converts(self) -> bool:
        """Whether it only brings values into another layout or type."""
        return self.kind == "Reorder" or (len(self.originals) == 1 and bool(_QUANTIZE.search(self.originals[0])))


def charge(graph: Sequence[Executed], seconds: Mapping[str, float]) -> list[Kernel]:
    """The kernels of an execution graph, with conversions charged to them (see `profiles`).

    `seconds` are those of each node by name; what has none took none.
    """
    by_name = {node.name: node for node in graph if node.kind not in _NO_WORK}
    readers: dict[str, list[Executed]] = {}
    for node in by_name.values():
        for source in node.inputs:
            readers.setdefault(source, []).append(node)

    def before(name: str) -> list[str]:
        return [source for source in by_name[name].inputs if source in by_name] if by_name[name].converts else []

    def behind(name: str) -> list[str]:
        return [reader.name for reader in readers.get(name, [])] if by_name[name].converts else []

    charged = {node.name: seconds.get(node.name, 0.0) for node in by_name.values() if not node.converts}
    for node in filter(lambda node: node.converts, by_name.values()):
        met = [by_name[name] for way in (before, behind) for name in reached([node.name], way)]
        sides = [one for one in met if not one.converts]
        bearer = next((side for side in sides if not side.integer), sides[0] if sides else None)
        if bearer:
            charged[bearer.name] += seconds.get(node.name, 0.0)
    return [Kernel(by_name[name].originals or (name,), by_name[name].integer, time) for name, time in charged.items()]


def _executed(compiled: Any) -> list[Executed]:
    nodes = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = {key: value.astype(str) for key, value in node.get_rt_info().items() if hasattr(value, "astype")}
        own = node.get_friendly_name()
        # Our names have no slash; the plugin adds one and more to what it took apart, as in ``conv1/WithoutBiases``.
        fused = [name for name in told.get("originalLayersNames", "").split(",") if name]
        originals = dict.fromkeys(name.partition("/")[0] for name in (own, *fused)) if fused else ()
        inputs = tuple(port.get_source_output().get_node().get_friendly_name() for port in node.inputs())
        integer = told["runtimePrecision"].lower() in INTEGERS
        nodes.append(Executed(own, told["layerType"], integer, tuple(originals), inputs))
    return nodes


def _request(path: Path, inputs: Sequence[np.ndarray], **options: Any) -> Any:
    """A request for the file at `path` with its inputs set, warm."""
    openvino = require_openvino("measuring latency")
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({position: list(value.shape) for position, value in enumerate(inputs)})
    options |= {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    for position, value in enumerate(inputs):
        request.set_input_tensor(position, openvino.Tensor(value))
    for _ in range(3):
        request.infer()
    return request


def _orders(names: Mapping[str, Any], rounds: int) -> Iterator[list[str]]:
    """The names in rotating order, `rounds` times."""
    turn = list(names)
    for position in range(rounds):
        shift = position % len(turn)
        yield turn[shift:] + turn[:shift]
