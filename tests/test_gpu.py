"""What is promised of GPUs, where there is one: `benchmarks/gpu.sh` runs it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fxcompress
from fxcompress.quantizers.kernels import kernel_for
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.trainable import TrainableQuantizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SPECS = {
    "symmetric": QuantizationSpec(signed=True),
    "asymmetric": QuantizationSpec(symmetric=False),
    "4 bits, per channel": QuantizationSpec(bits=4, signed=True, narrow=True, channel_axis=0),
    "activations, per channel": QuantizationSpec(symmetric=False, channel_axis=1),
}
SHAPE = (16, 24, 15, 17)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def trained() -> nn.Module:
    data = [torch.randn(8, 3, 16, 16)]
    return fxcompress.compile(Net(), fxcompress.defaults.training(), data=data).cuda().train()


def gradients(quantizer: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    source = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    result = quantizer(source)
    return [result.detach(), *torch.autograd.grad(result, [source, *quantizer.parameters()], gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_gpu_computes_what_a_cpu_does_and_the_same_in_every_run(
    spec: QuantizationSpec, memory: torch.memory_format, dtype: torch.dtype
) -> None:
    start = Quantizer(spec, torch.Size(SHAPE))
    start.set_range(torch.full_like(start.scale, -1.9), torch.full_like(start.scale, 1.7))
    quantizer = TrainableQuantizer(start)
    x, gradient = (torch.randn(SHAPE).to(dtype).contiguous(memory_format=memory) for _ in range(2))
    expected = gradients(quantizer, x, gradient)
    quantizer.cuda()
    assert kernel_for(x.cuda(), *quantizer.broadcast(x.shape)) is not None
    found, again = (gradients(quantizer, x.cuda(), gradient.cuda()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found, again))
    assert torch.equal(found[0].cpu(), expected[0]) and torch.equal(found[1].cpu(), expected[1])
    torch.testing.assert_close([one.cpu() for one in found[2:]], expected[2:], rtol=1e-3, atol=1e-2)


def test_a_step_fits_into_a_cuda_graph() -> None:
    model, x = trained(), torch.randn(8, 3, 16, 16, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x).square().sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    eager = copy.deepcopy([p.grad for p in model.parameters()])
    model.zero_grad(set_to_none=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().sum().backward()
    model.zero_grad(set_to_none=False)
    for _ in range(3):
        graph.replay()
    torch.testing.assert_close([p.grad for p in model.parameters()], eager, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_compiles_a_model_in_training(dtype: torch.dtype) -> None:
    model, x = trained(), torch.randn(8, 3, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
    twin = torch.compile(copy.deepcopy(model), mode="max-autotune")
    losses = []
    for one in (model, twin):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            losses.append(one(x).float().square().sum())
        losses[-1].backward()
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=0.05)
