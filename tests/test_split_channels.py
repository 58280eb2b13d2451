"""Splitting: the function stays, the weights of a channel that stands out are divided among copies of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CalibrationError, InputError
from fxcompress.execution.agreement import sqnr
from fxcompress.quantization.splitting import _quantile, copies_of, places, spread


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


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.sampled_from([0.9, 0.99]))
def test_the_quantile_is_that_of_torch(values, share):
    rows = torch.tensor([values, values[::-1]])
    torch.testing.assert_close(_quantile(rows, share), rows.quantile(share, 1, keepdim=True))


def test_every_value_tells_its_new_size():
    """Two pairs in a row: the second layer is both behind and before."""
    model = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight[5] *= 30
        model[2].weight[3] *= 30
    split = compiled(model, torch.randn(16, 5, 8), passes.SplitChannels(channels=3))
    assert split.report.rows[-1].rewrites == 2
    told = [list(node.meta["val"].shape)[1:] for node in split.graph.nodes if node.op == "call_function"]
    assert told == [[5, 27], [5, 27], [5, 19], [5, 19], [5, 4]]


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.Identity])
def test_the_function_stays_and_what_stands_out_is_repeated(activation, readers):
    torch.manual_seed(0)
    data = torch.randn(16, 5, 8)
    model = FeedForward(activation, readers)
    split = compiled(model, data, passes.SplitChannels(channels=3))
    assert split.report.rows[-1].decibels > 80
    before = dict(model.named_parameters())
    shapes = {n: list(tensor.shape) for n, tensor in split.named_parameters() if tensor.shape != before[n].shape}
    down = {f"down.{index}.weight": [4, 27] for index in range(readers)}
    assert shapes == {"up.weight": [27, 8], "up.bias": [27], **down}
    rows = dict(split.named_parameters())["up.weight"]
    assert int((rows == rows[5]).all(1).sum()) == 4


def test_it_pays_where_few_weights_stand_out():
    torch.manual_seed(0)
    model, data = FeedForward(), torch.randn(64, 5, 8)
    with torch.no_grad():
        model.up.weight[5] /= 30
        model.down[0].weight[2, 5] = 8.0
    split, plain = (
        compiled(model, data, *first, passes.Quantize())  # without Calibrate the weights alone are rounded
        for first in ([passes.SplitChannels()], [])
    )
    with torch.no_grad():
        assert sqnr(model(data), split(data)) > sqnr(model(data), plain(data)) + 3


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_copies_of_a_weight_sum_up_to_it_and_no_row_could_be_flatter(data):
    columns = data.draw(st.integers(1, 6))
    copies = torch.tensor(data.draw(st.lists(st.integers(1, 5), min_size=columns, max_size=columns)))
    values = data.draw(st.lists(st.floats(-100, 100, width=32), min_size=3 * columns, max_size=3 * columns))
    weight = torch.tensor(values).view(3, columns)
    parts = spread(weight, copies)
    channels, numbers = places(copies)
    assert torch.equal(channels.bincount(), copies) and (numbers < copies[channels]).all()
    torch.testing.assert_close(torch.zeros_like(weight).index_add(1, channels, parts), weight, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(parts.abs().amax(1), (weight.abs() / copies).amax(1))


@pytest.mark.parametrize("width", [1.0, 1.2])
def test_channels_of_equal_width_are_left_alone(width):
    model, data = FeedForward(nn.Identity), torch.eye(8).repeat(2, 1, 1)
    with torch.no_grad():
        model.up.weight.fill_(1.0)[5] = width
        model.up.bias.zero_()
        model.down[0].weight.fill_(1.0)
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
def test_no_other_copies_make_the_largest_share_smaller(burdens, added):
    burden = torch.tensor(burdens)
    copies = copies_of(burden, added)
    assert int(copies.sum()) == len(burdens) + added and int(copies.min()) >= 1
    largest = (burden / copies).max()
    needed = torch.ceil(burden / (largest * (1 - 1e-4))) - 1  # for every share to be below the largest one
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
    plain = fxcompress.compile(nn.Linear(3, 2), [passes.SplitChannels()], data=[torch.randn(2, 3)])
    assert plain.report.rows[-1].rewrites == 0
