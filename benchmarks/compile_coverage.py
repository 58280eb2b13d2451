"""Which real models compile by default: to INT8 and for training, to a file that OpenVINO and onnxruntime run as simulated.

    python -m benchmarks.compile_coverage                       one network of each kind that is not there yet
    python -m benchmarks.compile_coverage --only "*vit*" --again    those that a glob matches, also if they are there
    python -m benchmarks.compile_coverage --all                 every network of `benchmarks.cases`; takes hours

Every network runs in a process of its own, within a time limit, and its row is added to benchmarks/results/ at once, so the
same command goes on after an interruption. Weights are random, so nothing is downloaded, or those that a Python package
carries. Needs torchvision, timm, transformers and easyocr_en_models; a family that is missing is skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

import fxcompress
from benchmarks import cases, scoreboard
from benchmarks.apart import run_apart
from benchmarks.cases import FAMILIES, Case
from benchmarks.machine import describe_machine
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.storage.atomic import write_text

NETWORKS = {
    "torchvision": "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t "
    "mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 "
    "squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_32",
    "torchvision segmentation": "deeplabv3_mobilenet_v3_large fcn_resnet50 lraspp_mobilenet_v3_large",
    "timm CNN": "resnetv2_50x1_bit seresnet50 dla34 hrnet_w18_small res2net50_26w_4s xception41 dpn68 cspresnet50 ghostnet_100 "
    "rexnet_100 nfnet_l0 repvgg_a0 ese_vovnet19b_dw",
    "timm MobileNet": "mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_s lcnet_050 mobileone_s0",
    "timm EfficientNet": "tf_efficientnetv2_b0 mixnet_s",
    "timm RegNet": "regnetz_b16",
    "timm ConvNeXt": "convnextv2_atto edgenext_xx_small",
    "timm ViT": "vit_tiny_patch16_224 deit_tiny_patch16_224 cait_xxs24_224 beit_base_patch16_224 eva02_tiny_patch14_224 "
    "xcit_nano_12_p16_224 pit_ti_224 tnt_s_patch16_224 levit_128s crossvit_tiny_240 volo_d1_224 efficientformer_l1 "
    "tiny_vit_5m_224 mobilevit_xxs fastvit_t8 poolformer_s12 coat_tiny pvt_v2_b0",
    "timm Swin": "twins_svt_small coatnet_nano_rw_224 nest_tiny",
    "timm MLP-Mixer": "mixer_s32_224 resmlp_12_224 gmlp_s16_224 convmixer_768_32",
    "Hugging Face": "bert distilbert roberta albert electra mpnet deberta deberta-v2 mobilebert t5-encoder clip-text gpt2 vit "
    "dinov2 clip-vision wav2vec2 whisper-encoder",
    "trained": "craft",
}
"""One network of each kind, the smallest, by the family of its case."""

SAMPLES = 4
"""Of a batch: two batches calibrate, a third one compares."""

FLOAT, OPENVINO, ONNXRUNTIME, TRAINED = "simulation / float", "OpenVINO / it", "onnxruntime / it", "trained, OpenVINO / it"
SURELY = 20.0
"""Decibels that a runtime need not exceed; see `agrees`."""

LEARNING_RATE = 1e-4
STEM = "compile_coverage"

console = Console(stderr=True)


# -------------------------------------------------------------------------------------------------------- one network


class Row(dict[str, Any]):
    """What came of a case: CPU ``seconds`` of compilation, ``decibels`` by quantity, and ``problems``, a line each.

    It is written to `path` before each stage, so that it tells where a process died.
    """

    def __init__(self, case: Case, path: Path):
        super().__init__(family=case.family, name=case.name, seconds=None, decibels={}, problems=[], stage="make")
        self.path = path

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what goes wrong in it; what stands behind it goes on."""
        outer, self["stage"] = self["stage"], name
        write_text(self.path, json.dumps(self))
        try:
            yield
        except Exception as error:
            first = str(error).strip().splitlines() or [""]
            self["problems"].append(f"{name}: {type(error).__name__}: {first[0]}")
        self["stage"] = outer
        write_text(self.path, json.dumps(self))


