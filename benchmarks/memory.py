"""What compiling takes beside the model itself: the most memory that is held, and seconds, step by step.

    python -m benchmarks.memory [--layers 12] [--width 1024] [--pipeline weights_only] [--dtype float32]

A decoder of the form of Llama with random weights. Every row is the peak since compiling began, in units of the model that is
held anyway, of anonymous memory (`benchmarks.resident`). What a first use imports is not counted, nor the runtime that a file
is tried in, which is a process of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resident import Held, held

VOCABULARY = 32000


class Block(nn.Module):
    """Attention with rotated positions and a gated feed-forward layer, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        inner = width * 11 // 4
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
            nn.Linear(inner, width, bias=False),
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (one(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Tokens, int64 ``[batch, length]``, to logits ``[batch, length, VOCABULARY]``."""

    def __init__(self, width: int, layers: int, vocabulary: int = VOCABULARY):
        super().__init__()
        heads = width // 64
        self.table = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("frequency", 10000.0 ** -(torch.arange(0, 64, 2) / 64))

    def forward(self, tokens: Tensor) -> Tensor:
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * self.frequency
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        x = self.table(tokens)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def measure(model: nn.Module, tokens: Tensor, pipeline: str, folder: Path) -> dict[str, tuple[float, float]]:
    """Step to (peak above the model since the start, in units of the model; seconds of CPU)."""
    import fxcompress
    from fxcompress import defaults
    from fxcompress.data.inputs import ExampleInputs
    from fxcompress.driver.capture import capture_verified

    size = sum(parameter.nbytes for parameter in model.parameters())
    stages, calibration = getattr(defaults, pipeline), pipeline != "weights_only"

    def data(vocabulary: int) -> list[Tensor] | None:
        return list(torch.randint(0, vocabulary, (8, *tokens.shape[1:])).split(2)) if calibration else None

    small = Decoder(64, 1, vocabulary=100).to(next(model.parameters()).dtype).eval()  # what a first use imports does not count
    example = tokens % 100
    fxcompress.compile(small, stages(), example_inputs=example, data=data(100)).to_onnx(folder / "warm.onnx")
    rows = {}
    with Held() as peak:

        def note(name: str) -> None:
            rows[name] = peak.above() / size, peak.seconds()

        peak.start()
        with torch.no_grad():
            model(tokens)
        note("one forward pass")
        peak.start()
        torch.export.export(model, (tokens,), strict=False)
        note("torch.export")
        peak.start()
        capture_verified(model, ExampleInputs((tokens,), {}), half_weights=pipeline == "weights_only")
        note("capture")
        peak.start()
        compiled = fxcompress.compile(model, stages(), example_inputs=tokens, data=data(1000))
        note("compile")
        rows["held after compile"] = (held() - peak.before) / size, 0.0
        compiled.to_onnx(folder / "m.onnx", verify=False)
        note("and the file")
        compiled.to_onnx(folder / "m.onnx")
        note("and the file, verified")
    rows["the file itself"] = sum(one.stat().st_size for one in folder.glob("m.onnx*")) / size, 0.0
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--pipeline", default="weights_only", choices=["weights_only", "post_training"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    given = parser.parse_args()
    torch.manual_seed(0)
    model = Decoder(given.width, given.layers).to(getattr(torch, given.dtype)).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} M parameters, {given.dtype}, {given.pipeline}", flush=True)
    with TemporaryDirectory() as folder:
        rows = measure(model, torch.randint(0, VOCABULARY, (2, 16)), given.pipeline, Path(folder))
    for name, (peak, seconds) in rows.items():
        print(f"{name:24} {peak:6.2f} of the model  {seconds:7.1f} s")


if __name__ == "__main__":
    main()
