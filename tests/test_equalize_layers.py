"""Linked layers with equally wide channels: the same function, in chains and random networks, and what it is good for."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from recipes import recipes
from torch import Tensor, nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.execution.agreement import sqnr
from fxcompress.ir.edit import attribute
from fxcompress.quantization.equalization import Scaling, equalize, width_ratio
from fxcompress.quantization.links import find_links
from fxcompress.quantization.patches import group_count

SEEDS = st.integers(0, 2**31)
EXACT = passes.EqualizeLayers(bias_share=0, iterations=10_000, tolerance=1e-5)


def equalized(model: nn.Module, x: Tensor, *more: passes.EqualizeLayers) -> fxcompress.Compiled:
    return fxcompress.compile(model, [passes.FoldBatchNorm(), *(more or [EXACT])], example_inputs=(x,))


def ratios(compiled: fxcompress.Compiled) -> list[Tensor]:
    """How much wider the channels of each link are in its first layer than in its second."""
    scaling = lambda layer: Scaling.of(attribute(compiled, layer.args[1].target).detach(), group_count(layer))  # noqa: E731
    return [width_ratio(scaling(link.first), scaling(link.second)) for link in find_links(compiled)]


def linked(model: nn.Module, x: Tensor) -> list[str]:
    """The links of `model`, as text."""
    links = find_links(fxcompress.compile(model, [], example_inputs=(x,)))
    return [f"{link.first.name} -> {link.second.name}" for link in links]


@torch.no_grad()
def uneven(model: nn.Module, decades: float = 1.0) -> nn.Module:
    """`model` with output channels, and their biases, that are up to so many powers of ten wider or narrower."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            factor = 10 ** torch.empty(len(layer.weight)).uniform_(-decades, decades)
            layer.weight *= factor.view(-1, *[1] * (layer.weight.dim() - 1))
            if layer.bias is not None:
                layer.bias *= factor
    return model.eval()


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, first: nn.Module, function, second: nn.Module):
        super().__init__()
        self.first, self.function, self.second = first, function, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


# ------------------------------------------------------------------------------------------------------------- laws

OPERATIONS = {
    "relu": lambda d: nn.ReLU(),
    "leaky relu": lambda d: nn.LeakyReLU(0.2),
    "prelu": lambda d: nn.PReLU(8, init=0.3),
    "dropout": lambda d: nn.Dropout(),
    "max pool": lambda d: (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d - 1](3, 1, 1),
    "average pool": lambda d: (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[d - 1](3, 1, 1),
    "padding": lambda d: (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[d - 1](1, 0.0),
}


@st.composite
def chains(draw) -> tuple[nn.Module, Tensor, int]:
    """Convolutions and then linear layers with operations between that factors pass; an input; the number of links."""
    torch.manual_seed(draw(SEEDS))
    dimensions = draw(st.integers(1, 3))
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    kinds = st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=2)
    convolutions, linears = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    made: list[nn.Module] = []
    for _ in range(convolutions):
        groups, bias = draw(st.sampled_from([1, 2, 8])), draw(st.booleans())
        made += [
            convolution(8, 8, draw(st.sampled_from([1, 3])), padding=1, groups=groups, bias=bias),
            *[OPERATIONS[kind](dimensions) for kind in draw(kinds)],
        ]
    x = torch.randn(3, 8, *[4] * dimensions)
    if linears:
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dimensions - 1]
        made += [pool(draw(st.integers(1, 2))), nn.Flatten()]
        width = nn.Sequential(*made)(x).shape[1]
        made += [nn.Linear(width, 6), nn.ReLU(), *[nn.Linear(6, 6) for _ in range(linears - 1)]]
    return uneven(nn.Sequential(*made)), x, convolutions + linears - 1


@given(chains())
def test_chains_compute_the_same_with_channels_equally_wide(drawn):
    model, x, links = drawn
    compiled = equalized(model, x)
    assert sqnr(model(x), compiled(x)) > 80
    found = ratios(compiled)
    assert len(found) == links
    assert all((ratio.log().abs() < 1e-4).all() for ratio in found)


