"""From a torch model to a quantized file, as each peer does it with its own defaults, and as fxcompress does it.

Every function takes a model in inference mode, calibration batches and the path to write, and returns that path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.requirements import need


@dataclass(frozen=True)
class Tool:
    """One way to a file: its name in the tables, the file's suffix, and ``build(model, batches, path)``."""

    name: str
    suffix: str
    build: Callable[[nn.Module, Sequence[Tensor], Path], Path]


def export_float(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """torch's own exporter with nothing else around it: FP32, free batch size."""
    example = batches[0] if len(batches[0]) > 1 else torch.cat([batches[0]] * 2)  # 1 would become a constant
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return path


def fxcompress_file(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """`fxcompress.compile` with its default passes."""
    import fxcompress

    fxcompress.compile(model, example_inputs=(batches[0],), data=batches).to_onnx(path)
    return path


def nncf_torch(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """NNCF on the torch model, then OpenVINO's converter. NNCF works on a copy of the model."""
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "300")  # seconds; 60, its own, are short on two cores
    nncf, openvino = need("nncf"), need("openvino")
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    with torch.inference_mode():
        converted = openvino.convert_model(quantized, example_input=batches[0])
    openvino.save_model(converted, path, compress_to_fp16=False)
    return path


def nncf_openvino(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """NNCF on an OpenVINO model that came through ONNX."""
    nncf, openvino = need("nncf"), need("openvino")
    converted = openvino.convert_model(_float_beside(model, batches, path))
    dataset = nncf.Dataset([batch.numpy() for batch in batches])
    openvino.save_model(nncf.quantize(converted, dataset, subset_size=len(batches)), path, compress_to_fp16=False)
    return path


def onnxruntime_static(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """onnxruntime's static quantization of the FP32 file."""
    return quantize_static(_float_beside(model, batches, path), [(batch,) for batch in batches], path)


def quantize_static(plain: Path, batches: Sequence[Sequence[Tensor]], path: Path) -> Path:
    """Q/DQ pairs, a scale for every output channel, unsigned activations; a batch has a tensor for each input of `plain`."""
    quantization = need("onnxruntime.quantization")
    prepare = need("onnxruntime.quantization.shape_inference").quant_pre_process
    prepared = path.with_suffix(".prepared.onnx")
    prepare(str(plain), str(prepared))
    quantization.quantize_static(
        str(prepared),
        str(path),
        _reader(quantization, _input_names(prepared), batches),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    prepared.unlink()
    return path


FLOAT = Tool("FP32", ".onnx", export_float)
OURS = Tool("fxcompress", ".onnx", fxcompress_file)
NNCF_TORCH = Tool("NNCF torch", ".xml", nncf_torch)
PEERS = (
    NNCF_TORCH,
    Tool("NNCF OpenVINO", ".xml", nncf_openvino),
    Tool("onnxruntime", ".onnx", onnxruntime_static),
)


def file_of(tool: Tool, model_name: str, folder: Path) -> Path:
    """Where the file of `tool` for the model of that name stands."""
    return folder / f"{model_name}-{tool.name.lower().replace(' ', '-')}{tool.suffix}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Peers' log lines, warnings and progress bars are kept out of the benchmark's output; errors are not."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _float_beside(model: nn.Module, batches: Sequence[Tensor], path: Path) -> Path:
    """The FP32 ONNX file of `model` in the folder of `path`, made here unless it stands there already."""
    plain = path.with_name(f"{path.stem.partition('-')[0]}-{FLOAT.name.lower()}{FLOAT.suffix}")
    return plain if plain.exists() else export_float(model, batches, plain)


def _input_names(path: Path) -> list[str]:
    return [one.name for one in need("onnx").load(path, load_external_data=False).graph.input]


def _reader(quantization, names: Sequence[str], batches: Sequence[Sequence[Tensor]]):
    """`batches` as onnxruntime's calibration reads them."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.left, None)
            return None if batch is None else dict(zip(names, (x.numpy() for x in batch), strict=True))

    return Reader()
