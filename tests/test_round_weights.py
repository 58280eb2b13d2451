"""Weights rounded for the layers' outputs, and biases corrected: the laws, layer by layer and on a small network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import Pass, passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError
from fxcompress.quantization import descent
from fxcompress.quantization.moments import Moments
from fxcompress.quantization.patches import CONVOLUTIONS, LINEAR, input_patches, weight_rows
from fxcompress.quantization.rounding import descend, error

SEEDS = st.integers(0, 2**32 - 1)


def _problem(seed: int, groups: int, rows: int, columns: int, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, the second moment of `rank` inputs, and a step for each row."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(groups, rank, columns, generator=random) * torch.rand(columns, generator=random) ** 4
    weight = torch.randn(groups, rows, columns, generator=random)
    return weight, inputs.mT @ inputs / rank, weight.abs().amax(2, keepdim=True) / 7


@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 150), st.integers(1, 20), st.integers(1, 4))
def test_no_row_is_worse_than_rounded_to_nearest(seed, groups, rows, columns, rank, sweeps):
    weight, moment, scale = _problem(seed, groups, rows, columns, rank)
    zero = torch.zeros(())
    nearest = (weight / scale).round().clamp(-8, 7)
    found = descend(weight, moment, scale, zero, (-8, 7), sweeps)
    assert torch.equal(found, found.round()) and found.min() >= -8 and found.max() <= 7
    before, after = (error(integers * scale - weight, moment) for integers in (nearest, found))
    assert (after <= before * (1 + 1e-4) + 1e-6).all()


@given(SEEDS, st.integers(1, 3), st.integers(1, 64), st.integers(1, 200), st.booleans())
def test_the_kernel_settles_columns_as_torch_does(seed, groups, columns, rows, held):
    """On numbers whose products and sums are exact, so that no order of rounding tells them apart."""
    random = torch.Generator().manual_seed(seed)

    def eighths(*shape):
        return torch.randint(-8, 9, shape, generator=random) / 8

    half = eighths(groups, columns, columns).tril()
    within, slopes = half + half.mT, eighths(groups, columns, rows) * 8
    newton, steps = (2.0 ** torch.randint(-2, 1, (groups, columns, rows), generator=random) for _ in range(2))
    newton = newton * (torch.rand(newton.shape, generator=random) > 0.3) if held else newton
    stands = torch.randint(-8, 8, (groups, columns, rows), generator=random).float()
    ways = [(slopes.clone(), stands.clone()) for _ in range(2)]
    descent.settle_in_torch(within, ways[0][0], newton, steps, ways[0][1], (-8, 7))
    descent.settle(within, ways[1][0], newton, steps, ways[1][1], (-8, 7))
    assert torch.equal(*(integers for _, integers in ways))
    assert torch.equal(ways[0][0][:, -1], ways[1][0][:, -1])


@given(SEEDS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 150), st.integers(1, 3))
def test_sweeps_over_blocks_are_those_over_single_columns(seed, groups, rows, columns, sweeps):
    """In double precision, where the order of sums decides nothing."""
    weight, moment, scale = (one.double() for one in _problem(seed, groups, rows, columns, 20))
    integers = (weight / scale).round().clamp(-8, 7)
    order = moment.diagonal(dim1=1, dim2=2).sum(0).argsort(descending=True).tolist()
    for _ in range(sweeps):
        for column in order:
            power = moment[:, column, column, None]
            slope = ((integers * scale - weight) @ moment[:, :, column, None])[..., 0]
            best = integers[..., column] - slope / (power.clamp(min=1e-30) * scale[..., 0])
            strong = power > 1e-12 * moment.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
            integers[..., column] = torch.where(strong, best.round().clamp(-8, 7), integers[..., column])
    assert torch.equal(descend(weight, moment, scale, torch.zeros(()).double(), (-8, 7), sweeps), integers)


@given(SEEDS, st.integers(1, 80))
def test_independent_inputs_leave_the_nearest_integers(seed, columns):
    weight, moment, scale = _problem(seed, 2, 3, columns, 5)
    moment = torch.diag_embed(moment.diagonal(dim1=1, dim2=2))
    assert torch.equal(descend(weight, moment, scale, torch.zeros(()), (-8, 7)), (weight / scale).round().clamp(-8, 7))


def test_inputs_that_are_always_zero_leave_the_nearest_integers():
    weight = torch.randn(1, 3, 4)
    assert torch.equal(descend(weight, torch.zeros(1, 4, 4), torch.tensor(0.1), torch.tensor(3.0), (-128, 127)),
                       (weight / 0.1 + 3).round())  # fmt: skip


@st.composite
def layers(draw) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer that patches are taken of, and the shape of an input."""
    dimensions = draw(st.integers(0, 3))
    if not dimensions:
        return nn.Linear(5, 3), draw(st.sampled_from([(2, 5), (2, 4, 5), (2, 3, 2, 5)]))
    groups = draw(st.integers(1, 3))
    sizes = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * dimensions))  # noqa: E731
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    layer = kind(
        2 * groups, 3 * groups, sizes(1, 3), stride=sizes(1, 3), padding=sizes(0, 2), dilation=sizes(1, 2), groups=groups
    )
    return layer, (2, 2 * groups, *[7] * dimensions)


