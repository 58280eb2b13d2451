"""`fxcompress compile`: a model and calibration data to an ONNX file."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.export import ExportedProgram

import fxcompress
from fxcompress import Compiled, Config, PartlyCompiled, defaults
from fxcompress.commands.models import example_for, load_model, model_name
from fxcompress.commands.output import print_json
from fxcompress.compiled import Verify
from fxcompress.conformance.counting import integer_kernels
from fxcompress.data.archive import ArchiveFile
from fxcompress.data.images import ArrayFile, ImageFolder, find_images
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.interface import Pass
from fxcompress.emit.files import check_onnx_path
from fxcompress.emit.inspect import inspect_onnx, plain_summary
from fxcompress.errors import FileWarning, InputError
from fxcompress.measure.sensitivity import check_report_path, sensitivity
from fxcompress.passes import Calibrate, CompressWeights, Quantize
from fxcompress.report.progress import shown
from fxcompress.report.units import readable_bytes

VERIFY: dict[str, Verify] = {"yes": True, "strict": "strict", "no": False}
RANDOM = "random"
SAMPLES = 300
HOW_DATA = "--data FOLDER (images), --data FILE.npy or FILE.npz, or --data random to try the speed only"
QUANTIZING = Quantize, CompressWeights
"""The passes that can leave scopes in float."""


class RandomData:
    """Normal noise in the shape of the example: says what the model costs, nothing about its accuracy."""

    def __init__(self, example: ExampleInputs, samples: int):
        self.example, self.samples = example, samples

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.samples):
            yield tuple(_noise(value, generator) for value in self.example.args)

    def __str__(self) -> str:
        return f"{self.samples} samples of noise: good to measure speed, not accuracy"


Calibration = ImageFolder | ArrayFile | ArchiveFile | RandomData


def run(arguments: argparse.Namespace, console: Console) -> None:
    output = check_onnx_path(arguments.output or f"{model_name(arguments.model)}.onnx")
    report = check_report_path(arguments.sensitivity) if arguments.sensitivity else None
    config = Config.load(arguments.config, allow_imports=arguments.allow_imports) if arguments.config else None
    samples, target = arguments.samples or SAMPLES, arguments.target or (config.target if config else "openvino")
    _check_data(arguments)
    with shown(Console(stderr=True, quiet=console.quiet), "loading the model") as show:
        model = load_model(arguments.model, trust=arguments.trust)
        inputs = config.example() if config else None
        data = calibration_data(arguments, model, inputs, samples) if arguments.data else None
        example = _example(arguments, model, data, inputs)
        show("compiling", 0, None)
        compiled = fxcompress.compile(
            model,
            _passes(config, arguments, data.samples if data else None),
            example_inputs=example,
            data=data,
            target=target,
            dump=arguments.dump,
            submodules=arguments.submodule or None,
            progress=show,
        )
        show("writing", 0, None)
        files = write(compiled, output, arguments)
        measured = sensitivity(compiled, data, progress=show) if report and data else None
    if arguments.json:
        kernels = {str(file): integer_kernels(file) for file in files}
        held = [{**plain_summary(file), "kernels": kernels[str(file)]} for file in files]
        print_json({**compiled.report.plain(), "data": data and str(data), "files": held})
        return
    console.print(compiled.report.table())
    lines = [f"calibrated on {data}" if data else "without calibration data", *map(describe, files)]
    before = sum(row.bytes for row in compiled.report.rows if row.name.endswith("Capture"))
    if arguments.batch_size is None and target == "openvino":
        lines.append("its batch size is free; with --batch-size 1 small networks run up to a fifth faster in OpenVINO")
    lines.append(f"the float weights took {readable_bytes(before)}; to look closer: fxcompress inspect {files[0]}")
    if arguments.dump:
        lines.append(f"the graph after every pass is in {arguments.dump}")
    if measured and report:
        worst = measured.rows[0]
        lines.append(
            f"most is lost at {worst.place}, {worst.decibels:.1f} dB by itself; {measured.write(report)} has all places"
        )
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def _check_data(arguments: argparse.Namespace) -> None:
    """Raise InputError for what is known of the options about data before the model is built."""
    if arguments.effort and (arguments.config or arguments.weights_only):
        other = "--config" if arguments.config else "--weights-only"
        raise InputError(f"--effort is of the default passes, and {other} asks for others; leave one of them out")
    if arguments.weights_only and (arguments.config or arguments.sensitivity):
        other = "--config" if arguments.config else "--sensitivity"
        why = "which has its own passes" if arguments.config else "which needs the floats behind the integers"
        raise InputError(f"--weights-only does not go with {other}, {why}; leave one of them out")
    if arguments.data is None:
        if not arguments.weights_only:
            raise InputError(f"INT8 needs calibration data to set its ranges: {HOW_DATA}")
    elif arguments.data != RANDOM and not Path(arguments.data).exists():
        raise InputError(f"there is no file or folder {arguments.data}; give {HOW_DATA}")
    elif Path(arguments.data).is_dir():
        find_images(arguments.data)  # an empty folder is known before the model is built
        return
    given = [f"--{name}" for name in ("size", "mean", "std") if getattr(arguments, name) is not None]
    if given:
        raise InputError(f"{' and '.join(given)} prepare images, and --data is no folder of them; leave that out")


def _example(
    arguments: argparse.Namespace, model: nn.Module | ExportedProgram, data: Calibration | None, inputs: ExampleInputs | None
) -> ExampleInputs | None:
    """What the model is traced with; None for what the model says of itself."""
    if data is None:
        return example_for(model, arguments.input_shape) or inputs
    return data.example if isinstance(data, RandomData) else first_batch(data)


def write(compiled: Compiled | PartlyCompiled, output: Path, arguments: argparse.Namespace) -> list[Path]:
    """The files written: `output`, or, where submodules were compiled, one for each in a folder of that name.

    Raises:
        InputError: names of inputs or outputs are given where several files are written.
    """
    verify, batch_size, opset = VERIFY[arguments.verify], arguments.batch_size, arguments.opset
    names = {"input_names": arguments.input_names, "output_names": arguments.output_names}
    if isinstance(compiled, PartlyCompiled) and any(names.values()):
        raise InputError("the model falls apart into several files; --input-names and --output-names name those of one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)  # the report says it
        if isinstance(compiled, PartlyCompiled):
            files = compiled.to_onnx(output.with_suffix(""), batch_size=batch_size, opset=opset, verify=verify)
            return files if isinstance(files, list) else [files]
        return [compiled.to_onnx(output, batch_size=batch_size, opset=opset, verify=verify, **names)]


def describe(file: Path) -> str:
    summary, counted = inspect_onnx(file), integer_kernels(file)
    counted = f" ({counted})" if counted else ""
    return (
        f"wrote {file}, {readable_bytes(summary.file_bytes)}; "
        f"{summary.integer_layer_share:.0%} of its convolutions and matrix products read integers{counted}"
    )


def _passes(config: Config | None, arguments: argparse.Namespace, samples: int | None) -> list[Pass]:
    """Those of `config`, which has samples of its own unless the command line says otherwise, or the default ones."""
    if arguments.weights_only:
        return with_options(defaults.weights_only(), arguments.ignore)
    if config is None:
        return post_training(arguments.ignore, samples, arguments.effort or "normal")
    return with_options(config.passes, arguments.ignore, arguments.samples)


def post_training(ignored: Sequence[str] = (), samples: int | None = None, effort: defaults.Effort = "normal") -> list[Pass]:
    """The default passes, with these scopes left in float and so many calibration samples."""
    return with_options(defaults.post_training(effort=effort), ignored, samples)


def with_options(passes: Sequence[Pass], ignored: Sequence[str] = (), samples: int | None = None) -> list[Pass]:
    """`passes` with these scopes left in float as well, and so many calibration samples, where they quantize.

    Raises:
        InputError: scopes are to be left in float, and none of `passes` quantizes.
    """
    if ignored and not any(isinstance(one, QUANTIZING) for one in passes):
        raise InputError(f"nothing is quantized, so there is nothing to ignore: leave out {', '.join(ignored)}")
    changed: list[Pass] = []
    for one in passes:
        if isinstance(one, QUANTIZING) and ignored:
            one = replace(one, ignored=(*one.ignored, *ignored))
        elif isinstance(one, Calibrate) and samples is not None:
            one = replace(one, samples=samples)
        changed.append(one)
    return changed


def calibration_data(
    arguments: argparse.Namespace, model: nn.Module | ExportedProgram, inputs: ExampleInputs | None, samples: int
) -> Calibration:
    """What `--data` names, prepared for `model`.

    Raises:
        InputError: it does not fit the model, or the model's input shape is not known.
    """
    if Path(arguments.data).suffix == ".npz":
        return ArchiveFile(arguments.data, samples=samples, batch_size=_fixed_batch(model))
    example = example_for(model, arguments.input_shape) or inputs
    if arguments.data == RANDOM:
        if example is None:
            raise InputError("noise needs a shape: add --input-shape, such as 1,3,224,224")
        return RandomData(example, samples)
    value = _only_input(example)
    shape, batch = (value.shape[1:], len(value)) if value is not None else (None, 1)
    if not Path(arguments.data).is_dir():
        dtype = value.dtype if value is not None else torch.float32
        return ArrayFile(arguments.data, shape, dtype=dtype, samples=samples, batch_size=batch)
    config = getattr(model, "pretrained_cfg", None) or {}
    if arguments.size and isinstance(model, ExportedProgram):
        raise InputError("an exported program takes images of the size that it was exported with; leave out --size")
    if arguments.size:
        shape = (shape[0] if shape else 3, *arguments.size)
    return ImageFolder(
        arguments.data,
        shape or (3, 224, 224),
        mean=arguments.mean or config.get("mean"),
        std=arguments.std or config.get("std"),
        samples=samples,
        batch_size=batch,
    )


def first_batch(data: Any) -> Any:
    """Real data make the best example: the decibels of the report are about them."""
    return next(iter(data))


def _fixed_batch(model: nn.Module | ExportedProgram) -> int:
    """The batch size of an exported program's own example; 1 for a module, which takes any."""
    example = example_for(model, None) if isinstance(model, ExportedProgram) else None
    return next((len(value) for _, value in example.leaves() if isinstance(value, Tensor) and value.dim()), 1) if example else 1


def _only_input(example: ExampleInputs | None) -> Tensor | None:
    if example is None:
        return None
    values = [value for _, value in example.leaves()]
    if len(values) != 1 or not isinstance(values[0], Tensor) or not values[0].dim():
        raise InputError(
            f"this file holds one input, but the model takes {example!r}; save the arrays by the inputs' names: "
            "numpy.savez('data.npz', first=..., second=...)"
        )
    return values[0]


def _noise(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return value
