"""Learned rounding: the laws of the descent, and what it does to a small network."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, PlanError
from fxcompress.quantization.relaxation import learn
from fxcompress.quantization.rounding import descend, error
from fxcompress.quantizers.quantizer import Quantizer

SEEDS = st.integers(0, 2**32 - 1)
QUICK = passes.LearnRounding(samples=20, iterations=30)


@given(SEEDS, st.integers(2, 8), st.booleans(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(0, 8))
def test_integers_stay_on_the_grid_and_no_row_is_worse_than_it_was(seed, bits, signed, groups, rows, columns, iterations):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(groups, 6, columns, generator=random) * torch.rand(columns, generator=random)
    target = torch.randn(groups, rows, columns, generator=random)
    levels = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = 0.1 + torch.rand(groups, rows, columns, generator=random)  # one an element, as groups along the inputs have
    zero_point = torch.tensor(0.0 if signed else 2.0 ** (bits - 1))
    integers = torch.randint(levels[0], levels[1] + 1, target.shape, generator=random).float()
    moment = inputs.mT @ inputs / 6
    learned = learn(integers, target, moment, scale, zero_point, levels, iterations, 0.1, 3.0)
    assert torch.equal(learned, learned.round()) and learned.min() >= levels[0] and learned.max() <= levels[1]
    assert (learned - integers).abs().max() <= 1
    before, after = (error((chosen - zero_point) * scale - target, moment) for chosen in (integers, learned))
    assert (after <= before).all()


def test_it_improves_on_coordinate_descent():
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 200, 40, generator=random) @ torch.randn(40, 40, generator=random)
    weight, moment = torch.randn(1, 30, 40, generator=random), inputs.mT @ inputs / 200
    scale, zero_point, levels = weight.abs().amax(2, keepdim=True) / 7, torch.tensor(0.0), (-8, 7)
    descended = descend(weight, moment, scale, zero_point, levels, sweeps=20)
    learned = learn(descended, weight, moment, scale, zero_point, levels, 100, 0.1, 3.0)
    before, after = (error(integers * scale - weight, moment).sum() for integers in (descended, learned))
    assert after < 0.97 * before


class Network(nn.Module):
    """Convolutions of all kinds and a linear layer, on images whose neighbouring pixels are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, bias=False)
        self.pointwise = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x).relu()).relu()
        return self.head(self.pointwise(x).relu().mean((2, 3)))


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.randn(40, 3, 6, 6), size=24, mode="bilinear")
    return Network().eval(), images


def _compiled(
    model: nn.Module, images: torch.Tensor, *after: fxcompress.Pass, count: int = 20, **grid: object
) -> fxcompress.Compiled:
    spec = fxcompress.QuantizationSpec(**{"bits": 4, "signed": True} | grid)
    quantized = [passes.Quantize(weights=spec), passes.RoundWeights(), passes.Calibrate()]
    return fxcompress.compile(model, [*quantized, *after], data=images[:count].split(5))


def _noise(compiled: fxcompress.Compiled, model: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        return (compiled(images) - model(images)).square().mean().item()


@pytest.mark.parametrize("grid", [{}, {"group_size": 4}, {"bits": 3}])
def test_few_bits_gain_on_images_that_it_has_not_seen(grid):
    """It chooses on 40 of them, judges on 16 others, and is measured on yet others."""
    model, images = _network()
    others = nn.functional.interpolate(torch.randn(56, 3, 6, 6), size=24, mode="bilinear")
    shown, measured = torch.cat([images, others[:16]]), others[16:]
    pair = ([], [replace(QUICK, samples=40, iterations=100)])
    rounded, learned = (_compiled(model, shown, *after, count=56, **grid) for after in pair)
    assert learned.report.rows[-1].rewrites == 4
    assert _noise(learned, model, measured) < 0.95 * _noise(rounded, model, measured)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_lie_on_their_grid(bits):
    model, images = _network()
    compiled = _compiled(model, images, QUICK, bits=bits, group_size=4)
    checked = 0
    for node in compiled.graph.find_nodes(op="call_module"):
        quantizer = compiled.get_submodule(node.target)
        if isinstance(quantizer, Quantizer) and node.args[0].op == "get_attr":
            weight = compiled.get_parameter(node.args[0].target)
            assert torch.equal(quantizer(weight), weight)
            checked += 1
    assert checked == 4


def test_the_same_data_give_the_same_weights_and_other_models_keep_theirs():
    model, images = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = _compiled(model, images, QUICK)
    torch.manual_seed(1)
    second = _compiled(model, images, QUICK)
    assert torch.equal(first(images), second(images))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_progress_counts_the_layers():
    model, images = _network()
    told: list[tuple[str, int, int | None]] = []
    quantize = [passes.Quantize(), passes.Calibrate(), QUICK]
    fxcompress.compile(model, quantize, data=images[:20].split(5), progress=lambda *news: told.append(news))
    assert [news[1:] for news in told if news[0] == "learning to round"] == [(done, 4) for done in range(4)]


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"patches": 0},
        {"iterations": -1},
        {"damping": 0.0},
        {"damping": float("nan")},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"regularization": -1.0},
        {"regularization": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        passes.LearnRounding(**options)


def test_it_needs_data_and_ranges():
    model, images = _network()
    with pytest.raises(PlanError, match="LearnRounding needs 'calibrated'"):
        fxcompress.compile(model, [passes.Quantize(), QUICK], data=images.split(5))


@pytest.mark.parametrize("options", [{}, {"damping": 1e-3}, {"iterations": 0}, {"learning_rate": 10.0, "regularization": 0.0}])
def test_no_layer_ends_worse_on_the_samples_than_it_was(options):
    model, images = _network()
    linear = nn.Sequential(model.stem)  # the only layer, so that its outputs are those of the model
    rounded, learned = (
        _compiled(linear, images, *after) for after in ([], [passes.LearnRounding(samples=20, patches=10**6, **options)])
    )
    with torch.no_grad():
        before, after = (
            (compiled(images[:20]) - linear(images[:20])).square().sum((0, 2, 3)) for compiled in (rounded, learned)
        )
    assert (after <= before * (1 + 1e-4)).all()


def test_it_learns_in_inference_mode_as_well():
    model, images = _network()
    with torch.inference_mode():
        inside = _compiled(model, images, QUICK)
    assert torch.equal(inside(images), _compiled(model, images, QUICK)(images))