@given(layers(), SEEDS)
def test_patches_times_weights_are_the_outputs(drawn, seed):
    layer, shape = drawn
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    (node,) = [n for n in capture(layer, ExampleInputs((x,))).graph.nodes if n.target in (*CONVOLUTIONS, LINEAR)]
    with torch.no_grad():
        outputs = input_patches(node, x, layer.weight.shape, 10**9) @ weight_rows(node, layer.weight).mT
        expected = layer(x) - layer.bias.view(-1, *[1] * (len(shape) - 2 if node.target in CONVOLUTIONS else 0))
    if node.target in CONVOLUTIONS:
        expected = expected.flatten(2).unflatten(1, (len(outputs), -1)).permute(1, 0, 3, 2)
    torch.testing.assert_close(outputs, expected.reshape(outputs.shape), rtol=1e-4, atol=1e-4)


class Network(nn.Module):
    """A depthwise convolution between two others, on images whose neighbouring pixels are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.depthwise(self.stem(x).relu()).relu().mean((2, 3)))


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    pixels = nn.functional.interpolate(torch.randn(40, 3, 6, 6), size=24, mode="bilinear")
    return Network().eval(), pixels


def _compiled(model: nn.Module, images: torch.Tensor, *after: Pass, bits: int = 4, count: int = 20):
    grid = fxcompress.QuantizationSpec(bits=bits, signed=True, narrow=True)
    return fxcompress.compile(model, [passes.Quantize(weights=grid), *after], data=images[:count].split(5))


def _noise(compiled: fxcompress.Compiled, model: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        return (compiled(images) - model(images)).square().mean().item()


def test_it_pays_on_images_that_it_has_not_seen():
    model, images = _network()
    plain, rounded = (_compiled(model, images, *after) for after in ([], [passes.RoundWeights()]))
    assert rounded.report.rows[-1].rewrites == 3
    assert _noise(rounded, model, images[20:]) < 0.5 * _noise(plain, model, images[20:])


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_biases_leave_the_integers_what_is_not_the_mean(kind):
    """Of inputs far from zero: no layer's mean is off any more, and the rest gets better on other inputs too."""
    torch.manual_seed(0)
    model, size = (nn.Linear(24, 9), (4, 24)) if kind == "linear" else (nn.Conv2d(8, 6, 3, groups=2), (8, 5, 5))
    channels = -1 if kind == "linear" else 1
    inputs = 4 + torch.randn(72, *size).cumsum(1) / 2
    found = [
        _compiled(
            model.eval(),
            inputs,
            passes.RoundWeights(samples=56, token_samples=56, biases=biases, precision="float32"),
            count=72,
        )
        for biases in (False, True)
    ]
    without, with_biases = (_noise(one, model, inputs[56:]) for one in found)
    assert found[1].report.rows[-1].rewrites == 1 and with_biases < 0.9 * without
    with torch.no_grad():
        off = [(one(inputs[:56]) - model(inputs[:56])).movedim(channels, 0).flatten(1).mean(1).abs().max() for one in found]
    assert off[1] < 1e-4 < off[0]


