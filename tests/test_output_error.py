"""Ranges that are chosen by what they cost at the outputs: gradients, what is looked at, the choice, and the report of it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CalibrationError, InputError
from fxcompress.execution import gradients
from fxcompress.execution.gradients import Differentiable, RandomSigns, output_gradients
from fxcompress.execution.low_precision import choose_arithmetic
from fxcompress.execution.precision import FLOAT32
from fxcompress.quantization.narrowing import worth_narrowing
from fxcompress.quantization.quantized import in_float, quantizer_calls, serves_weight
from fxcompress.quantizers.output_error import CAUTION, OutputError
from fxcompress.quantizers.ranges import ESTIMATORS
from fxcompress.quantizers.sampling import PER_TENSOR, subsample_with_extremes
from fxcompress.quantizers.spec import QuantizationSpec

SEEDS = st.integers(0, 2**32 - 1)
CALIBRATE = passes.Calibrate(estimator="output_error")
PIPELINE = [passes.FoldBatchNorm(), passes.Quantize(), CALIBRATE]


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(compiled):
    return {node.name: found for node, found in quantizer_calls(compiled).items() if not serves_weight(node)}


# ------------------------------------------------------------------------------------------------------- gradients


def test_one_output_owes_to_each_input_what_its_weight_is():
    linear = nn.Linear(5, 1)
    graph = fxcompress.compile(linear, [], example_inputs=data(4, 5))
    (place,) = graph.graph.find_nodes(op="placeholder")
    compiled = fxcompress.compile(linear, [passes.Quantize()], example_inputs=data(4, 5))
    place = next(node for node in quantizer_calls(compiled) if not serves_weight(node))
    x = data(4, 5, seed=1)
    ((node, value, gradient),) = output_gradients(compiled, [place], [x], RandomSigns(sizes=[1.0]))
    assert node is place and torch.equal(value, x)
    torch.testing.assert_close(gradient.abs(), linear.weight.detach().abs().expand(4, 5), rtol=0.02, atol=0.01)


def test_samples_get_the_same_signs_whatever_their_batches():
    outputs = [data(6, 7)]
    whole, parts = RandomSigns(sizes=[1.0]), RandomSigns(sizes=[1.0])
    split = torch.cat([parts([part])[0] for part in outputs[0].split([1, 2, 3])])
    assert torch.equal(whole(outputs)[0], split)


class Strided(nn.Module):
    """A clamp of every kind, and convolutions in groups, with a stride and without."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.third, self.last = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).clamp(-0.5, 0.7)
        x = self.second(x).clamp(min=-0.2)
        x = self.third(x).clamp(max=torch.tensor(0.3)).clamp(0.1, 0.1)
        return self.last((x + self.third(x).clamp(max=0.4)).mean((2, 3)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_calls_whose_derivative_is_slow_are_made_by_others_that_compute_the_same(precision):
    torch.manual_seed(0)
    model, x = Strided().eval(), data(4, 3, 12, 12)
    compiled = fxcompress.compile(model, [passes.Quantize()], example_inputs=x)
    places = [node for node in quantizer_calls(compiled) if not serves_weight(node)]
    with in_float(compiled):
        given = choose_arithmetic(precision, compiled, [x])
        pairs = [
            list(output_gradients(compiled, places, [x], RandomSigns(sizes=[1.0]), arithmetic))
            for arithmetic in (FLOAT32, Differentiable(given))
        ]
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[precision]
    for (node, value, gradient), (other, same, found) in zip(*pairs, strict=True):
        assert node is other
        for wanted, computed in ((value, same), (gradient, found)):
            assert (wanted - computed.float()).norm() <= tolerance * wanted.norm() + 1e-6


def test_data_is_read_once():
    class Loader:
        reads = 0

        def __iter__(self):
            Loader.reads += 1
            return iter(data(64, 8).split(4))

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    compiled = fxcompress.compile(model, [passes.Quantize()], data=Loader())
    before = Loader.reads
    compiled = fxcompress.compile(model, PIPELINE, data=Loader())
    assert Loader.reads == before * 2 + 1
    assert any("64 samples" in note for note in compiled.report.notes)


# ---------------------------------------------------------------------------------------------- what is looked at


@settings(deadline=None)
@given(seed=SEEDS, samples=st.integers(1, 3), channels=st.sampled_from([1, 3]), side=st.integers(1, 120), last=st.booleans())
def test_the_values_looked_at_stand_for_all_and_hold_the_extremes(seed, samples, channels, side, last):
    x = data(samples, channels, side, side, seed=seed)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    found = subsample_with_extremes(x, 2 * x.contiguous(), True)
    values = found.values
    assert found.count.sum() == x.numel()
    assert torch.equal(found.others, 2 * values) and torch.equal(found.tails[1], 2 * found.tails[0])
    assert torch.equal(found.tails[0].amax(1), x.flatten(1).amax(1))
    assert side == 1 or torch.equal(found.tails[0].amin(1), x.flatten(1).amin(1))
    for sample in x:
        assert sample.max() in values and sample.min() in values
    assert len(values) <= samples * 3 * PER_TENSOR


# ------------------------------------------------------------------------------------------------------ the choice


@settings(deadline=None, max_examples=50)
@given(
    seed=SEEDS,
    tail=st.floats(1, 100),
    bits=st.integers(3, 8),
    symmetric=st.booleans(),
    rival=st.sampled_from(["min_max", "percentile", "three_sigma", "mse"]),
)
def test_no_other_range_costs_much_less(seed, tail, bits, symmetric, rival):
    x, gradient = data(4, 500, seed=seed), data(4, 500, seed=seed + 1).pow(3)
    x[:, 0] *= tail
    statistic = OutputError().start(QuantizationSpec(bits=bits, symmetric=symmetric))
    statistic.update(x)
    statistic.weigh(x, gradient)
    # The cost ripples with every value that lies near a border of two levels; the search takes steps of 3%.
    assert statistic.cost(statistic.result()) <= statistic.cost(statistic.rival(ESTIMATORS[rival])) * 1.5


def blind_to_the_last(channels=8):
    linear = nn.Linear(channels, 4)
    with torch.no_grad():
        linear.weight[:, -1] = 0
    return linear


@given(seed=SEEDS, order=st.permutations(range(3)))
@settings(deadline=None, max_examples=20)
def test_what_is_told_in_another_order_is_the_same(seed, order):
    """Also where only some of it lies below zero, and where what is not weighed lies farther out."""
    told = [(data(4, 300, seed=seed).abs(), data(4, 300, seed=seed + 1)), (data(4, 300, seed=seed + 2), data(4, 300)), None]
    ranges = []
    for places in ((0, 1, 2), order):
        statistic = OutputError().start(QuantizationSpec())
        for pair in (told[place] for place in places):
            statistic.update(torch.full((1, 300), 7.0) if pair is None else pair[0])
            if pair is not None:
                statistic.weigh(*pair)
        assert float(statistic.rival(ESTIMATORS["min_max"])[1]) == 7
        ranges.append(torch.stack(statistic.result()))
    assert torch.allclose(*ranges, rtol=1e-4)


@pytest.mark.parametrize("sample", [0, 40, 60])
def test_a_value_that_is_not_finite_is_an_error_wherever_it_comes(sample):
    x = data(64, 8)
    x[sample, 3] = torch.inf
    with pytest.raises(CalibrationError, match="overflow"):
        fxcompress.compile(nn.Linear(8, 4), PIPELINE, data=x.split(4))


def test_values_that_the_outputs_owe_nothing_to_do_not_widen_a_range():
    x = data(64, 8).clamp(-2, 2)
    x[:, -1] = 1000
    compiled = fxcompress.compile(blind_to_the_last(), PIPELINE, data=x.split(16))
    (quantizer,) = activations(compiled).values()
    low, high = quantizer.levels
    assert float(quantizer.scale) * (high - low) < 8
    other = fxcompress.compile(blind_to_the_last(), [*PIPELINE[:2], passes.Calibrate(estimator="min_max")], data=x.split(16))
    assert float(next(iter(activations(other).values())).scale) > 3


def test_the_choice_does_not_depend_on_batches():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 64, 10)).eval()
    x = data(24, 3, 12, 12)
    calibrate = replace(CALIBRATE, precision="float32")
    by_size = [fxcompress.compile(model, [*PIPELINE[:2], calibrate], data=x.split(size)) for size in (3, 24)]
    for one, other in zip(*(activations(compiled).values() for compiled in by_size)):
        torch.testing.assert_close(one.scale, other.scale, rtol=0.03, atol=0)


