"""What training holds between forward and backward, simulated on one layer, and what 7 B parameters on 8 accelerators take.

    python -m benchmarks.training_memory [--width 512]

A decoder layer of the form of Llama, trained in float32, bare and compressed. Every tensor that autograd keeps for the backward
pass and that is no parameter is counted once, by its memory, at two lengths: what grows with the tokens, and what does not.
Both are shares that do not depend on the width, so the table for 7 B (width 4096, 32 layers, 32,000 words, 2,048 tokens an
accelerator, AdamW, parameters, gradients and moments sharded as FSDP2 does) is computed from them. Nothing of it was run at
that size. The table goes to benchmarks/results/training_memory.md.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fxcompress
from benchmarks.machine import describe_machine, one_line
from benchmarks.memory import Block
from fxcompress.storage.atomic import write_text

RESULTS = Path(__file__).parent / "results" / "training_memory.md"
LENGTHS = (64, 128)
GIGABYTE = 1e9


class Layer(nn.Module):
    """One block with its rotations: ``[batch, length, width]`` to the same."""

    def __init__(self, width: int):
        super().__init__()
        self.block = Block(width, width // 64)
        self.register_buffer("frequency", 10000.0 ** -(torch.arange(0, 64, 2) / 64))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequency
        return self.block(x, angles.cos().repeat(1, 2), angles.sin().repeat(1, 2))


@dataclass(frozen=True)
class Held:
    """Bytes that a layer keeps for its backward pass: a share of its weights, and values of its width for each token."""

    of_weights: float
    values_a_token: float

    @classmethod
    def of(cls, layer: nn.Module, width: int) -> Held:
        """Measured at two lengths, between which it grows evenly."""
        short, long = (_kept(layer, torch.randn(1, length, width, requires_grad=True)) for length in LENGTHS)
        a_token = (long - short) / (LENGTHS[1] - LENGTHS[0])
        weights = sum(one.numel() * one.element_size() for one in layer.parameters())
        return cls((short - a_token * LENGTHS[0]) / weights, a_token / width / 4)


def _kept(model: nn.Module, x: Tensor) -> float:
    parameters = {one.untyped_storage()._cdata for one in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in parameters:
            kept[tensor.untyped_storage()._cdata] = tensor  # and so no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x).sum()
    return float(sum(one.untyped_storage().nbytes() for one in kept.values()))


def table(float32: Held, compressed: Held, accelerators: int = 8, tokens: int = 2048) -> list[str]:
    """GB of one accelerator, without and with compression."""
    width, layers, words = 4096, 32, 32_000
    layer = 4 * width**2 + 3 * width * (width * 11 // 4)
    parameters = layers * layer + 2 * words * width
    sharded, value = parameters * 4 / accelerators, tokens * width * 4
    of_tokens = [layers * value * one.values_a_token for one in (float32, compressed)]
    of_weights = [layers * layer * 4 * one.of_weights for one in (float32, compressed)]
    rows: list[tuple[str, float, float]] = [
        ("parameters in float32, sharded", sharded, sharded),
        ("gradients, sharded", sharded, sharded),
        ("both moments of AdamW, sharded", 2 * sharded, 2 * sharded),
        ("two layers gathered, the next one in advance", 8.0 * layer, 8.0 * layer),
        ("ranges, their gradients and moments", 0.0, 16.0 * layers * (5 * width + 2 * (width * 11 // 4) + 32)),
        ("kept for backward for each token", of_tokens[0], of_tokens[1]),
        ("kept for backward of the weights", of_weights[0], of_weights[1]),
    ]
    plain, ours = sum(row[1] for row in rows), sum(row[2] for row in rows)
    kept = of_tokens[1] + of_weights[1]
    again = ours - kept + kept / layers + layers * value
    lines = [f"| {name} | {a / GIGABYTE:.1f} | {b / GIGABYTE:.1f} |" for name, a, b in rows]
    lines.append(f"| together | {plain / GIGABYTE:.1f} | {ours / GIGABYTE:.1f} |")
    lines.append(f"| with every layer computed again in backward (checkpointing) | | {again / GIGABYTE:.1f} |")
    whole = ours - 8 * layer + 8 * parameters
    lines.append(f"| compressed as one graph, gathered as a whole with its gradients | | {whole / GIGABYTE:.1f} |")
    return lines


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    width = parser.parse_args().width
    torch.manual_seed(0)
    layer = Layer(width)
    passes = fxcompress.defaults.training()
    compiled = fxcompress.compile(copy.deepcopy(layer), passes, data=[torch.randn(1, 64, width)], verify=False).train()
    float32, compressed = Held.of(layer, width), Held.of(compiled, width)
    text = "\n".join(
        [
            "# What training keeps between forward and backward",
            "",
            "`python -m benchmarks.training_memory`: what autograd keeps of one decoder layer, parameters aside.",
            "",
            "| | float32 | compressed |",
            "|---|---|---|",
            f"| values of the width, for each token | {float32.values_a_token:.1f} | {compressed.values_a_token:.1f} |",
            f"| share of the layer's weights, whatever the tokens | {float32.of_weights:.2f} | {compressed.of_weights:.2f} |",
            "",
            "On paper, GB of each of 8 accelerators that train 7 B parameters, 2,048 tokens on each, in float32:",
            "",
            "| | float32 | compressed |",
            "|---|---|---|",
            *table(float32, compressed),
            "",
            one_line(describe_machine()),
            "",
        ]
    )
    print(text)
    write_text(RESULTS, text)


if __name__ == "__main__":
    main()
