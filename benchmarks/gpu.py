"""What training with simulated quantization costs on a GPU: a step against the float step, and a quantizer against a copy.

    python -m benchmarks.gpu                          # minutes; ResNet-50 and MiniLM, float32 and bfloat16
    python -m benchmarks.gpu --device cpu --rounds 2 --networks resnet50   # does it run? the figures mean nothing

Prints tables with the bars and writes them to benchmarks/results/ as JSON and markdown, with the machine named.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fxcompress
from benchmarks import models, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.medians import median, paired_ratio
from benchmarks.qat_step import measure
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress.quantizers import kernels
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.trainable import TrainableQuantizer

NETWORKS = ("resnet50", "minilm_l6")
STEP, COPY = Bar("at most", 1.15), Bar("at most", 1.5)

Job = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit status."""
    options = _parse(arguments)
    machine = describe_machine()
    if options.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    sections = [_steps(options, dtype) for dtype in (torch.float32, torch.bfloat16)] + [_copies(options)]
    scoreboard.show(sections, machine)
    scoreboard.write(sections, machine, options.output, "gpu")
    return 0


def _steps(options: argparse.Namespace, dtype: torch.dtype) -> Section:
    """Steps of each network: float, quantized in eager mode, and both as torch compiles them."""
    name = str(dtype).removeprefix("torch.")
    result = Section(
        f"A training step on a GPU, {name}",
        f"Forward, backward and SGD, batch {options.batch}; {options.rounds} rounds in turning order, medians.",
    )
    for network in options.networks:
        plain, example = _network(network, options.batch)
        quantized = fxcompress.compile(copy.deepcopy(plain), fxcompress.defaults.training(), data=[example], verify=False)
        example = {key: value.to(options.device) for key, value in example.items()}
        jobs: dict[str, Job] = {}
        for way in ("", ", compiled") if options.compiled else ("",):
            for tool, model in (("float", plain), ("fxcompress", quantized)):
                moved = copy.deepcopy(model).to(options.device).train()
                jobs[tool + way] = _step(torch.compile(moved) if way else moved, example, dtype, options.device)
        taken = _measure(jobs, options.rounds, options.device)
        for way in ("", ", compiled") if options.compiled else ("",):
            ours, theirs = taken[f"fxcompress{way}"], taken[f"float{way}"]
            result.figures.append(Figure.of(network, f"float{way}", median(theirs * 1e3), "ms"))
            result.figures.append(Figure.of(network, f"fxcompress{way}", median(ours * 1e3), "ms"))
            result.figures.append(Figure.of(network, f"ratio{way}", paired_ratio(ours, theirs), "ratio", STEP))
    return result


def _network(name: str, batch: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network, and inputs by name."""
    if name == "resnet50":
        return models.build(name), {"x": torch.randn(batch, 3, 224, 224)}
    models.import_torchvision()
    transformers = need("transformers")
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    ids = torch.randint(0, 30000, (batch, 128))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _step(model: nn.Module, example: dict[str, torch.Tensor], dtype: torch.dtype, device: str) -> Job:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            found = model(**example)
        outputs = [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
        sum(x.float().square().mean() for x in outputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _copies(options: argparse.Namespace) -> Section:
    """A quantizer, forward and backward, against a copy of its input and one of the gradient."""
    result = Section(
        "A quantizer against a copy, on a GPU",
        f"Forward and backward of one trained quantizer against a clone of its input and one of the gradient; "
        f"{options.rounds * 10} rounds in turning order, medians.",
    )
    weight = QuantizationSpec(signed=True, narrow=True, channel_axis=0)
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape, spec in (
            ("activation 64x64x56x56", (64, 64, 56, 56), QuantizationSpec(symmetric=False)),
            ("weight 2048x2048", (2048, 2048), weight),
        ):
            x = torch.randn(shape).to(options.device, dtype)
            start = Quantizer(spec, x.shape).to(options.device)
            start.set_range(torch.full_like(start.scale, -3.0), torch.full_like(start.scale, 3.0))
            quantizer, gradient, source = TrainableQuantizer(start), torch.randn_like(x), x.requires_grad_()

            def quantize(quantizer=quantizer, source=source, gradient=gradient) -> None:
                torch.autograd.grad(quantizer(source), [source, *quantizer.parameters()], gradient)

            def unfused(quantize=quantize) -> None:
                with _without_kernels():
                    quantize()

            jobs = {"copy": lambda x=x, g=gradient: (x.detach().clone(), g.clone()), "kernel": quantize, "torch": unfused}
            taken = _measure(jobs, options.rounds * 10, options.device)
            for way, bar in (("kernel", COPY), ("torch", None)):
                ratio = paired_ratio(taken[way], taken["copy"])
                result.figures.append(Figure.of(f"{name}, {str(dtype)[6:]}", way, ratio, "ratio", bar))
    return result


@contextmanager
def _without_kernels() -> Iterator[None]:
    chosen, kernels._on = kernels._on, lambda device: None
    try:
        yield
    finally:
        kernels._on = chosen


def _measure(jobs: dict[str, Job], rounds: int, device: str) -> dict[str, np.ndarray]:
    """As `qat_step.measure`; each job lasts until the device has done it."""

    def finished(job: Job) -> Job:
        def run() -> None:
            job()
            torch.cuda.synchronize()

        return run

    return measure({name: finished(job) if device == "cuda" else job for name, job in jobs.items()}, rounds, warm_up=3)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=20, help="of steps; ten times as many of copies")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--compiled", action="store_true", help="also the steps as torch.compile makes them")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
