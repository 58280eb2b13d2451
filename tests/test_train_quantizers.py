"""Ranges that are trained: their grids, gradients and schedule, and that what is lowered is what was trained."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, PlanError
from fxcompress.quantization import native, straight_through
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantization.quantizer import Quantizer
from fxcompress.quantization.spec import QuantizationSpec
from fxcompress.quantization.trainable import TrainableQuantizer
from fxcompress.training import CompressionStage
from fxcompress.verify import sqnr

SHAPE = (4, 6, 3)


@st.composite
def quantizers(draw):
    """A trainable quantizer of a tensor of `SHAPE`, with random parameters."""
    symmetric = draw(st.booleans())
    spec = QuantizationSpec(
        bits=draw(st.integers(2, 8)),
        symmetric=symmetric,
        signed=draw(st.booleans()),
        narrow=symmetric and draw(st.booleans()),
        channel_axis=(axis := draw(st.sampled_from([None, 0, 1]))),
        group_size=None if axis is None else draw(st.sampled_from([None, 2, 5])),
    )
    start = Quantizer(spec, SHAPE)
    start.set_range(-torch.ones_like(start.scale), torch.ones_like(start.scale))
    quantizer = TrainableQuantizer(start)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        quantizer.input_extent.uniform_(0.1, 3, generator=random)
        quantizer.input_extent.mul_(torch.randn(quantizer.input_extent.shape, generator=random).sign())
        if quantizer.input_low is not None:
            quantizer.input_low.uniform_(-2, 0.2, generator=random)
    return quantizer


@st.composite
def quantizers_and_inputs(draw):
    """A quantizer, and values on both sides of each level and beyond the ends, none of them half-way between two."""
    quantizer = draw(quantizers())
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    low, high = quantizer.levels
    levels = torch.randint(low - 4, high + 5, SHAPE, generator=random)
    offsets = torch.empty(SHAPE).uniform_(0.02, 0.4, generator=random) * torch.randn(SHAPE, generator=random).sign()
    scale, zero_point = quantizer.broadcast(torch.Size(SHAPE))
    return quantizer, (levels + offsets - zero_point) * scale, torch.randn(SHAPE, generator=random)


def published(quantizer, x, gradient):
    """The result and the gradients of x, low and extent, in float64: NNCF's formulas, with a mask for each case."""
    scale, zero_point = (v.double() for v in quantizer.broadcast(x.shape))
    x, gradient = x.double(), gradient.double()
    low, high = quantizer.levels
    bottom, top = (low - zero_point) * scale, (high - zero_point) * scale
    y = (((x.clamp(bottom, top) - bottom) / scale).round() * scale) + bottom
    below, above = (x < bottom).double(), (x > top).double()
    inside = 1 - below - above
    ratio = low / high if quantizer.spec.symmetric else 0.0
    of_extent = gradient * (inside * (y - x) / (top - bottom) + above + below * ratio)
    return y, gradient * inside, gradient * (above + below), of_extent


def summed(quantizer, values):
    """`values` added up for each scale."""
    spec = quantizer.spec
    if spec.channel_axis is None:
        return values.sum()
    if spec.group_size is None:
        return values.movedim(spec.channel_axis, 0).flatten(1).sum(1)
    return torch.cat(
        [part.sum(spec.scale_axis, keepdim=True) for part in values.split(spec.group_size, spec.scale_axis)], spec.scale_axis
    )


@contextlib.contextmanager
def computed_by(what):
    """In torch's operations, on the whole or on blocks of some elements, or in the kernel."""
    loaded, block = native.load(), straight_through.BLOCK
    native.loaded = loaded if what == "kernel" else None
    straight_through.BLOCK = 11 if what == "blocks" else block
    try:
        yield
    finally:
        native.loaded, straight_through.BLOCK = loaded, block


def laid_out(x, order):
    """`x`, its dimensions in another order in memory."""
    return x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())


orders = st.permutations(range(3))
ways = st.sampled_from(["whole", "blocks", "kernel"])


@given(quantizers_and_inputs(), ways, orders, orders)
def test_the_gradients_are_those_of_the_formulas(example, way, order, other):
    quantizer, x, gradient = example
    x = laid_out(x, order).requires_grad_()
    with computed_by(way):
        y = quantizer(x)
        y.backward(laid_out(gradient, other))
    expected, of_x, of_low, of_extent = published(quantizer, x.detach(), gradient)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), of_x)
    of_extent = summed(quantizer, of_extent) * quantizer.input_extent.sign()
    torch.testing.assert_close(quantizer.input_extent.grad.double(), of_extent, rtol=1e-3, atol=1e-4)
    if quantizer.input_low is not None:
        torch.testing.assert_close(quantizer.input_low.grad.double(), summed(quantizer, of_low), rtol=1e-4, atol=1e-5)