class Tokens(nn.Module):
    """Linear layers behind one another, on the tokens of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 48, bias=False), nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


def test_in_sequence_layers_make_up_for_those_before_them():
    torch.manual_seed(0)
    model, texts = Tokens().eval(), torch.randn(112, 6, 16) @ torch.randn(16, 16)
    found = [
        _compiled(model, texts, passes.RoundWeights(precision="float32", **options), bits=3, count=64)
        for options in ({}, {"sequential": True}, {"sequential": True, "biases": True})
    ]
    apart, in_sequence, with_biases = (_noise(one, model, texts[64:]) for one in found)
    assert found[1].report.rows[-1].rewrites == 3
    assert in_sequence < 0.9 * apart and with_biases < in_sequence


def test_the_target_is_that_of_least_squares():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(200, 7, generator=random) + 1, torch.randn(5, 7, generator=random)
    y = x + torch.randn(200, 7, generator=random) / 3
    moments = Moments().add(x[None, :90], y[None, :90]).add(x[None, 90:], y[None, 90:])
    ones = torch.cat([x, torch.ones(200, 1)], 1)
    wanted = torch.linalg.lstsq(ones, y @ weight.T).solution[:-1].T
    torch.testing.assert_close(moments.target(weight[None], torch.zeros(1), centred=True)[0], wanted, atol=1e-3, rtol=1e-3)
    wanted = torch.linalg.lstsq(x, y @ weight.T).solution.T
    torch.testing.assert_close(moments.target(weight[None], torch.zeros(1), centred=False)[0], wanted, atol=1e-3, rtol=1e-3)
    kept = moments.target(weight[None], torch.full((1,), 1e6), centred=True)[0]
    torch.testing.assert_close(kept, weight, atol=1e-3, rtol=1e-3)


def test_a_layer_without_a_bias_gets_none():
    model, images = _network()
    compiled = _compiled(model, images, passes.RoundWeights(biases=True))
    assert {name for name, _ in model.named_parameters()} == {"stem.weight", "stem.bias", "depthwise.weight", "head.weight"}
    assert {name for name in compiled.state_dict() if "bias" in name} == {"stem.bias"}


def test_rounding_twice_changes_nothing_more():
    model, images = _network()
    once, twice = (_compiled(model, images, *[passes.RoundWeights()] * times) for times in (1, 2))
    assert torch.equal(once(images), twice(images))


def test_layers_with_too_many_inputs_are_left_out():
    model, images = _network()
    after = _compiled(model, images, passes.RoundWeights(columns=9))
    assert after.report.rows[-1].rewrites == 2  # not the stem: 27
    few = _compiled(model, images, passes.RoundWeights(samples=1, patches=10))
    assert few.report.rows[-1].rewrites == 1  # one sample shows the stem 10 of its 27 unknowns, the head 1 of its 8


def test_biases_take_up_the_mean_difference():
    model, images = _network()
    plain, corrected = (
        _compiled(model, images, passes.Calibrate(), *after, count=36) for after in ([], [passes.CorrectBias(samples=20)])
    )
    with torch.no_grad():
        mean = (corrected(images[:20]) - model(images[:20])).mean(0)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-6, rtol=0)
    assert _noise(corrected, model, images[36:]) < _noise(plain, model, images[36:])


@pytest.mark.parametrize(
    "options",
    [{name: 0} for name in ("samples", "patches", "columns", "tokens", "token_samples", "token_columns", "sweeps")]
    + [{"damping": -1.0}, {"damping": float("nan")}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        passes.RoundWeights(**options)


def test_rounding_needs_data():
    model, images = _network()
    with pytest.raises(InputError, match="RoundWeights needs data"):
        fxcompress.compile(model, [passes.Quantize(), passes.RoundWeights()], example_inputs=(images,))


def test_correcting_needs_samples():
    model, images = _network()
    with pytest.raises(InputError, match="CorrectBias needs samples of 1 or more, got 0"):
        _compiled(model, images, passes.Calibrate(), passes.CorrectBias(samples=0))
