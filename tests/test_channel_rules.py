"""Which filters can go behind which operations, and what keeps a rule from forgetting an axis."""

import pytest
import torch
import torch.nn.functional as F
from shape_networks import Do, parameter
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.channels.call import RULES, Axis
from fxcompress.execution.agreement import sqnr
from fxcompress.masks.mask import FilterMask


class Box(nn.Module):
    """The distribution of distances that detectors read a box from: a fixed convolution behind a softmax."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 64, 1)
        self.mean = nn.Conv2d(16, 1, 1, bias=False).requires_grad_(False)
        self.mean.weight.data[:] = torch.arange(16.0).view(1, 16, 1, 1)
        self.first = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        x = self.conv(self.first(x).relu()).flatten(2)
        return self.mean(x.view(x.shape[0], 4, 16, -1).transpose(2, 1).softmax(1)).view(x.shape[0], 4, -1)


class ResponseNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale, self.shift = parameter(size), parameter(size)

    def forward(self, x):
        response = x.norm(dim=(1, 2), keepdim=True)
        response = response / (response.mean(-1, keepdim=True) + 1e-6)
        return x + self.scale * (x * response) + self.shift


def written(m, x):
    y = m.a(x)
    y[:, 2:6] = m.b(x)
    return m.c(y)


def grouped_attention(m, x):
    q, k, v = (one(x).unflatten(-1, (-1, 4)).transpose(1, 2) for one in (m.q, m.k, m.v))
    return m.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


CASES = {
    # an axis of another kind than channels
    "the width of a convolution": (nn.Sequential(nn.Linear(5, 6), nn.Conv2d(4, 1, (2, 3))), (3, 4, 12, 5), {"0": 6}),
    "a kernel as wide": (nn.Sequential(nn.Linear(8, 13), nn.Conv2d(16, 4, 2), nn.LayerNorm(12)), (2, 16, 5, 8), {"0": 13}),
    "a sequence": (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Conv1d(6, 4, 1)), (2, 6, 8), {"0": 16}),
    "a transposed convolution's width": (nn.Sequential(nn.Linear(8, 16), nn.ConvTranspose1d(6, 4, 2)), (2, 6, 8), {"0": 16}),
    "a batch norm's width": (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(6), nn.Linear(16, 4)), (2, 6, 8), {"0": 16}),
    "an instance norm's width": (nn.Sequential(nn.Linear(8, 16), nn.InstanceNorm1d(6), nn.Linear(16, 4)), (2, 6, 8), {"0": 16}),
    "a group norm's width": (nn.Sequential(nn.Linear(8, 16), nn.GroupNorm(2, 6), nn.Linear(16, 4)), (2, 6, 8), {"0": 16}),
    "pooled over": (nn.Sequential(nn.Linear(8, 16), nn.AvgPool1d(2), nn.Linear(8, 4)), (2, 6, 8), {"0": 16}),
    "the largest of places": (
        Do(lambda m, x: m.b(m.a(x).topk(2, 2)[0]), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 4, (2, 1))), (2, 3, 5, 4), {"a": 4},
    ),
    "every second is written": (
        Do(lambda m, x: m.c(m.a(x).slice_scatter(m.b(x), 1, 0, 8, 2)), a=nn.Linear(5, 8), b=nn.Linear(5, 4), c=nn.Linear(8, 6)),
        (2, 5),
        {"a": 8, "b": 4},
    ),
    "resized": (nn.Sequential(nn.Linear(8, 16), nn.Upsample(scale_factor=2), nn.Linear(32, 4)), (2, 6, 8), {"0": 16}),
    "shuffled into places": (nn.Sequential(nn.Linear(8, 6), nn.PixelShuffle(2), nn.Linear(12, 4)), (2, 4, 3, 8), {"0": 6}),
    "one of them, and half of the others": (
        Do(lambda m, x: m.b(m.a(x)[..., :1]), a=nn.Linear(8, 16), b=nn.Linear(1, 4)), (2, 8), {"a": 9},
    ),
    "stretched over others": (
        Do(lambda m, x: m.c(m.a(x)[:, :1] * m.b(x)), a=nn.Linear(8, 2), b=nn.Linear(8, 16), c=nn.Linear(16, 4)),
        (2, 8),
        {"a": 2, "b": 8, "c": 4},
    ),
    "a distribution of distances": (Box(), (2, 3, 4, 4), {"first": 4, "conv": 64, "mean": 1}),
    # what can go
    "an adaptive maximum": (
        nn.Sequential(nn.Conv1d(3, 8, 1), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 4)), (2, 3, 6), {"0": 4, "3": 4},
    ),
    "an adaptive maximum of images": (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveMaxPool2d(2), nn.Conv2d(8, 4, 1)), (2, 3, 6, 6), {"0": 4, "2": 4},
    ),
    "groups of one": (
        nn.Sequential(nn.Conv1d(3, 8, 1), nn.GroupNorm(8, 8), nn.Conv1d(8, 4, 1)), (2, 3, 6), {"0": 4, "2": 4},
    ),
    "whole groups": (nn.Sequential(nn.Conv1d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv1d(8, 4, 1)), (2, 3, 6), {"0": 4, "2": 4}),
    "halves that meet": (nn.Sequential(nn.Linear(5, 16), nn.GLU(), nn.Linear(8, 4)), (2, 5), {"0": 8, "2": 4}),
    "an equation": (
        Do(lambda m, x: m.b(torch.einsum("bti,io->bto", m.a(x), m.w)), a=nn.Linear(5, 8), w=parameter(8, 6), b=nn.Linear(6, 4)),
        (2, 3, 5),
        {"a": 4, "b": 4},
    ),
    "repeated one by one": (
        Do(lambda m, x: m.b(m.a(x).repeat_interleave(2, 1)), a=nn.Linear(5, 8), b=nn.Linear(16, 4)), (2, 5), {"a": 4, "b": 4},
    ),
    "repeated": (Do(lambda m, x: m.b(m.a(x).repeat(1, 2)), a=nn.Linear(5, 8), b=nn.Linear(16, 4)), (2, 5), {"a": 4, "b": 4}),
    "stretched like another": (
        Do(
            lambda m, x: m.c(m.a(x.mean(1, keepdim=True)).expand_as(m.b(x)) * m.b(x)),
            a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(8, 4),
        ),
        (2, 3, 5),
        {"a": 4, "b": 4, "c": 4},
    ),
    "normalized": (
        Do(lambda m, x: m.b(F.normalize(m.a(x), dim=1)), a=nn.Linear(5, 8), b=nn.Linear(8, 4)), (2, 3, 5), {"a": 4, "b": 4},
    ),
    "written into others": (
        Do(written, a=nn.Linear(5, 8), b=nn.Linear(5, 4), c=nn.Linear(8, 4)), (2, 5), {"a": 4, "b": 2, "c": 4},
    ),
    "zeros beside": (
        Do(lambda m, x: m.b(F.pad(m.a(x), (1, 2))), a=nn.Linear(5, 8), b=nn.Linear(11, 4)), (2, 5), {"a": 4, "b": 4},
    ),
    "patches": (
        Do(lambda m, x: m.b(F.unfold(m.a(x), 2).mT), a=nn.Conv2d(3, 8, 1), b=nn.Linear(32, 4)), (2, 3, 4, 4), {"a": 4, "b": 4},
    ),
    "a product from the left": (
        Do(lambda m, x: m.b((m.w @ m.a(x).mT).mT), a=nn.Linear(5, 8), w=parameter(6, 8), b=nn.Linear(6, 4)),
        (2, 3, 5),
        {"a": 4, "b": 4},
    ),
    "query heads that share keys": (
        Do(grouped_attention, q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), o=nn.Linear(16, 4)),
        (2, 3, 8),
        {"q": 16, "k": 8, "v": 8, "o": 4},
    ),
    "the input of a recurrence": (
        Do(lambda m, x: m.b(m.a(x))[0], a=nn.Linear(5, 8), b=nn.LSTM(8, 4, bidirectional=True, num_layers=2)),
        (2, 3, 5),
        {"a": 4},
    ),
    "groups of a fixed input": (
        nn.Sequential(nn.Conv1d(4, 8, 1, groups=2), nn.ReLU(), nn.Conv1d(8, 4, 1)), (2, 4, 6), {"0": 4, "2": 4},
    ),
}  # fmt: skip


def filters(compiled):
    """How many filters the layers have, by their modules."""
    found = {}
    for node in compiled.graph.nodes:
        if node.op == "get_attr" and str(node.target).split(".")[-1].startswith("weight") and node.meta["val"].dim() > 1:
            name, transposed = str(node.target).split(".weight")[0], "transpose" in str(next(iter(node.users)).target)
            found[name] = node.meta["val"].shape[1 if transposed else 0]
    return found


@pytest.mark.parametrize("kind", CASES)
def test_half_of_the_filters_that_can_go_go(kind):
    model, shape, expected = CASES[kind]
    model, x = model.eval(), torch.randn(shape)
    prune = passes.PruneFilters(amount=0.5, multiple=1)
    whole, masked = (fxcompress.compile(model, stack, example_inputs=(x,)) for stack in ([], [prune]))
    removed = fxcompress.compile(model, [prune, passes.RemoveFilters()], example_inputs=(x,))
    left = filters(removed)
    assert {name: left[name] for name in expected} == expected
    assert all(
        left[name] == count for name, count in filters(whole).items() if name not in expected and "weight_hh" not in name
    )
    x = torch.randn(32, *shape[1:])  # so many that no filter which is left has nothing but zeros behind a ReLU
    assert sqnr(masked(x), removed(x)) > 100
    before, after = whole(x), masked(x)
    assert bool((after != after[:1]).any(0)[(before != before[:1]).any(0)].all()), "an output became constant"


def test_what_an_equation_makes_can_go():
    model, shape, _ = CASES["an equation"]
    stack = [passes.PruneFilters(amount=0.5, multiple=1), passes.RemoveFilters()]
    assert fxcompress.compile(model, stack, example_inputs=(torch.randn(shape),)).w.shape == (4, 3)


@pytest.mark.parametrize("kind", CASES)
def test_weights_that_are_zero_by_themselves_are_removed_only_where_nothing_reads_them(kind, tmp_path):
    model, shape, _ = CASES[kind]
    compiled = fxcompress.compile(model.eval(), [passes.Sparsify(level=0.7), passes.RemoveFilters()], data=[torch.randn(shape)])
    assert compiled.report.rows[-1].decibels > 100


# ------------------------------------------------------------------------------------------------------- the account


def chain():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.mark.parametrize(
    ("forgetful", "reason"),
    [
        (lambda call: [Axis(size) for size in call.result.shape], "takes them in"),
        (lambda call: [call.operands[0].axes[0], call.take(call.operands[0].axes[1], range(3))], "to channels is not known"),
        (lambda call: call.operands[0].axes[:1], "to channels is not known"),
        (lambda call: (call.operands[0].axes, call.operands[0].axes), "to channels is not known"),
        (lambda call: [call.operands[0].axes[0], call.merge(call.split(call.operands[0].axes[1], (4, 4)))], None),
    ],
)
def test_a_rule_that_forgets_an_axis_or_makes_one_of_another_size_pins_it(forgetful, reason, monkeypatch):
    monkeypatch.setitem(RULES, "pointwise", forgetful)
    compiled = fxcompress.compile(chain(), [passes.PruneFilters(multiple=1)], example_inputs=(torch.randn(2, 5),))
    assert any(isinstance(module, FilterMask) for module in compiled.modules()) == (reason is None)
    assert reason is None or any(reason in note for note in compiled.report.notes)


def test_a_part_of_a_split_axis_that_is_forgotten_stays(monkeypatch):
    """Of 4 times 4 channels the rule hands on the first factor only: the second one cannot lose any."""

    def first_factor(call):
        first, _ = call.split(call.operands[0].axes[1], (4, 4))
        return [call.operands[0].axes[0], call.merge([first, Axis(4)])]

    monkeypatch.setitem(RULES, "pointwise", first_factor)
    compiled = fxcompress.compile(
        chain(), [passes.PruneFilters(amount=0.5, multiple=1), passes.RemoveFilters()], example_inputs=(torch.randn(2, 5),)
    )
    assert filters(compiled) == {"0": 8, "2": 4}
