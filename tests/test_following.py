"""Layers that start at zero, and ranges of nothing, learn with simulated quantization as others do."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.quantizers.following import FollowedRange, extremes
from fxcompress.quantizers.ops import along
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.trainable import TrainableQuantizer

torch.manual_seed(0)
X = torch.randn(256, 16)
CHANGE = torch.randn(16, 4) @ torch.randn(4, 16) * 0.05

STACKS = {
    "learned ranges": fxcompress.defaults.training(),
    "calibrated ranges": [passes.CanonicalizeActivations(), passes.Quantize(), passes.Calibrate()],
}


class LowRank(nn.Module):
    """A frozen layer with an adapter of rank 4, whose second matrix is zero: LoRA, arXiv 2106.09685, section 4.1."""

    def __init__(self):
        super().__init__()
        self.layer, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        self.layer.weight.requires_grad_(False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class ZeroHead(nn.Module):
    """A branch whose last layer is zero, and a layer behind it that reads nothing but zeros."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.layer(x) + self.last(self.head(x)) - self.last.bias


def error_after_training(model, target, steps=150):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(steps):
        (model(X) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return float((model.eval()(X) - target).square().mean().detach())


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("kind", [LowRank, ZeroHead])
def test_a_layer_that_starts_at_zero_learns(kind, stack):
    torch.manual_seed(1)
    model = kind()
    target = (model(X) + X @ CHANGE).detach()
    for name in ("layer.weight", "layer.bias"):
        model.get_parameter(name).requires_grad_(False)
    before = float((model(X) - target).square().mean().detach())
    compiled = fxcompress.compile(model, stack, data=[X])
    assert error_after_training(compiled, target) < before / 6
    torch.testing.assert_close(compiled.lower()(X), compiled(X), atol=1e-4, rtol=1e-4)


SPECS = {
    "per tensor": (QuantizationSpec(), (6, 8)),
    "asymmetric": (QuantizationSpec(symmetric=False), (6, 8)),
    "per channel": (QuantizationSpec(signed=True, channel_axis=0), (6, 8)),
    "per group": (QuantizationSpec(signed=True, channel_axis=0, group_size=3, bits=4), (6, 8)),
}


@pytest.mark.parametrize(("spec", "shape"), SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("learned", [False, True])
def test_a_range_of_nothing_is_that_of_what_is_seen_in_training(spec, shape, learned):
    quantizer = Quantizer(spec, shape)
    zeros = torch.zeros(quantizer.scale.shape)
    quantizer.set_range(zeros, zeros)
    quantizer = TrainableQuantizer(quantizer) if learned else quantizer
    x = torch.randn(shape) * 1e-3
    assert (quantizer.eval()(x) == 0).all()
    step = along(
        extremes(x, zeros.shape, spec)[1] - extremes(x, zeros.shape, spec)[0], spec.scale_axis, spec.group_size or 0, shape
    )
    assert ((quantizer.train()(x) - x).abs() <= step * 2 / 2**spec.bits + 1e-9).all()
    assert torch.equal(quantizer.eval()(x), quantizer.train()(x))
    twin = copy.deepcopy(quantizer)
    other = copy.deepcopy(quantizer)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(twin.train()(x * 2), other.train()(x * 2))


def test_other_ranges_stay_where_they_are():
    quantizer = Quantizer(QuantizationSpec(signed=True, channel_axis=0), (2, 8))
    quantizer.set_range(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]))
    before = quantizer.scale.clone()
    quantizer.train()(torch.full((2, 8), 5.0))
    assert quantizer.scale[0] == before[0] and quantizer.scale[1] == 5 / 127


def test_zeros_are_zeros_until_there_is_something_else():
    quantizer = Quantizer(QuantizationSpec())
    quantizer.set_range(torch.tensor(0.0), torch.tensor(0.0))
    assert (quantizer.train()(torch.zeros(3)) == 0).all() and quantizer.scale == 1
    assert quantizer.train()(torch.zeros(0, 3)).shape == (0, 3)


def test_torch_compiles_a_range_that_follows_as_one_graph():
    torch._dynamo.reset()
    quantizer = Quantizer(QuantizationSpec(signed=True, channel_axis=0), (2, 8))
    quantizer.set_range(torch.zeros(2), torch.zeros(2))
    plain, model = TrainableQuantizer(quantizer), TrainableQuantizer(copy.deepcopy(quantizer))
    x = torch.randn(2, 8)
    fast = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fast(x), plain(x))
    torch.testing.assert_close(model.scale, plain.scale)


@given(st.integers(0, 2**32 - 1))
def test_gradients_of_two_forwards_before_a_backward_accumulate(seed):
    torch.manual_seed(seed)
    start = Quantizer(QuantizationSpec())
    start.set_range(torch.tensor(0.0), torch.tensor(0.0))
    quantizer, x = TrainableQuantizer(start), torch.randn(5, requires_grad=True)
    (quantizer(x).sum() + quantizer(2 * x).sum()).backward()
    assert x.grad.isfinite().all() and quantizer.input_extent.grad.isfinite().all()


def test_a_model_in_training_that_is_compressed_in_place_learns_too():
    torch.manual_seed(1)
    model = LowRank().train()
    target = (model(X) + X @ CHANGE).detach()
    fxcompress.compress(model, data=[X])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        (model(X) - target).square().mean().backward()
        optimizer.step()
    assert all((quantizer.scale < 0.01).all() for name, quantizer in model.named_modules() if name == "up_weight_quantizer")


@pytest.mark.parametrize("stack", STACKS)
def test_a_state_from_before_ranges_followed_is_loaded(stack):
    model = fxcompress.compile(LowRank(), STACKS[stack], data=[X])
    other = copy.deepcopy(model)
    state = {name: value for name, value in model.state_dict().items() if ".followed." not in name}
    assert len(state) < len(model.state_dict())
    other.load_state_dict(state)
    assert torch.equal(other(X), model(X))
    assert not any(module.any for module in other.modules() if isinstance(module, FollowedRange))
    incomplete = {name: value for name, value in model.state_dict().items() if not name.endswith("followed.low")}
    with pytest.raises(RuntimeError, match=r"followed\.low"):
        other.load_state_dict(incomplete)