@given(quantizers_and_inputs(), st.floats(0, 10))
def test_the_multiplier_is_that_of_the_range_alone(example, multiplier):
    quantizer, x, gradient = example
    twin = copy.deepcopy(quantizer)
    twin.learning_rate_multiplier = multiplier
    sources = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for one, source in zip((quantizer, twin), sources):
        one(source).backward(gradient)
    assert torch.equal(sources[0].grad, sources[1].grad)
    for plain, scaled in zip(quantizer.parameters(), twin.parameters()):
        torch.testing.assert_close(scaled.grad, plain.grad * multiplier)


@given(quantizers_and_inputs(), ways, orders)
def test_the_simulation_equals_the_integer_operations_bit_for_bit(example, way, order):
    quantizer, x, _ = example
    x = laid_out(x, order)
    grid = quantizer.scale, quantizer.zero_point.to(torch.int32), quantizer.spec.scale_axis
    block = quantizer.spec.group_size or 0
    integers = quantizer.integers(x).to(torch.int32)
    restored = torch.ops.fxcompress.dequantize(integers, *grid, quantizer.dtype, block)
    with computed_by(way):
        with torch.no_grad():
            assert torch.equal(restored, quantizer(x))
        assert torch.equal(quantizer(x.requires_grad_()).detach(), restored)


@given(quantizers())
def test_zero_is_on_the_grid_and_the_range_is_widened_at_one_end_only(quantizer):
    assert torch.equal(quantizer(torch.zeros(SHAPE)).detach(), torch.zeros(SHAPE))
    scale, zero_point = quantizer.grid()
    low, high = quantizer.levels
    extent = quantizer.input_extent.detach().abs()
    if quantizer.input_low is None:
        torch.testing.assert_close(scale * high, extent)
        return
    bottom, top = (low - zero_point) * scale, (high - zero_point) * scale
    wanted = quantizer.input_low.detach().clamp(max=0), (quantizer.input_low.detach() + extent).clamp(min=0)
    slack = 1e-5 * (wanted[1] - wanted[0])
    inner = (zero_point != low) & (zero_point != high)
    assert ((bottom <= wanted[0] + slack) & (top >= wanted[1] - slack))[inner].all()
    kept = torch.minimum((bottom - wanted[0]).abs(), (top - wanted[1]).abs())
    assert (kept <= slack)[inner].all()
    torch.testing.assert_close((top - bottom)[~inner], (wanted[1] - wanted[0])[~inner])


@given(quantizers())
def test_training_starts_from_the_range_that_was_there(quantizer):
    start = Quantizer(quantizer.spec, SHAPE)
    start.set_grid(quantizer.scale, quantizer.zero_point, quantizer.signed)
    again = TrainableQuantizer(start)
    torch.testing.assert_close(again.scale, start.scale)
    assert torch.equal(again.zero_point, start.zero_point)
    assert again.levels == start.levels