def examine(case: Case, path: Path) -> None:
    """Compile the network of `case` by default and for training, run both files, and write the row to `path`."""
    torch.manual_seed(0)
    row = Row(case, path)
    warnings.simplefilter("ignore")
    *data, held_out = batches(case)
    model = case.make().eval()
    if not case.trained:
        awaken(model, data[0])
    with row.stage("compile"), torch.inference_mode():
        started = time.process_time()
        compiled = compile_default(model, data)
        row["seconds"] = time.process_time() - started
        simulated = tensors(compiled, held_out)
        row["decibels"][FLOAT] = agreement(tensors(model, held_out), simulated)
        run_file(row, compiled, held_out, simulated, {OPENVINO: in_openvino, ONNXRUNTIME: in_onnxruntime})
    with row.stage("train"):
        trained = train(model, data)
        simulated = tensors(trained, held_out)
        run_file(row, trained, held_out, simulated, {TRAINED: in_openvino})


def batches(case: Case) -> list[ExampleInputs]:
    """Three batches of `SAMPLES`."""
    whole = case.inputs(3 * SAMPLES)
    cut = lambda start: lambda t: t[start : start + SAMPLES]  # noqa: E731
    return [
        ExampleInputs(*pytree.tree_map_only(Tensor, cut(start), (whole.args, whole.kwargs)))
        for start in range(0, 3 * SAMPLES, SAMPLES)
    ]


@torch.no_grad()
def awaken(model: nn.Module, example: ExampleInputs) -> None:
    """Give `model` what training would: batch norms the statistics of data, and vectors that start as constants other values.

    Residual branches often start with a factor of zero or nearly so, and what is in them would not be seen.
    """
    for parameter in model.parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            centre = 0.0 if parameter.abs().max() == 0 else 1.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.5  # half of what it was: few samples may lie close together, and noise is not to be blown up
    model(*example.args, **example.kwargs)
    for norm in norms:
        norm.eval()


def compile_default(model: nn.Module, data: Sequence[ExampleInputs], passes: Any = None) -> Any:
    return fxcompress.compile(model, passes, example_inputs=data[0], data=data)


def train(model: nn.Module, data: Sequence[ExampleInputs]) -> Any:
    """`model` compiled for training, after one step."""
    trained = compile_default(model, data, fxcompress.defaults.training())
    optimizer = torch.optim.SGD(trained.parameters(), lr=LEARNING_RATE)
    trained.train()
    found = pytree.tree_leaves(trained(*data[0].args, **data[0].kwargs))
    loss = sum(value.square().mean() for value in found if isinstance(value, Tensor) and value.is_floating_point())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    if not norm.isfinite() or norm == 0:
        raise ArithmeticError(f"the norm of the gradient is {norm.item()}")
    optimizer.step()
    return trained.eval()


@torch.no_grad()
def tensors(model: nn.Module, example: ExampleInputs) -> list[Tensor]:
    """The outputs of `model`, those that a file has."""
    return [value for value in outputs(model, example) if isinstance(value, Tensor)]


Runtime = Callable[[Path, list[np.ndarray]], list[np.ndarray]]


def run_file(row: Row, compiled: Any, example: ExampleInputs, simulated: list[Tensor], runtimes: dict[str, Runtime]) -> None:
    """Write the file of `compiled`, and note how well each runtime agrees with the simulation."""
    given = [value.numpy() for _, value in example.leaves() if isinstance(value, Tensor)]
    with tempfile.TemporaryDirectory() as folder:
        path = compiled.to_onnx(Path(folder) / "model.onnx")
        for quantity, run in runtimes.items():
            with row.stage(quantity.partition(" /")[0]):
                found = [torch.from_numpy(value) for value in run(path, given)]
                row["decibels"][quantity] = agreement(simulated, found)


