"""MiniLM-L6 with weights compressed by torchao: size and embeddings, in PyTorch. For the table of `benchmarks.weights`.

    pip install --no-deps torchao
    python -m benchmarks.torchao_weights [--scoring 500]

Tables get 8 bits a row, as in the other rows; linear layers what the row says. torchao reads no data for these weights. Its
tensors are no nodes of a file that OpenVINO reads, so there is no time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import sentences
from benchmarks.requirements import need

RESULTS = Path(__file__).parent / "results"
GROUP = 128


def ways() -> dict[str, Any]:
    """By name: what linear layers get."""
    api, granularity = need("torchao.quantization"), need("torchao.quantization.granularity")
    kinds = need("torchao.quantization.quant_primitives").MappingType
    four = {"weight_dtype": torch.int4, "granularity": granularity.PerGroup(GROUP)}
    return {
        "torchao, 8 bits": api.Int8WeightOnlyConfig(),
        "torchao, 4 bits, no data": api.IntxWeightOnlyConfig(mapping_type=kinds.ASYMMETRIC, **four),
        "torchao, 4 bits, symmetric, no data": api.IntxWeightOnlyConfig(mapping_type=kinds.SYMMETRIC, **four),
    }


def compress(model: nn.Module, linear: Any) -> None:
    """Give linear layers of `model` weights as `linear` says, and tables 8 bits a row."""
    api, granularity = need("torchao.quantization"), need("torchao.quantization.granularity")
    table = api.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=granularity.PerAxis(0))
    api.quantize_(model, linear)
    api.quantize_(model, table, filter_fn=lambda module, path: isinstance(module, nn.Embedding))


def stored(model: nn.Module) -> int:
    """Bytes of the parameters, two values of 4 bits in a byte."""
    total = 0
    for one in model.parameters():
        names = one.__tensor_flatten__()[0] if hasattr(one, "__tensor_flatten__") else ()
        narrow = getattr(one, "target_dtype", None) is torch.int4
        parts = [(name, getattr(one, name)) for name in names] or [("", one)]
        total += sum(part.nbytes // (2 if narrow and name == "qdata" else 1) for name, part in parts)
    return total


@torch.no_grad()
def embeddings(model: nn.Module, texts: list[str]) -> Tensor:
    ids, mask = sentences.tokenize(texts)
    return torch.cat([model(a, b) for a, b in zip(ids.split(50), mask.split(50))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scoring", type=int, default=500)
    arguments = parser.parse_args()
    texts = sentences.scoring_sentences(arguments.scoring)
    expected = embeddings(sentences.embedder(), texts)
    lines = [
        "# Weights of MiniLM-L6 by torchao",
        "",
        f"`python -m benchmarks.torchao_weights --scoring {arguments.scoring}`: torchao {need('torchao').__version__}, in "
        f"PyTorch {torch.__version__}, groups of {GROUP}; what the columns are is in [weights.md](weights.md).",
        "",
        "| | MiB | cosine | neighbours | seconds of CPU |",
        "|---|---|---|---|---|",
    ]
    for name, linear in ways().items():
        model, started = sentences.embedder(), time.process_time()
        compress(model, linear)
        seconds, found = time.process_time() - started, embeddings(model, texts)
        figures = [
            f"{stored(model) / 2**20:.2f}",
            f"{sentences.mean_cosine(found.numpy(), expected.numpy()):.4f}",
            f"{sentences.neighbour_agreement(found.numpy(), expected.numpy()):.3f}",
            f"{seconds:.1f}",
        ]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    (RESULTS / "torchao_weights.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