@pytest.mark.parametrize("spec", [QuantizationSpec(symmetric=False), QuantizationSpec(signed=True, channel_axis=0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_and_torch_agree_on_large_tensors(spec, threads):
    torch.manual_seed(0)
    x, gradient = torch.randn(3, 50_000), torch.randn(3, 50_000)
    start = Quantizer(spec, x.shape)
    start.set_range(torch.full_like(start.scale, -2.0), torch.full_like(start.scale, 1.5))
    found = []
    torch.set_num_threads(threads)
    try:
        for way in ("whole", "kernel"):
            quantizer, source = TrainableQuantizer(start), x.clone().requires_grad_()
            with computed_by(way):
                result = quantizer(source)
                result.backward(gradient)
            found.append([result.detach(), source.grad, *(p.grad for p in quantizer.parameters())])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(found[0][:2], found[1]))
    torch.testing.assert_close(found[0][2:], found[1][2:], rtol=1e-4, atol=1e-3)


def test_nothing_is_left_of_nothing():
    start = Quantizer(QuantizationSpec())
    start.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    x = torch.zeros(0, 3, requires_grad=True)
    TrainableQuantizer(start)(x).sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("signed", [True, False])
def test_half_precision_is_rounded_in_single(signed):
    start = Quantizer(QuantizationSpec(signed=signed))
    start.set_range(torch.tensor(-3.0), torch.tensor(3.0))
    x = torch.randn(100, dtype=torch.bfloat16)
    for quantizer in (start, TrainableQuantizer(start)):
        assert torch.equal(quantizer(x), quantizer(x.float()).bfloat16())


# ------------------------------------------------------------------------------------------------------------ the pass


class Small(nn.Module):
    """A convolution, batch norm and ReLU twice, added, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.norm2(self.conv(x))).relu().mean((2, 3)))


DATA = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def compiled(seed=0, quantize=None, **options):
    torch.manual_seed(seed)
    stack = [
        passes.CanonicalizeActivations(),
        quantize or passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(**options),
    ]
    return fxcompress.compile(Small(), stack, data=[DATA])


def step(model, optimizer):
    loss = model(DATA).square().mean() + model.controller.loss()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_changes_every_range_and_what_is_lowered_is_what_was_trained():
    model = compiled().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "quantizer" in name}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        step(model, optimizer)
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items() if name.endswith("extent"))
    model.eval()
    with torch.no_grad():
        wanted = model(DATA)
    assert sqnr(wanted, model.lower()(DATA)) > 30


def test_quantizers_start_when_their_epochs_come():
    model = compiled(weights_start_epoch=1, activations_start_epoch=3)
    controller = model.controller["TrainQuantizers"]
    seen = [_on(controller)]
    stages = [controller.compression_stage().name]
    for _ in range(5):
        model.controller.scheduler.epoch_step()
        seen.append(_on(controller))
        stages.append(controller.compression_stage().name)
    off, weights, both = (False, False), (True, False), (True, True)
    assert seen == [off, off, weights, weights, both, both]
    assert stages == ["UNCOMPRESSED"] * 2 + ["PARTIALLY_COMPRESSED"] * 2 + ["FULLY_COMPRESSED"] * 2


def _on(controller):
    kinds = ({q.enabled for q in kind.values()} for kind in (controller.weights, controller.activations))
    return tuple(on for (on,) in kinds)


def test_a_quantizer_that_is_off_is_not_there_in_the_model_or_the_file():
    model = compiled(weights_start_epoch=1, activations_start_epoch=1)
    torch.manual_seed(0)
    wanted = Small().eval()(DATA)
    torch.testing.assert_close(model(DATA), wanted)
    torch.testing.assert_close(model.lower()(DATA), wanted, rtol=1e-4, atol=1e-5)


def test_ranges_of_weights_are_set_anew_when_they_start():
    model = compiled(weights_start_epoch=1)
    quantizer = model.controller["TrainQuantizers"].weights["head_weight_quantizer"]
    parameter = quantizer.input_extent
    with torch.no_grad():
        model.head.weight.mul_(3)
    before = quantizer.scale
    for _ in range(2):
        model.controller.scheduler.epoch_step()
    torch.testing.assert_close(quantizer.scale, 3 * before)
    assert quantizer.input_extent is parameter  # the optimizer holds it


def test_quantizers_are_switched_by_hand():
    model = compiled()
    controller = model.controller["TrainQuantizers"]
    controller.switch(activations=False)
    assert _on(controller) == (True, False)
    assert controller.compression_stage() is CompressionStage.PARTIALLY_COMPRESSED
    assert "uint8   asymmetric   per tensor" in str(controller.statistics())


@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_compiles_a_quantizer_as_one_graph(symmetric):
    start = Quantizer(QuantizationSpec(symmetric=symmetric, channel_axis=1), SHAPE)
    start.set_range(torch.full_like(start.scale, -1.5), torch.full_like(start.scale, 1.0))
    model, x = TrainableQuantizer(start), torch.randn(SHAPE)
    twin = copy.deepcopy(model)
    for one in (model, torch.compile(twin, backend="aot_eager", fullgraph=True)):
        one(x).square().sum().backward()
    for expected, found in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(found.grad, expected.grad)


def test_a_copy_has_quantizers_of_its_own():
    model = compiled()
    twin = copy.deepcopy(model)
    twin.controller["TrainQuantizers"].switch(weights=False, activations=False)
    assert model.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert twin.controller.compression_stage() is CompressionStage.UNCOMPRESSED


@pytest.mark.parametrize("trained", [True, False])
def test_the_state_says_whether_a_grid_is_signed_and_whether_it_is_on(trained, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x)

    torch.manual_seed(0)
    model = Scaled()
    stack = [passes.Quantize(activations=QuantizationSpec()), passes.Calibrate(), *[passes.TrainQuantizers()] * trained]
    signed, unsigned = (fxcompress.compile(model, stack, data=[data]) for data in (torch.randn(8, 4), torch.rand(8, 4)))
    found = [next(q for call, q in quantizer_calls(one).items() if "weight" not in call.name) for one in (signed, unsigned)]
    assert [q.signed for q in found] == [True, False]
    found[0].enabled = False
    torch.save(signed.state_dict(), tmp_path / "state.pt")
    unsigned.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (found[1].signed, found[1].enabled, found[1].ready) == (True, False, True)
    assert torch.equal(signed(DATA[:, 0, :, :4]), unsigned(DATA[:, 0, :, :4]))


def test_ranges_must_be_calibrated_first():
    with pytest.raises(PlanError, match=r"TrainQuantizers needs 'calibrated'.*Calibrate"):
        fxcompress.compile(nn.Linear(2, 2), [passes.Quantize(), passes.TrainQuantizers()], example_inputs=torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_start_epoch": -1}, "weights_start_epoch is an epoch, 0 or more, not -1"),
        ({"activations_start_epoch": 1.5}, "activations_start_epoch is an epoch, 0 or more, not 1.5"),
        ({"learning_rate_multiplier": -1.0}, "learning_rate_multiplier must be 0 or more, not -1.0"),
        ({"learning_rate_multiplier": float("nan")}, "learning_rate_multiplier must be 0 or more, not nan"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        passes.TrainQuantizers(**options)