def in_openvino(path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs of the file at `path`; float parts in float32."""
    compiled = need("openvino").Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [value.copy() for value in compiled(inputs).to_tuple()]


def in_onnxruntime(path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((one.name for one in session.get_inputs()), inputs, strict=True)))


# ------------------------------------------------------------------------------------------------------- all networks


def examine_apart(case: Case, limit: float) -> dict[str, Any]:
    """The row of `case`, from a process of its own that has `limit` seconds."""
    row, end, failed = run_apart(examine, case, limit, lambda path: dict(Row(case, path)))
    stage = row.pop("stage")
    if failed:
        row["problems"].append(f"{stage}: {end}")
    return row


def agrees(row: dict[str, Any]) -> Bar:
    """How well a runtime is to agree with the simulation.

    Roundings that fall the other way in a runtime are amplified by what follows. In a random network that can be all the way
    to what all roundings together do, the distance to the float model; a wrong operation does more.
    """
    return Bar("at least", min(SURELY, row["decibels"].get(FLOAT, SURELY)))


def well(row: dict[str, Any]) -> bool:
    """Whether everything ran, and runtimes agree with the simulation."""
    return not row["problems"] and all(agrees(row).reached(row["decibels"][q]) for q in (OPENVINO, ONNXRUNTIME, TRAINED))


def sections(rows: Sequence[dict[str, Any]]) -> list[Section]:
    """A table for each library, with what went wrong below it."""
    found: dict[str, Section] = {}
    for row in rows:
        library = row["family"] if row["family"] == "Hugging Face" else row["family"].split()[0]
        section = found.setdefault(library, Section(library, METHOD))
        if row["seconds"] is not None:
            section.figures.append(Figure(row["name"], "compile", row["seconds"], "s"))
        for quantity, value in row["decibels"].items():
            section.figures.append(Figure(row["name"], quantity, value, "dB", bar=None if quantity == FLOAT else agrees(row)))
        section.notes += [f"{row['name']}: {problem}" for problem in row["problems"]]
    for library, section in found.items():
        mine = [row for row in rows if row["family"].startswith(library)]
        section.method = f"{sum(map(well, mine))} of {len(mine)} well. {METHOD}"
    return list(found.values())


METHOD = (
    f"Random weights, but for those of networks called trained, 2 batches of {SAMPLES} to calibrate, a third to compare. "
    "Compile: seconds of one core. Signal to noise: "
    "of the compiled model in torch against the float model, then of its file, run in each runtime (float parts in float32), "
    f"against the compiled model; the worst output. Bar: {SURELY:.0f} dB, or no further from the compiled model than that is "
    "from the float model. Trained: compiled with `defaults.training()`, after one step."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what is not there yet and write the table; the exit status tells whether all is well."""
    options = _parse(arguments)
    path = options.output / f"{STEM}.json"
    rows = {(row["family"], row["name"]): row for row in _read(path)}
    found, missing = cases.select(options.family or list(FAMILIES), options.only)
    for line in missing:
        console.print(f"[yellow]{line}")
    chosen = [case for case in found if options.all or case.name in NETWORKS.get(case.family, "").split()]
    wanted = [case for case in chosen if options.again or (case.family, case.name) not in rows]
    machine = describe_machine()
    for position, case in enumerate(wanted, 1):
        row = rows[case.family, case.name] = examine_apart(case, options.limit)
        _report(position, len(wanted), row)
        _write(list(rows.values()), machine, options.output)
    scoreboard.show(sections(list(rows.values())), machine)
    return 0 if all(map(well, rows.values())) else 1


def _report(position: int, count: int, row: dict[str, Any]) -> None:
    figures = ", ".join(f"{value:.1f}" for value in row["decibels"].values())
    mark = "[green]well[/]" if well(row) else "[red]not well[/]"
    console.print(f"{position}/{count} {row['family']} {row['name']}: {mark}; {figures} dB", highlight=False)
    for problem in row["problems"]:
        console.print(f"    {problem}", highlight=False, markup=False)


def _read(path: Path) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row | {"decibels": {key: float(value) for key, value in row["decibels"].items()}} for row in rows]


def _write(rows: Sequence[dict[str, Any]], machine: dict[str, Any], folder: Path) -> None:
    rows = sorted(rows, key=lambda row: (row["family"].lower(), row["name"]))
    plain = [row | {"decibels": {key: _number(value) for key, value in row["decibels"].items()}} for row in rows]
    write_text(folder / f"{STEM}.json", json.dumps({"machine": machine, "rows": plain}, indent=1, allow_nan=False) + "\n")
    write_text(folder / f"{STEM}.md", scoreboard.to_markdown(sections(rows), machine))


def _number(value: float) -> float | str:
    """JSON has no infinities."""
    return round(value, 2) if math.isfinite(value) else str(value)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="only this family; may be repeated")
    parser.add_argument("--only", metavar="NAME", default="*", help="only the models that this name or glob matches")
    parser.add_argument("--all", action="store_true", help="all models of a family, not one of each kind")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a model may take")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