def test_large_values_are_weighed_few_samples_at_a_time(monkeypatch):
    taken = []

    def watched(graph_module, places, leaves, *others):
        taken.append(len(leaves[0]))
        return output_gradients(graph_module, places, leaves, *others)

    monkeypatch.setattr("fxcompress.passes.calibrate.output_gradients", watched)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    found = []
    for memory in (gradients.MEMORY, 2 * 4 * (16 + 16 + 4), 1):  # bytes: of what two samples make, and of none
        monkeypatch.setattr(gradients, "MEMORY", memory)
        stack = [passes.Quantize(), replace(CALIBRATE, precision="float32")]
        compiled = fxcompress.compile(model, stack, data=data(32, 8).split(16))
        found.append([float(one.scale) for one in activations(compiled).values()])
    assert set(taken[:3]) == {gradients.CHUNK} and set(taken[-24:]) == {1} and 2 in taken
    assert found[1] == pytest.approx(found[0], rel=0.03) and found[2] == pytest.approx(found[0], rel=0.03)


def test_ranges_that_cut_off_what_other_samples_need_are_undone():
    """The first 32 samples choose; those behind them, which judge, are thirty times as wide."""
    x = data(48, 8)
    x[32:] *= 30
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    compiled = fxcompress.compile(model, PIPELINE, data=x.split(8))
    plain = fxcompress.compile(model, [*PIPELINE[:2], passes.Calibrate(estimator="min_max")], data=x.split(8))
    for one, other in zip(activations(compiled).values(), activations(plain).values()):
        assert torch.equal(one.scale, other.scale)
    for choice in compiled.report.ranges:
        assert not choice.is_narrowed


