"""Smoothing: the function stays, the widest channels do not; a layer norm takes up the factors where it can."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CalibrationError, InputError
from fxcompress.execution.agreement import sqnr

MULTIPLY = torch.ops.aten.mul.Tensor


class Block(nn.Module):
    """A feed-forward block whose norm has two channels that are far wider than the rest."""

    def __init__(self, residual: bool, transposed: bool = False) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.flat = nn.Parameter(torch.randn(24, 16) / 4) if transposed else None
        self.residual = residual
        with torch.no_grad():
            self.norm.weight[:2] = 60.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        hidden = self.up(x).relu()
        out = self.down(hidden) if self.flat is None else hidden @ self.flat
        return x + out if self.residual else out


def _model(residual: bool, transposed: bool = False) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Block(residual, transposed).eval(), torch.randn(120, 5, 16)  # of fewer, smoothed ranges cut off what others hold


def _decibels(model: nn.Module, data: torch.Tensor, *chosen: passes.Quantize) -> float:
    with torch.no_grad():
        return sqnr(model(data), fxcompress.compile(model, chosen, data=data.split(6))(data))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_function_stays(residual, transposed):
    assert _decibels(*_model(residual, transposed), passes.SmoothActivations()) > 80


def test_it_pays_where_few_channels_are_wide():
    quantize = [passes.Quantize(), passes.Calibrate()]
    model, data = _model(residual=False)
    assert _decibels(model, data, passes.SmoothActivations(), *quantize) > _decibels(model, data, *quantize) + 3


@pytest.mark.parametrize("residual", [False, True])
def test_a_norm_that_only_linear_layers_read_takes_up_the_factors(residual):
    """Else a multiplication does, which the residual connection goes round."""
    model, data = _model(residual)
    compiled = fxcompress.compile(model, [passes.SmoothActivations()], data=data.split(6))
    behind_the_norm = [n for n in compiled.graph.find_nodes(op="call_function", target=MULTIPLY) if n.args[0].name == "norm"]
    assert len(behind_the_norm) == residual
    assert torch.equal(compiled.get_parameter("norm.weight"), model.norm.weight) == residual


def _to_one_side(residual: bool, transposed: bool = False) -> tuple[nn.Module, torch.Tensor]:
    """A block two of whose channels are far from zero."""
    model, data = _model(residual, transposed)
    with torch.no_grad():
        model.norm.weight[:2] = 1.0
        model.norm.bias[:2] = torch.tensor([40.0, -40.0])
    return model, data


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_function_stays_where_channels_are_centred(residual, transposed):
    assert _decibels(*_to_one_side(residual, transposed), passes.SmoothActivations()) > 80


@pytest.mark.parametrize("residual", [False, True])
def test_channels_to_one_side_are_centred(residual):
    """By the norm, or else by an addition behind it; the bias of the layer that reads them makes up for it."""
    quantize = [passes.Quantize(), passes.Calibrate()]
    model, data = _to_one_side(residual)
    assert _decibels(model, data, passes.SmoothActivations(), *quantize) > _decibels(model, data, *quantize) + 10
    graph = fxcompress.compile(model, [passes.SmoothActivations()], data=data.split(6)).graph
    assert [n.name for n in graph.nodes if n.name == "norm_smoothed_centred"] == ["norm_smoothed_centred"] * residual
    (up,) = [n for n in graph.nodes if n.name == "up"]
    assert up.args[2].name == "up_weight_centred_bias"


def test_channels_around_zero_are_left_where_they_are():
    model, data = _model(residual=True)
    data = torch.cat([data, -data])  # the norm puts out both, so that its channels are centred as they are
    graph = fxcompress.compile(model, [passes.SmoothActivations()], data=data.split(6)).graph
    assert not [n for n in graph.nodes if n.name == "norm_smoothed_centred"]


def test_activations_that_are_not_finite_are_named():
    model, data = _model(residual=False)
    data[3, 2, 1] = float("inf")
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        fxcompress.compile(model, [passes.SmoothActivations()], example_inputs=(data[:2],), data=data.split(6))


@pytest.mark.parametrize("options", [{"tokens": 0}, {"token_samples": 0}, {"samples": 0}])
def test_options_out_of_range_are_refused(options):
    model, data = _model(residual=False)
    with pytest.raises(InputError, match="tokens|sample"):
        fxcompress.compile(model, [passes.SmoothActivations(**options)], data=data.split(6))


def test_networks_without_tokens_need_no_data():
    compiled = fxcompress.compile(nn.Linear(3, 2), [passes.SmoothActivations()], data=[torch.randn(2, 3)])
    assert compiled.report.rows[-1].rewrites == 0


def test_a_product_with_a_constant_takes_up_the_factors():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.down = nn.Parameter(torch.tensor([60.0] * 2 + [1.0] * 14)), nn.Linear(16, 4)

        def forward(self, x):
            return self.down(x.tanh() * self.scale)

    model, data = Scaled().eval(), torch.randn(24, 5, 16)
    smoothed = fxcompress.compile(model, [passes.SmoothActivations()], data=data.split(6))
    assert len(smoothed.graph.find_nodes(op="call_function", target=MULTIPLY)) == 1
    assert smoothed.report.rows[-1].rewrites == 1 and smoothed.report.rows[-1].decibels > 80


@pytest.mark.parametrize("samples", [4, 16])
def test_few_tokens_do_not_narrow_what_others_fill(samples):
    """Smoothed, every channel reaches the ends of a range that few tokens gave, and of others many are cut off."""
    torch.manual_seed(0)
    table, block = nn.Embedding(99, 32), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    model = nn.Sequential(table, block).eval()
    data, others = torch.randint(99, (samples, 8)), torch.randint(99, (64, 16))
    quantize = [passes.Quantize(), passes.Calibrate()]
    smoothed, plain = (
        fxcompress.compile(model, [*first, *quantize], data=data.split(4)) for first in ([passes.SmoothActivations()], [])
    )
    with torch.no_grad():
        assert sqnr(model(others), smoothed(others)) > sqnr(model(others), plain(others)) - 0.5
