"""Half of the filters removed, by fxcompress and by Torch-Pruning: the share of the parameters that goes.

    pip install -e ".[bench]"
    pip install --no-deps torchvision timm torch-pruning transformers
    python -m benchmarks.pruned_widths

Both take half of each set of channels, those that layer norms see among them, and leave the classifier's outputs. The weights
are random: what can be removed does not depend on them. Every file of fxcompress is run in both runtimes beside the masked
model. Prints a table with the bars and writes it to benchmarks/results/ as JSON and markdown, with the machine named.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import fxcompress
from benchmarks import models, openvino_runner, scoreboard
from benchmarks.machine import describe_machine
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import passes

AMOUNT = 0.5
TIMM = ("convnext_tiny", "vit_tiny_patch16_224", "mobilevit_xxs", "convnextv2_tiny", "regnetx_004")

console = Console(stderr=True)


@dataclass(frozen=True)
class Subject:
    """A network for both tools.

    Attributes:
        inputs: of so many samples.
        classifier: the layer whose filters are the outputs.
        heads: for each layer that makes queries, keys or values, how many heads they are for.
    """

    model: nn.Module
    inputs: Callable[[int], Tensor]
    classifier: nn.Module
    heads: dict[nn.Module, int]


def _timm(name: str) -> Subject:
    models.import_torchvision()
    model = need("timm").create_model(name).eval()
    size = 256 if "mobilevit" in name else 224
    attentions = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for attention in attentions:
        attention.fused_attn = False  # Torch-Pruning traces products
    heads = {attention.qkv: attention.num_heads for attention in attentions}
    return Subject(model, lambda count: torch.randn(count, 3, size, size), model.get_classifier(), heads)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits


def _bert() -> Subject:
    models.import_torchvision()
    transformers = need("transformers")
    configuration = transformers.BertConfig(attn_implementation="eager")
    model = transformers.BertForSequenceClassification(configuration).eval()
    attentions = [layer.attention.self for layer in model.bert.encoder.layer]
    heads = {one: self.num_attention_heads for self in attentions for one in (self.query, self.key, self.value)}
    return Subject(_Logits(model), lambda count: torch.randint(30000, (count, 64)), model.classifier, heads)


def build(name: str) -> Subject:
    """The network `name`, with the same random weights whenever it is built."""
    torch.manual_seed(models.SEED)
    return _bert() if name == "bert_base" else _timm(name)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def with_torch_pruning(name: str) -> float:
    """The share of the parameters that Torch-Pruning removes."""
    pruning, subject = need("torch_pruning"), build(name)
    whole = parameters(subject.model)
    pruner = pruning.pruner.BasePruner(
        subject.model,
        subject.inputs(1),
        importance=pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=AMOUNT,
        ignored_layers=[subject.classifier],
        num_heads=subject.heads,
    )
    pruner.step()
    return 1 - parameters(subject.model) / whole


def with_fxcompress(name: str, folder: Path) -> tuple[float, dict[str, float]]:
    """The share that fxcompress removes, and for each runtime the decibels from the file to the masked model."""
    subject = build(name)
    whole, x = parameters(subject.model), subject.inputs(2)
    prune = passes.PruneFilters(amount=AMOUNT, multiple=1, summed=True)
    masked = fxcompress.compile(subject.model, [prune], example_inputs=(x,))
    removed = fxcompress.compile(subject.model, [prune, passes.RemoveFilters()], example_inputs=(x,))
    path, other = removed.to_onnx(folder / f"{name}.onnx"), subject.inputs(3)
    with torch.no_grad():
        expected = masked(other).numpy()
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    found = {
        "OpenVINO": openvino_runner.decibels(openvino_runner.outputs(path, other.numpy()), expected),
        "onnxruntime": openvino_runner.decibels(answer, expected),
    }
    return 1 - parameters(removed) / whole, found


def section(networks: Sequence[str], folder: Path, report: Callable[[str], None]) -> Section:
    result = Section(
        "Half of the filters removed, widths of norms and heads among them",
        "Share of the parameters that is removed. In the runtimes: signal to noise of the file, beside the masked model.",
    )
    for name in networks:
        report(name)
        theirs = with_torch_pruning(name)
        gc.collect()
        ours, found = with_fxcompress(name, folder)
        gc.collect()
        result.figures.append(Figure(name, "Torch-Pruning", theirs, "ratio"))
        result.figures.append(Figure(name, "fxcompress", ours, "ratio", bar=Bar("at least", theirs)))
        for runtime, decibels in found.items():
            result.figures.append(Figure(name, f"in {runtime}", decibels, "dB", bar=Bar("at least", 80.0)))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Prune, print and write; returns the exit status."""
    networks = (*TIMM, "bert_base")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruned_widths", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=networks, default=list(networks), metavar="NETWORK")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        found = section(options.networks, Path(folder), report=console.print)
    scoreboard.write([found], machine, options.output, "pruned_widths")
    scoreboard.show([found], machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