@given(recipes())
def test_random_networks_compute_the_same_and_a_second_time_changes_nothing(recipe):
    model, x = uneven(recipe.build(), 0.5), recipe.inputs(2)
    compiled = equalized(model, x, EXACT, EXACT)
    with torch.no_grad():  # with gradients, torch refuses to write into one of several views
        assert sqnr(model(x), compiled(x)) > 80
    first, second = (row for row in compiled.report.rows if row.name.startswith("EqualizeLayers"))
    assert all((ratio.log().abs() < 1e-4).all() for ratio in ratios(compiled))
    assert second.decibels > 100
    assert second.rewrites == 0 or first.rewrites > 0


@given(SEEDS, st.integers(2, 5), st.integers(1, 3))
def test_matrices_are_scaled_until_each_channel_is_as_wide_in_both(seed, count, groups):
    random = torch.Generator().manual_seed(seed)
    weights = [torch.randn(6 * groups, 6, 3, generator=random) * 10 ** torch.randn(6 * groups, 1, 1, generator=random)
               for _ in range(count)]  # fmt: skip
    scalings = [Scaling.of(weight, groups) for weight in weights]
    pairs = list(itertools.pairwise(scalings))
    assert equalize(pairs, 10_000, 1e-6) < 10_000
    for first, second in pairs:
        torch.testing.assert_close(width_ratio(first, second), torch.ones(6 * groups, dtype=torch.double), rtol=2e-6, atol=0)
    for weight, scaling in zip(weights, scalings):
        torch.testing.assert_close(Scaling.of(scaling.scaled(weight), groups).widths, scaling.widths, rtol=1e-5, atol=0)


# ----------------------------------------------------------------------------------------------------------- links

CONV = lambda: nn.Conv2d(4, 4, 1)  # noqa: E731
IMAGES = (2, 4, 6, 6)


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (lambda x: x, CONV()),
        (lambda x: F.pad(F.relu(x), (1, 1, 0, 2)), CONV()),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), CONV()),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), CONV()),
        (lambda x: F.interpolate(x, scale_factor=2), CONV()),
        (lambda x: F.interpolate(x, size=(9, 9), mode="bilinear"), CONV()),
        (lambda x: x.mean((2, 3)), nn.Linear(4, 3)),
        (lambda x: x.mean(3).amax(2), nn.Linear(4, 3)),
        (lambda x: x.sum(2).flatten(1), nn.Linear(24, 3)),
        (lambda x: x.flatten(1), nn.Linear(144, 3)),
        (lambda x: x.flatten(2).transpose(1, 2).relu(), nn.Linear(4, 3)),
        (lambda x: x.permute(0, 2, 3, 1), nn.Linear(4, 3)),
        (lambda x: x.flatten(2), nn.Conv1d(4, 3, 1)),
        (lambda x: x.unsqueeze(-1), nn.Conv3d(4, 3, 1)),
    ],
)
def test_factors_pass(function, second):
    torch.manual_seed(0)
    model, x = uneven(Between(CONV(), function, copy.deepcopy(second))), torch.randn(IMAGES)
    assert linked(model, x) == ["first -> second"]
    compiled = equalized(model, x)
    assert sqnr(model(x), compiled(x)) > 80
    assert (ratios(compiled)[0].log().abs() < 1e-4).all()


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (F.relu6, CONV()),
        (torch.sigmoid, CONV()),
        (F.hardswish, CONV()),
        (lambda x: x.clamp(min=-1), CONV()),
        (lambda x: x + 1, CONV()),
        (lambda x: x + x.relu(), CONV()),
        (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), CONV()),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, :4], CONV()),
        (lambda x: x.transpose(1, 2), nn.Conv2d(6, 4, 1)),
        (lambda x: x, nn.Linear(6, 3)),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), nn.Linear(144, 3)),
        (lambda x: x.reshape(-1, 2, 12, 6), nn.Conv2d(2, 4, 1)),
        (lambda x: x.mean(1, keepdim=True), nn.Conv2d(1, 4, 1)),
        (lambda x: F.max_pool1d(x.flatten(2).transpose(1, 2), 3, 1, 1), nn.Linear(4, 3)),
    ],
)
def test_factors_do_not_pass(function, second):
    model, x = Between(CONV(), function, second).eval(), torch.randn(IMAGES)
    assert linked(model, x) == []
    assert torch.equal(model(x), equalized(model, x)(x))