def weighed(x, gradient=1.0):
    """The outputs owe to what stands out a hundredth of what they owe to the rest."""
    statistic = OutputError().start(QuantizationSpec(symmetric=False))
    statistic.update(x)
    statistic.weigh(x, gradient * data(*x.shape, seed=1).sign() * torch.where(x.abs() > 1, 0.01, 1.0))
    return statistic


def with_outliers(share, size, seed=0):
    """Of 40 samples, this share has a value of this size."""
    x = torch.rand(40, 3000, generator=torch.Generator().manual_seed(seed))
    x[: round(share * 40), 0] = size
    return x


def test_a_range_is_narrowed_where_many_samples_say_what_that_costs():
    often, seldom = weighed(with_outliers(0.5, 40.0)), weighed(with_outliers(0.025, 40.0))
    for statistic in (often, seldom):
        assert statistic.cost(statistic.result()) < 0.5 * statistic.cost(statistic.extremes)
    assert seldom.witnesses(seldom.result()) == pytest.approx(0.025)
    assert often.witnesses(often.result()) == pytest.approx(0.5)
    assert worth_narrowing({"often": often, "seldom": seldom}) == ["often"]
    assert worth_narrowing({"seldom": seldom}) == []


def test_each_narrowed_end_has_its_own_witnesses():
    x = with_outliers(0.5, 40.0)
    x[-1, 1] = -40.0
    statistic = weighed(x)
    assert statistic.witnesses((torch.tensor(-1.0), torch.tensor(10.0))) == pytest.approx(0.025)
    assert statistic.witnesses((torch.tensor(-40.0), torch.tensor(10.0))) == pytest.approx(0.5)
    assert statistic.witnesses((torch.tensor(-40.0), torch.tensor(40.0))) == 0


def test_what_lies_at_the_end_of_a_range_is_within_it():
    x = torch.zeros(10, 8)
    x[:, 0], x[:, 1], x[0, :2] = -2.0, 3.0, torch.tensor([-4.0, 6.0])
    statistic = weighed(x)
    for chosen in ((-2.0, 6.0), (-4.0, 3.0), (-2.0, 3.0)):
        assert statistic.witnesses(tuple(map(torch.tensor, chosen))) == pytest.approx(0.1)


def test_all_samples_tell_how_often_values_lie_far_out():
    """Those weighed have one value beyond the range in two samples, all together 3.65 in each."""
    statistic, narrow = weighed(with_outliers(0.5, 40.0)), (torch.tensor(0.0), torch.tensor(1.0))
    before, others = statistic.cost(narrow), with_outliers(1.0, 40.0).repeat(9, 1)
    others[:, :4] = 40.0
    statistic.update(others)
    assert statistic.cost(narrow) == pytest.approx(before * (0.1 * 0.5 + 0.9 * 4) / 0.5, rel=0.05)


def test_what_no_sample_weighed_has_costs_as_much_as_others_do():
    statistic, span = weighed(torch.rand(40, 3000)), (torch.tensor(0.0), torch.tensor(1.0))
    assert statistic.cost(span) < 1
    statistic.update(with_outliers(1.0, 40.0))
    assert statistic.cost(span) == pytest.approx(CAUTION * 20 * 39.0**2, rel=0.02)


def test_a_range_is_narrowed_where_the_gain_counts_beside_the_whole_error():
    """The small one's gain is nothing beside what cannot be mended, and much beside what is left once the large one is."""
    small, large, fixed = (
        weighed(with_outliers(0.5, 40.0)),
        weighed(with_outliers(0.5, 40.0, 2), 15),
        weighed(with_outliers(0, 0), 500),
    )
    assert worth_narrowing({"small": small, "large": large}) == ["large", "small"]
    assert worth_narrowing({"small": small, "fixed": fixed}) == []


class Argmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(x).argmax(1)


