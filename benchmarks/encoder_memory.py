"""INT8 after training of an encoder of 110 M parameters: memory beside the model and seconds of the CPU, with NNCF's beside.

    pip install nncf transformers
    python -m benchmarks.encoder_memory [--layers 12] [--samples 64]

A BERT with random weights, as small models are made; each tool in a process of its own, on the same tokens. Memory is what the
process holds at the most above what it held with the model loaded (`benchmarks.resident`), in units of the model. NNCF takes
the model as OpenVINO converts it, which counts, and writes OpenVINO's format.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fxcompress
from benchmarks.models import import_torchvision
from benchmarks.peers import quiet
from benchmarks.requirements import need
from benchmarks.resident import Held

TOKENS = 64
WORDS = 30522


class States(nn.Module):
    """Tokens and their mask, both int64 ``[batch, tokens]``, to the last hidden states."""

    def __init__(self, layers: int, width: int = 768):
        super().__init__()
        transformers = need("transformers")
        torch.manual_seed(0)
        sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
        self.encoder = transformers.BertModel(
            transformers.BertConfig(vocab_size=WORDS, num_hidden_layers=layers, **sizes), add_pooling_layer=False
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


Batch = tuple[Tensor, Tensor]


def batches(count: int) -> list[Batch]:
    """So many samples, one by one, a quarter of each padding."""
    tokens = torch.randint(0, WORDS, (count, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(TOKENS) < TOKENS * 3 // 4).long().expand(count, -1)
    return list(zip(tokens.split(1), mask.split(1)))


def _fxcompress(model: nn.Module, data: list[Batch], folder: Path) -> None:
    fxcompress.compile(model, data=data).to_onnx(folder / "m.onnx", verify=False)


def _nncf(model: nn.Module, data: list[Batch], folder: Path) -> None:
    nncf, openvino = need("nncf"), need("openvino")
    with quiet():
        plain = openvino.convert_model(model, example_input=data[0])
        names = [port.get_any_name() for port in plain.inputs]
        dataset = nncf.Dataset([dict(zip(names, (array.numpy() for array in batch))) for batch in data])
        quantized = nncf.quantize(plain, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(data))
        openvino.save_model(quantized, folder / "m.xml", compress_to_fp16=False)


TOOLS: dict[str, Callable[[nn.Module, list[Batch], Path], None]] = {"fxcompress": _fxcompress, "NNCF": _nncf}


def measure(tool: str, layers: int, samples: int) -> tuple[float, float]:
    """Memory in units of the model, and seconds of the CPU."""
    import_torchvision()
    build = TOOLS[tool]
    with tempfile.TemporaryDirectory() as folder, Held() as peak:
        build(States(1, width=64).eval(), batches(4), Path(folder))  # what a first use imports does not count
        model = States(layers).eval()
        size = sum(parameter.nbytes for parameter in model.parameters())
        peak.start()
        build(model, batches(samples), Path(folder))
        return peak.above() / size, peak.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tool", choices=TOOLS, help="print the row of this one as JSON, and nothing else")
    given = parser.parse_args()
    if given.tool:
        print(json.dumps(measure(given.tool, given.layers, given.samples)))
        return
    options = ["--layers", str(given.layers), "--samples", str(given.samples)]
    for tool in TOOLS:
        command = [sys.executable, "-m", "benchmarks.encoder_memory", "--tool", tool, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory, seconds = json.loads(done.stdout.splitlines()[-1])
        print(f"{tool:12} {memory:6.2f} of the model {seconds:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