def test_clamps_are_noted():
    model = nn.Sequential(*[layer for _ in range(4) for layer in (CONV(), nn.ReLU6())])
    notes = equalized(model, torch.randn(IMAGES)).report.notes
    assert any("_1, _3, _5 and 1 more" in note for note in notes), notes


def test_weights_that_something_else_reads_stay():
    shared = CONV()
    model = nn.Sequential(CONV(), shared, CONV(), shared)
    assert linked(model, torch.randn(IMAGES)) == []


def test_weights_of_16_bits_are_equalized_in_float32():
    assert linked(nn.Sequential(CONV(), CONV()).bfloat16(), torch.randn(IMAGES).bfloat16()) == ["_0 -> _1"]


def test_channels_without_weights_stay():
    model = nn.Sequential(CONV(), nn.ReLU(), CONV())
    with torch.no_grad():
        model[0].weight[0], model[2].weight[:, 1] = 0, 0
        compiled = equalized(model, torch.rand(IMAGES))
    weight, after = (one.get_parameter("0.weight") for one in (model, compiled))
    assert torch.equal(weight[:2], after[:2]) and not torch.equal(weight[3], after[3])


def test_the_model_itself_is_left_as_it_was():
    model = uneven(nn.Sequential(CONV(), nn.ReLU(), CONV()))
    before = copy.deepcopy(model.state_dict())
    equalized(model, torch.randn(IMAGES))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_small_beside_their_bias_are_widened_less():
    model = nn.Sequential(CONV(), nn.ReLU(), CONV()).eval()
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 1e-6, 1.0
    x = torch.rand(IMAGES)
    widest = {}
    for share in (0, 0.1):
        compiled = equalized(model, x, passes.EqualizeLayers(bias_share=share))
        widest[share] = compiled.get_parameter("0.bias").abs().max()
    assert widest[0] > 100 and widest[0.1] < 10


# ---------------------------------------------------------------------------------------------------- what it is for


class Separable(nn.Module):
    """Two depthwise separable blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise, self.pointwise = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pointwise(F.relu(self.depthwise(F.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def spread(model: Separable) -> Separable:
    """`model`, the same function, with channels up to 300 times wider than others."""
    layers = [model.stem, model.depthwise, model.pointwise, model.head]
    for first, second in itertools.pairwise(layers):
        factor = 10 ** torch.empty(16).uniform_(-1.25, 1.25)
        first.weight *= factor.view(-1, 1, 1, 1)
        first.bias *= factor
        inputs = (-1, 1) if second is model.depthwise else (1, -1)
        second.weight /= factor.view(*inputs, *[1] * (second.weight.dim() - 2))
    return model.eval()


def test_uneven_channels_that_share_a_scale_keep_their_precision():
    torch.manual_seed(0)
    model, x = spread(Separable()), torch.randn(16, 3, 8, 8)
    decibels = []
    for more in ([], [passes.EqualizeLayers()]):
        compiled = fxcompress.compile(model, [*more, passes.Quantize(per_channel=False), passes.Calibrate()], data=[x])
        decibels.append(sqnr(model(x), compiled(x)))
    assert decibels[0] < 20 and decibels[1] > decibels[0] + 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations of 1 or more, got 0"),
        ({"tolerance": 0.0}, "tolerance above 0, got 0.0"),
        ({"tolerance": math.nan}, "tolerance above 0, got nan"),
        ({"bias_share": -0.5}, "bias_share of 0 or more, got -0.5"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        passes.EqualizeLayers(**options)
