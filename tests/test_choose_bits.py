"""Mixed precision: traces of a Hessian, the best choice within a budget, and the weights that get it."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.errors import InputError
from fxcompress.quantization.allocation import allocate
from fxcompress.quantization.hessian import mean_traces
from fxcompress.quantization.quantized import quantizer_calls, serves_weight

prices = st.lists(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 10)), min_size=1, max_size=3), min_size=1, max_size=5)


@given(prices, st.integers(0, 100))
def test_no_choice_within_the_budget_is_better(things, budget):
    costs, losses = ([[option[part] for option in thing] for thing in things] for part in (0, 1))
    chosen = allocate(costs, losses, budget)
    every = itertools.product(*(range(len(thing)) for thing in things))
    kept = [one for one in every if sum(c[i] for c, i in zip(costs, one)) <= budget]
    if chosen is None:
        assert not kept
        return
    assert tuple(chosen) in kept
    least = min(sum(x[i] for x, i in zip(losses, one)) for one in kept)
    assert sum(x[i] for x, i in zip(losses, chosen)) == pytest.approx(least)


@given(prices, st.floats(0.3, 1))
def test_a_large_budget_is_kept(things, share):
    costs = [[1_000_003 * cost for cost, _ in thing] for thing in things]
    budget = int(share * sum(map(max, costs)))
    chosen = allocate(costs, [[loss for _, loss in thing] for thing in things], budget)
    assert chosen is None or sum(c[i] for c, i in zip(costs, chosen)) <= budget


@given(prices, st.integers(0, 100))
def test_of_choices_that_lose_as_little_the_best_is_taken(things, budget):
    costs, merits = ([[option[part] for option in thing] for thing in things] for part in (0, 1))
    chosen = allocate(costs, [[0.0] * len(thing) for thing in things], budget, merits)
    every = itertools.product(*(range(len(thing)) for thing in things))
    kept = [one for one in every if sum(c[i] for c, i in zip(costs, one)) <= budget]
    if chosen is not None:
        most = max(sum(m[i] for m, i in zip(merits, one)) for one in kept)
        assert sum(m[i] for m, i in zip(merits, chosen)) == pytest.approx(most)


@pytest.mark.parametrize(("bits", "expected"), [((4, 8), 8), ((8, 4), 8), ((2, 4), 4), ((2, 3, 4, 6, 8), 8), ((2, 3), 3)])
def test_bits_that_cost_nothing_are_taken(bits, expected):
    """The loss is linear, so that no choice loses anything, and a file holds all bits up to 4 in as much space."""
    torch.manual_seed(0)
    choose = passes.ChooseBits(loss=lambda model, x: model(x).sum(), bits=bits, ratio=1.0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    compiled = fxcompress.compile(model, [passes.Quantize(), choose, passes.Calibrate()], data=[torch.randn(4, 8)])
    assert [q.spec.bits for call, q in quantizer_calls(compiled).items() if serves_weight(call)] == [expected] * 2


def test_the_trace_of_a_diagonal_hessian_is_exact():
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True), torch.ones(2, requires_grad=True)]
    curvatures = [torch.rand(3, 4), torch.rand(5)]
    loss = sum((c * w.square()).sum() / 2 for c, w in zip(curvatures, weights))
    traces = mean_traces(loss, weights, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(traces, torch.stack([*(c.double().mean() for c in curvatures), torch.tensor(0.0).double()]))


def test_the_trace_of_any_hessian_is_met_on_average():
    torch.manual_seed(0)
    x, y, weight = torch.randn(50, 6), torch.randint(4, (50,)), torch.randn(4, 6, requires_grad=True)

    def loss(weight):
        return F.cross_entropy(x @ weight.T, y)

    hessian = torch.autograd.functional.hessian(loss, weight.detach()).reshape(24, 24)
    found = mean_traces(loss(weight), [weight], 3000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(float(found), float(hessian.diagonal().mean()), rtol=0.05, atol=0)


def test_a_loss_that_is_linear_has_no_trace():
    weight = torch.ones(3, requires_grad=True)
    assert not mean_traces(weight.sum(), [weight], 2, torch.Generator()).any()


class Gained(nn.Module):
    """Two layers of one size, of which the loss feels the second a hundred times as much, and a batch norm."""

    def __init__(self):
        super().__init__()
        self.quiet, self.norm, self.loud = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.norm(self.quiet(x)) * 0.01, self.loud(x)


DATA = [(torch.randn(10, 8, generator=torch.Generator().manual_seed(seed)), torch.zeros(10)) for seed in range(3)]


def squares(model, batch):
    return sum(y.square().sum(1).mean() for y in model(batch[0]))


def compiled(*after, **options):
    torch.manual_seed(0)
    stack = [passes.CanonicalizeActivations(), passes.Quantize(), passes.ChooseBits(loss=squares, **options), *after]
    return fxcompress.compile(Gained(), stack, data=DATA)


def bits(model):
    return {call.args[0].target: q.spec.bits for call, q in quantizer_calls(model).items() if serves_weight(call)}


def test_the_loss_keeps_its_bits_where_it_needs_them():
    model = compiled(ratio=4 / 3)
    assert bits(model) == {"quiet.weight": 4, "loud.weight": 8}
    assert "weights: 1 of 4 bits, 1 of 8 bits; 1.33 times smaller than at 8 bits" in model.report.notes[0]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("factor", [1e-8, 1e-4, 1e4])
def test_how_large_the_loss_is_makes_no_difference(factor):
    choose = passes.ChooseBits(loss=lambda model, batch: squares(model, batch) * factor, ratio=4 / 3)
    network = Gained()
    nn.init.normal_(network.quiet.weight, std=5)  # its weights lose more, and the loss feels that less
    model = fxcompress.compile(network, [passes.Quantize(), choose], data=DATA)
    assert bits(model) == {"quiet.weight": 4, "loud.weight": 8}


@pytest.mark.parametrize(("ratio", "expected"), [(1, {8}), (2, {4})])
def test_the_ends_leave_no_choice(ratio, expected):
    assert set(bits(compiled(ratio=ratio)).values()) == expected


@pytest.mark.parametrize(
    "grid", [{"bits": 4, "symmetric": False}, {"bits": 4, "signed": False}, {"bits": 8, "symmetric": False}]
)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_8_bits_are_those_that_kernels_read(grid, reduce_range):
    torch.manual_seed(0)
    quantize = passes.Quantize(weights=QuantizationSpec(**grid), reduce_range=reduce_range)
    model = fxcompress.compile(Gained(), [quantize, passes.ChooseBits(loss=squares, ratio=1.0)], data=DATA)
    of_weights = {call: serves_weight(call) for call in quantizer_calls(model)}
    reduced = reduce_range and grid["bits"] == 8
    in_float = all(of_weights.values())  # as what reads a zero point is
    for spec in (quantizer_calls(model)[call].spec for call, is_one in of_weights.items() if is_one):
        assert spec.bits == (7 if reduced else 8)
        assert in_float or reduced or (spec.symmetric and spec.signed)


def test_what_was_chosen_is_trained_and_lowered():
    model = compiled(passes.Calibrate(), passes.TrainQuantizers(), ratio=4 / 3).train()
    squares(model, DATA[0]).backward()
    types = {node.args[4] for node in model.eval().lower().graph.nodes if "dequantize" in str(node.target)}
    assert types == {"int4", "int8", "uint8"}


def test_a_checkpoint_brings_the_bits_that_were_chosen_when_it_was_taken():
    stack = [passes.Quantize(), passes.ChooseBits(loss=squares, ratio=4 / 3), passes.Calibrate(), passes.TrainQuantizers()]
    torch.manual_seed(0)
    saved = fxcompress.compile(Gained(), stack, data=DATA)
    louder = Gained()
    nn.init.normal_(louder.quiet.weight, std=1e3)
    resumed = fxcompress.compile(louder, stack, data=DATA)
    assert bits(resumed) == {"quiet.weight": 8, "loud.weight": 4}
    resumed.load_checkpoint(saved.checkpoint())
    assert bits(resumed) == bits(saved) == {"quiet.weight": 4, "loud.weight": 8}
    assert all(map(torch.equal, saved(DATA[0][0]), resumed(DATA[0][0])))


def test_a_loss_behind_an_attention_has_traces():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            q, v = (y.unflatten(-1, (2, 4)).transpose(1, 2) for y in (self.query(x), self.value(x)))
            return F.scaled_dot_product_attention(q, q, v)

    stack = [passes.Quantize(), passes.ChooseBits(loss=lambda model, x: model(x).square().mean(), ratio=4 / 3)]
    model = fxcompress.compile(Attention(), stack, data=[torch.randn(2, 5, 8)])
    assert set(bits(model).values()) == {4, 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 3}, "loss that is a function, or None, got 3"),
        ({"ratio": 0.5}, "ratio of 1 or more, got 0.5"),
        ({"bits": (1, 8)}, r"bits that is a list, each from 2 to 8, and not empty, got \(1, 8\)"),
        ({"bits": ()}, r"and not empty, got \(\)"),
        ({"samples": 0}, "samples of 1 or more, got 0"),
        ({"draws": 0}, "draws of 1 or more, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        passes.ChooseBits(**{"loss": squares} | options)


def test_what_cannot_be_done_is_said():
    with pytest.raises(InputError, match="are at most 2 times smaller, not 3"):
        compiled(ratio=3)
    with pytest.raises(InputError, match="ChooseBits needs data"):
        fxcompress.compile(Gained(), [passes.Quantize(), passes.ChooseBits(loss=squares)], example_inputs=DATA[0][0])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: model(batch[0])[0], r"one finite number a batch, a tensor, not float32\["),
        (lambda model, batch: squares(model, batch).item(), "one finite number a batch, a tensor, not [0-9.]+$"),
        (lambda model, batch: squares(model, batch) * torch.nan, "one finite number a batch, a tensor, not nan"),
        (lambda model, batch: squares(model, batch).detach(), "the loss has no gradient"),
    ],
)
def test_a_loss_that_cannot_be_differentiated_is_refused(loss, message):
    with pytest.raises(InputError, match=message):
        fxcompress.compile(Gained(), [passes.Quantize(), passes.ChooseBits(loss=loss)], data=DATA)


def test_a_loss_without_a_second_derivative_is_told():
    class Letters(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x)

    def loss(model, x):
        scores = model(x)[:, None].log_softmax(-1)
        return F.ctc_loss(scores, torch.tensor([[1]]), torch.tensor([len(x)]), torch.tensor([1]))

    choose = passes.ChooseBits(loss=loss, ratio=1.1)
    with pytest.raises(InputError, match="cannot be differentiated twice .*ctc_loss.* RestorePrecision"):
        fxcompress.compile(Letters(), [passes.Quantize(), choose, passes.Calibrate()], data=[torch.randn(3, 4)])