def test_where_nothing_has_a_gradient_a_range_is_that_of_all_values():
    x = data(20, 8)
    compiled = fxcompress.compile(Argmax(), PIPELINE, data=x.split(5))
    plain = fxcompress.compile(Argmax(), [*PIPELINE[:2], passes.Calibrate(estimator="min_max")], data=x.split(5))
    for one, other in zip(activations(compiled).values(), activations(plain).values()):
        assert torch.equal(one.scale, other.scale)
    assert any("no output has a gradient" in note for note in compiled.report.notes)
    assert not compiled.report.ranges and not any("as weighed on" in note for note in compiled.report.notes)


def test_a_value_that_is_always_zero_has_a_range():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    nn.init.constant_(model[0].bias, -1e3)
    compiled = fxcompress.compile(model, PIPELINE, data=data(20, 8).split(5))
    assert all(found.scale.isfinite() for found in activations(compiled).values())


@pytest.mark.parametrize("everywhere", [False, True])
def test_inference_mode_is_no_obstacle(everywhere):
    batches = [data(5, 8, seed=seed) for seed in range(3)]
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with torch.inference_mode(everywhere):
        compiled = fxcompress.compile(model, PIPELINE, data=batches)
    assert all(quantizer.ready for quantizer in activations(compiled).values())


def test_gradients_that_are_not_finite_count_for_nothing():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x):
            return self.linear(x).relu().sqrt()

    compiled = fxcompress.compile(Root(), PIPELINE, data=data(20, 8).split(5))
    assert all(quantizer.scale.isfinite().all() for quantizer in activations(compiled).values())


def test_errors_of_saturation_that_the_outputs_add_up_count_together():
    """A layer whose output is the mean over many places of a channel: to cut it off everywhere is not a small error."""
    x, together, apart = torch.rand(32, 400), torch.ones(32, 400), torch.ones(32, 400)
    x[:, :40] *= 20
    together, apart = together * data(32, 1).sign(), apart * data(32, 400).sign()
    costs = []
    for gradient in (together, apart):
        statistic = OutputError().start(QuantizationSpec(symmetric=False))
        statistic.update(x)
        statistic.weigh(x, gradient)
        costs.append(statistic.cost((torch.tensor(0.0), torch.tensor(10.0))))
    exact = [(gradient * (x - x.clamp(max=10))).sum(1).square().sum() for gradient in (together, apart)]
    assert costs[0] == pytest.approx(CAUTION * float(exact[0]), rel=0.05)
    assert costs[1] == pytest.approx(CAUTION * float(exact[1]), rel=0.5)
    assert costs[0] > 3 * costs[1]


# ------------------------------------------------------------------------------------------------------ the report


def test_the_report_has_each_choice_with_what_others_would_have_cost():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    compiled = fxcompress.compile(model, PIPELINE, data=data(64, 8).split(16))
    choices = {choice.quantizer: choice for choice in compiled.report.ranges}
    assert any(f"of {len(choices)} ranges are narrower than their values, as weighed on 32" in n for n in compiled.report.notes)
    assert choices.keys() == activations(compiled).keys()
    for choice in choices.values():
        assert list(choice.decibels) == ["chosen", "min_max", "percentile"]
        assert 20 < choice.decibels["chosen"] < 100
        assert not choice.is_narrowed or choice.decibels["chosen"] >= max(choice.decibels.values()) - 0.3
        assert choice.seen[0] <= choice.chosen[0] <= 0 <= choice.chosen[1] <= choice.seen[1]
    table = fxcompress.report.tables.printed(compiled.report.ranges_table())
    assert all(name in table for name in (*choices, "min_max", "percentile"))


def test_the_estimate_is_what_a_quantizer_alone_costs():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = data(400, 8)
    calibrate = replace(CALIBRATE, gradient_samples=400, samples=400, precision="float32")
    compiled = fxcompress.compile(model, [*PIPELINE[:2], calibrate], data=x.split(50))
    (choice,) = [choice for choice in compiled.report.ranges if choice.quantizer.startswith("input")]
    for quantizer in quantizer_calls(compiled).values():
        quantizer.enabled = quantizer is activations(compiled)[choice.quantizer]
    error = (compiled(x) - model(x)).square().sum() / model(x).square().sum()
    assert -10 * torch.log10(error).item() == pytest.approx(choice.decibels["chosen"], abs=1.5)


@pytest.mark.parametrize(("samples", "weighed"), [(None, 32), (64, 32), (20, 15)])  # of 20, 5 judge
def test_as_many_are_weighed_as_are_looked_at_and_32_at_most(samples, weighed):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    compiled = fxcompress.compile(model, [*PIPELINE[:2], replace(CALIBRATE, samples=samples)], data=data(100, 8).split(16))
    assert any(f"as weighed on {weighed} samples" in note for note in compiled.report.notes)
    assert any(f": {samples or 100} samples, " in note for note in compiled.report.notes)


def test_a_number_of_samples_is_positive():
    with pytest.raises(InputError, match="gradient_samples"):
        passes.Calibrate(gradient_samples=0)
