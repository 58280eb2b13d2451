"""What the emission tests share: capture a small function, emit it, and run the file beside torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.translation import TRANSLATIONS
from fxcompress.execution.agreement import sqnr

BATCHES = (2, 1, 5)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class Layer(nn.Module):
    """A convolution that reads what is not rounded."""

    def __init__(self, channels: int, filters: int, kernel: int | tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def captured(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """The graph of `model`, the batch symbolic."""
    return capture(model, ExampleInputs(inputs))


def checked(model: ir.Model) -> bytes:
    """The serialized model, once ONNX's own checker and strict shape inference accept it."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return proto.SerializeToString()


def session(serialized: bytes) -> onnxruntime.InferenceSession:
    """onnxruntime without graph optimizations: every operator as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def in_onnxruntime(serialized: bytes, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """The outputs of the model in onnxruntime."""
    run = session(serialized)
    return run.run(None, {held.name: tensor.numpy() for held, tensor in zip(run.get_inputs(), inputs)})


def in_openvino(serialized: bytes, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """The outputs of the model in OpenVINO, in float32."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else it rounds what layers with 4-bit weights read
    }
    compiled = core.compile_model(core.read_model(serialized), "CPU", options)
    named = {f"{value.name}": tensor for value, tensor in zip(onnx.load_from_string(serialized).graph.input, inputs)}
    read = {name for value in compiled.inputs for name in value.names}  # OpenVINO drops inputs that nothing reads
    return list(compiled({name: tensor.numpy() for name, tensor in named.items() if name in read}).values())


def file_agreement(
    compiled: Any,
    *inputs: Tensor,
    runtimes: Sequence[Callable[[bytes, Sequence[Tensor]], list[np.ndarray]]] = (in_onnxruntime, in_openvino),
) -> float:
    """How well the ONNX file of a compiled model agrees with the model, in dB, in the runtime that agrees least."""
    with torch.no_grad():
        wanted = compiled(*inputs)
    serialized = checked(to_onnx_model(compiled.lower()))
    return min(sqnr(wanted, torch.from_numpy(runtime(serialized, inputs)[0])) for runtime in runtimes)


def batches(inputs: Sequence[Tensor]) -> list[list[Tensor]]:
    """`inputs` at each batch size of `BATCHES`, rows repeated or left out."""
    return [[t[torch.arange(size) % len(t)] for t in inputs] for size in BATCHES]


def assert_same(
    function: Callable[..., Any] | nn.Module,
    *inputs: Tensor,
    tolerance: float = 1e-5,
    runtimes: Sequence[Callable[[bytes, Sequence[Tensor]], list[np.ndarray]]] = (in_onnxruntime,),
    elsewhere: Collection[str] = (),
) -> Counter[str]:
    """Emit `function` and compare with torch at every batch size; the operators of the file, counted.

    Calls that have a translation of ours are written by it, but for those of `elsewhere`: others compute the same, more slowly.
    """
    module = function if isinstance(function, nn.Module) else Call(function)
    graph_module = captured(module.eval(), *inputs)
    model = to_onnx_model(graph_module)
    assert written_elsewhere(graph_module, model.meta["ways"]) == set(elsewhere)
    serialized = checked(model)
    for batch in batches(inputs):
        with torch.no_grad():
            wanted = [w for w in pytree.tree_leaves(module(*batch)) if w is not None]
        for runtime in runtimes:
            found = runtime(serialized, batch)
            assert len(found) == len(wanted)
            for f, w in zip(found, wanted):
                assert f.shape == tuple(w.shape)
                np.testing.assert_allclose(f, w.numpy(), rtol=10 * tolerance, atol=tolerance, err_msg=runtime.__name__)
    return Counter(node.op_type for node in model.graph)


def written_elsewhere(graph_module: fx.GraphModule, ways: dict[str, str]) -> set[str]:
    """Calls of real numbers that our translation did not take, so that torchlib's or torch's decomposition wrote them."""
    found = set()
    for node in graph_module.graph.nodes:
        values = [value for one in (node, *node.all_input_nodes) for value in pytree.tree_leaves(one.meta.get("val"))]
        is_complex = any(isinstance(value, Tensor) and value.is_complex() for value in values)
        if node.target in TRANSLATIONS and not is_complex and ways.get(node.name) in ("torchlib", "decomposed"):
            found.add(str(node.target).removeprefix("aten."))
    return found
