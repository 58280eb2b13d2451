"""Channels in another order: the model computes what it did, and neighbours of one sign are not both large."""

import torch
from hypothesis import given, settings
from shape_networks import agree, networks
from test_quantize_options import quantizers
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.channels import analyze
from fxcompress.channels.exchange import exchange, exchangeable
from fxcompress.data.inputs import ExampleInputs
from fxcompress.execution.agreement import sqnr


def shuffled(graph_module) -> list[list[int]]:
    """The sets of channels of `graph_module`, whose members are then in places that are drawn at random."""
    channels = analyze(graph_module)
    found = exchangeable(channels)
    sources = {}
    for members in found:
        sources |= {one: members[index] for one, index in zip(members, torch.randperm(len(members)).tolist())}
    exchange(channels, sources, "test")
    graph_module.graph.lint()
    graph_module.recompile()
    return found


@settings(max_examples=25)
@given(network=networks())
def test_channels_that_change_places_leave_the_function_as_it_is(network):
    graph_module, x = capture(network.model, ExampleInputs((network.inputs(2),))), network.inputs(3).double()
    before = graph_module.double()(x)
    shuffled(graph_module)
    assert agree(before, graph_module.double()(x), 120)


class Halves(nn.Module):
    """Channels 0 to 3 go another way than 4 to 7."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        left, right = self.first(x).chunk(2, -1)
        return self.last(torch.cat([left.relu(), right.tanh()], -1))


def test_channels_that_a_slice_tells_apart_stay_on_their_side():
    graph_module = capture(Halves().eval(), ExampleInputs((torch.randn(2, 4),)))
    assert [len(members) for members in shuffled(graph_module)] == [4, 4]


class Block(nn.Module):
    """An inverted residual block between two layers, whose sum several layers read."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.widen, self.narrow = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1)
        self.each = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.narrow(nn.functional.relu6(self.each(self.widen(x))))
        return self.head(x.mean((2, 3)))


def _large_neighbours() -> nn.Module:
    """Each filter of `narrow` has two weights that stand out, of one sign, side by side."""
    model = Block().eval()
    with torch.no_grad():
        for row, weights in enumerate(model.narrow.weight):
            weights[2 * row : 2 * row + 2] = 3.0 if row % 2 else -3.0
    return model


def _widths(model: nn.Module, *first: fxcompress.Pass) -> torch.Tensor:
    """Of each filter of `narrow`, the step as a share of the one that a full range has."""
    compiled = fxcompress.compile(model, [*first, passes.Quantize()], example_inputs=(torch.randn(2, 3, 8, 8),))
    (quantizer,) = (one for name, one in quantizers(compiled).items() if name.startswith("narrow_weight"))
    return quantizer.scale / (3.0 / 127.5)


def test_no_step_is_wider_where_neighbours_can_be_parted():
    model = _large_neighbours()
    assert (_widths(model) > 1.9).all()
    assert (_widths(model, passes.OrderChannels()) < 1.02).all()


def test_all_that_belongs_to_a_channel_moves_with_it():
    model, x = _large_neighbours(), torch.randn(4, 3, 8, 8)
    ordered = fxcompress.compile(model, [passes.OrderChannels()], example_inputs=(x,))
    assert sqnr(model(x), ordered(x)) > 100
    assert not torch.equal(ordered.get_parameter("widen.bias"), model.widen.bias)
    assert torch.equal(ordered.get_parameter("widen.bias").sort().values, model.widen.bias.sort().values)
    assert torch.equal(ordered.get_parameter("head.bias"), model.head.bias)


def test_channels_under_masks_keep_their_places():
    model, x = _large_neighbours(), torch.randn(2, 3, 8, 8)
    masked = fxcompress.compile(model, [passes.Sparsify(level=0.3), passes.OrderChannels()], example_inputs=(x,))
    assert torch.equal(masked.get_parameter("widen.bias"), model.widen.bias)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.right.weight = self.left.weight

    def forward(self, x):
        return self.last(self.left(x).relu()) + self.last(self.right(x).tanh())


def test_a_weight_of_two_layers_stays_one():
    graph_module, x = capture(Tied().eval(), ExampleInputs((torch.randn(2, 8),))), torch.randn(3, 8)
    before = graph_module(x)
    shuffled(graph_module)
    assert sqnr(before, graph_module(x)) > 100
    read = {id(graph_module.get_parameter(node.target)) for node in graph_module.graph.find_nodes(op="get_attr")}
    assert len(read) == 3
