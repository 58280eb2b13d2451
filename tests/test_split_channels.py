"""Splitting: the function stays, the widest channel between two linear layers becomes several narrower ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CalibrationError, InputError
from fxcompress.passes.split_channels import _copies
from fxcompress.verify import sqnr


class FeedForward(nn.Module):
    """Two linear layers with an activation between; one channel of the first is 30 times wider than the rest."""

    def __init__(self, activation=nn.GELU, readers=1):
        super().__init__()
        self.up, self.activation = nn.Linear(8, 24), activation()
        self.down = nn.ModuleList(nn.Linear(24, 4) for _ in range(readers))
        with torch.no_grad():
            self.up.weight[5] *= 30

    def forward(self, x):
        hidden = self.activation(self.up(x))
        return torch.cat([layer(hidden) for layer in self.down], -1)


def compiled(model, data, *chosen):
    return fxcompress.compile(model.eval(), chosen, data=data.split(8))


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.Identity])
def test_the_function_stays_and_the_widest_channel_is_repeated(activation, readers):
    torch.manual_seed(0)
    data = torch.randn(16, 5, 8)
    split = compiled(FeedForward(activation, readers), data, passes.SplitChannels(channels=3))
    assert split.report.rows[-1].decibels > 80
    shapes = {name: list(tensor.shape) for name, tensor in split.named_parameters() if name.endswith("_split")}
    down = {f"down.{index}.weight_split": [4, 27] for index in range(readers)}
    assert shapes == {"up.weight_split": [27, 8], "up.bias_split": [27], **down}
    rows = dict(split.named_parameters())["up.weight_split"]
    assert int((rows == rows[5]).all(1).sum()) == 4


def test_it_pays_where_few_channels_are_wide():
    torch.manual_seed(0)
    model, data = FeedForward(), torch.randn(64, 5, 8)
    split, plain = (
        compiled(model, data, *first, passes.Quantize(), passes.Calibrate()) for first in ([passes.SplitChannels()], [])
    )
    with torch.no_grad():
        assert sqnr(model(data), split(data)) > sqnr(model(data), plain(data)) + 1


def test_smoothing_makes_no_second_product():
    split = compiled(FeedForward(), torch.randn(8, 5, 8), passes.SplitChannels(), passes.SmoothActivations())
    products = split.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert [node.name for node in products] == ["activation_split"]


@pytest.mark.parametrize("width", [1.0, 1.2])
def test_channels_of_equal_width_are_left_alone(width):
    model, data = FeedForward(nn.Identity), torch.eye(8).repeat(2, 1, 1)
    with torch.no_grad():
        model.up.weight.fill_(1.0)[5] = width
        model.up.bias.zero_()
    split = compiled(model, data, passes.SplitChannels(channels=1))
    assert split.report.rows[-1].rewrites == 0


def test_what_something_else_reads_is_left_alone():
    class Leaking(FeedForward):
        def forward(self, x):
            hidden = self.up(x).relu()
            return self.down[0](hidden), hidden

    split = compiled(Leaking(), torch.randn(8, 5, 8), passes.SplitChannels())
    assert split.report.rows[-1].rewrites == 0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_no_other_copies_make_the_widest_share_narrower(widths, added):
    width = torch.tensor(widths)
    copies = _copies(width, added)
    assert int(copies.sum()) == len(widths) + added and int(copies.min()) >= 1
    widest = (width / copies).max()
    needed = torch.ceil(width / (widest * (1 - 1e-4))) - 1  # for every share to be below the widest one
    assert int(needed.sum()) > added


def test_activations_that_are_not_finite_are_named():
    data = torch.full((8, 5, 8), float("inf"))
    with pytest.raises(CalibrationError, match="activation.* is NaN or infinite"):
        fxcompress.compile(FeedForward().eval(), [passes.SplitChannels()], example_inputs=(torch.randn(2, 5, 8),), data=[data])


@pytest.mark.parametrize("options", [{"channels": 0}, {"gain": 0.5}, {"gain": float("nan")}, {"samples": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="channels|gain|sample"):
        compiled(FeedForward(), torch.randn(8, 5, 8), passes.SplitChannels(**options))


def test_networks_without_such_layers_need_no_data():
    plain = fxcompress.compile(nn.Linear(3, 2), [passes.SplitChannels()], example_inputs=(torch.randn(2, 3),))
    assert plain.report.rows[-1].rewrites == 0
