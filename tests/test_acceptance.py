"""Changes to layers that are kept where they help at the outputs, and passes that make such changes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import ScopeError
from fxcompress.quantization import extremes
from fxcompress.quantization.acceptance import OutputDifference, keep_what_helps
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.quantization.smoothing import Smoothing, best_smoothing
from fxcompress.quantization.splitting import places

QUANTIZED = [passes.FoldBatchNorm(), passes.Quantize(), passes.Calibrate(estimator="min_max")]


class Counted:
    """A change that adds its `effect` to an error."""

    def __init__(self, effect):
        self.effect, self.made = effect, True

    def make(self):
        self.made = True

    def undo(self):
        self.made = False


@given(effects=st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_the_error_never_grows_and_what_helps_everywhere_is_kept(effects):
    changes, asked = [Counted(effect) for effect in effects], []

    def error():
        asked.append(float(sum(change.effect for change in changes if change.made)))
        return torch.tensor([asked[-1]])

    verdict = keep_what_helps(changes, error)
    kept = verdict.kept
    assert kept == [change for change in changes if change.made] or {id(c) for c in kept} == {id(c) for c in changes if c.made}
    assert error() <= 0
    assert error() == verdict.error <= sum(effects) == verdict.together
    if all(effect < 0 for effect in effects):
        assert len(kept) == len(effects) and len(asked) == 4
    if all(effect >= 0 for effect in effects):
        assert not kept


@given(seed=st.integers(0, 2**32 - 1), gain=st.sampled_from([0.0, 1.0]), trials=st.sampled_from([1, 3, 100]))
def test_a_gain_that_may_be_chance_is_none(seed, gain, trials):
    """Two changes move 400 parts of the error at random, and lower their mean by a few standard errors, or not."""
    random = torch.Generator().manual_seed(seed)
    moves = torch.randn(2, 400, generator=random)
    moves -= moves.mean(1, keepdim=True) + gain / 2
    changes, asked = [Counted(move) for move in moves], []

    def error():
        asked.append(sum((change.effect for change in changes if change.made), torch.ones(400)))
        return asked[-1]

    kept = keep_what_helps(changes, error, trials=trials, margin=2.0).kept
    assert len(kept) == (2 if gain else 0)
    assert len(asked) <= trials + 1


def images(count, seed=0):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).flatten(1))


def noise(compiled, model, x):
    with torch.no_grad():
        return (compiled(x) - model(x)).square().sum().item()


@pytest.mark.parametrize("mending", [passes.CorrectBias(samples=16), passes.LearnRounding(samples=16, iterations=5)], ids=str)
@pytest.mark.parametrize("percent", [100.0, 90.0])
def test_a_correction_does_no_harm_on_the_samples_that_judge_it(mending, percent):
    """Ranges that cut off a tenth of the values: what is mended then are errors that are made on purpose."""
    model, x = Net().eval(), images(32)
    from fxcompress.quantizers.ranges import Percentile

    ranges = [*QUANTIZED[:2], passes.Calibrate(estimator=Percentile(100 - percent, percent))]
    plain = fxcompress.compile(model, ranges, data=x.split(8))
    mended = fxcompress.compile(model, [*ranges, mending], data=x.split(8))
    assert noise(mended, model, x[16:]) <= noise(plain, model, x[16:]) * (1 + 1e-6)
    assert "16 other samples" in " ".join(mended.report.notes)


def test_a_correction_that_harms_is_undone():
    """The samples that choose are bright, those that judge are dark: what mends the ones spoils the others."""
    model = Net().eval()
    x = torch.cat([images(16) * 0.1 + 3, images(16, 1) * 0.1 - 3])
    ranges = [*QUANTIZED[:2], passes.Calibrate(estimator="percentile")]
    plain = fxcompress.compile(model, ranges, data=x.split(8))
    for mending in (passes.CorrectBias(samples=16), passes.LearnRounding(samples=16, iterations=5)):
        mended = fxcompress.compile(model, [*ranges, mending], data=x.split(8))
        assert noise(mended, model, x[16:]) <= noise(plain, model, x[16:]) * (1 + 1e-6)


def test_without_other_samples_nothing_is_judged_and_the_report_says_so():
    model, x = Net().eval(), images(3)
    mended = fxcompress.compile(model, [*QUANTIZED, passes.CorrectBias()], data=[x])
    assert "no samples that did not choose them" in " ".join(mended.report.notes)


def test_what_judges_is_another_quarter_of_few_samples():
    model, x = Net().eval(), images(12)
    mended = fxcompress.compile(model, [*QUANTIZED, passes.CorrectBias()], data=x.split(4))
    assert "3 other samples" in " ".join(mended.report.notes)
    assert replace(passes.CorrectBias(), judging=2).judging == 2


def test_a_layer_that_is_left_as_it_was_is_written_as_it_was(tmp_path):
    model, x = Net().eval(), images(32)
    compiled = fxcompress.compile(model, [*QUANTIZED, passes.LearnRounding(samples=16, iterations=5)], data=x.split(8))
    compiled.to_onnx(tmp_path / "model.onnx")
    names = [node.name for node in compiled.graph.find_nodes(op="get_attr")]
    assert len(names) == len(set(names))


class Outputs(nn.Module):
    """Samples lie along another dimension of the second output, and along none of the third, where there is one."""

    def __init__(self, pooled):
        super().__init__()
        self.linear, self.pooled = nn.Linear(3, 4), pooled

    def forward(self, x):
        y = self.linear(x)
        return (y, y.T, y.mean(0)) if self.pooled else (y, y.T)


@pytest.mark.parametrize("pooled", [False, True])
def test_the_difference_is_told_by_pieces_whatever_the_batches(pooled):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    compiled = fxcompress.compile(Outputs(pooled), [passes.Quantize(), passes.Calibrate()], data=x.split(4))
    reference = fxcompress.compile(Outputs(pooled), [], data=x.split(4))
    reference.load_state_dict({name: tensor for name, tensor in compiled.state_dict().items() if "quantizer" not in name})
    found = [OutputDifference(reference, [[part] for part in x.split(size)])(compiled) for size in (12, 4, 2)]
    assert len(found[0]) == 6 and (found[0] > 0).all()
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-3, atol=1e-9)


# ------------------------------------------------------------------------- changes before a model is quantized


class Chain(nn.Module):
    """Two linear layers with one between, behind a layer norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.middle, self.down = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.up.weight[5] *= 30
            self.middle.weight[3] *= 30

    def forward(self, x):
        return self.down(torch.relu(self.middle(torch.relu(self.up(self.norm(x))))))


def tokens(count=32):
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(1))


AHEAD = [passes.SplitChannels(samples=16), passes.SmoothActivations(token_samples=16), passes.EqualizeLayers(samples=16)]


@pytest.mark.parametrize("first", AHEAD, ids=str)
def test_what_harms_once_it_is_quantized_is_undone_and_else_kept(first, monkeypatch):
    """Changes that leave the float model as it is, and that no rounded one survives."""
    model, x = Chain().eval(), tokens()
    monkeypatch.setattr("fxcompress.passes.split_channels.spread", _far_apart)
    monkeypatch.setattr("fxcompress.passes.smooth_activations.best_smoothing", _widely_different)
    monkeypatch.setattr("fxcompress.passes.equalize_layers.equalize", _at_odds)
    plain = fxcompress.compile(model, QUANTIZED, data=x.split(8))
    judged = fxcompress.compile(model, [first, *QUANTIZED], data=x.split(8))
    unjudged = fxcompress.compile(model, [first], data=x.split(8))  # nothing quantizes: nothing can harm
    assert judged.report.rows[1].rewrites == 0 and unjudged.report.rows[1].rewrites > 0
    assert torch.equal(judged(x), plain(x))
    shapes = [[tuple(node.meta["val"].shape) for node in each.graph.nodes if node.op != "output"] for each in (judged, plain)]
    assert str(shapes[0]) == str(shapes[1])
    told = " ".join(judged.report.rows[1].notes)
    assert "changes bring the outputs of 16 other samples nearer" in told and "left as they were" in told


def _far_apart(weight, copies):
    """Copies of which the first is a hundred times the weight."""
    channels, numbers = places(copies)
    several = torch.where(numbers == 0, 100.0, -99.0 / (copies[channels] - 1).clamp(min=1))
    return weight[:, channels] * torch.where(copies[channels] == 1, 1.0, several)


def _widely_different(bounds, layers, target):
    return Smoothing(10.0 ** torch.linspace(-3, 3, len(bounds.low)), None)


def _at_odds(pairs, iterations, tolerance):
    for first, second in pairs:
        factor = 10.0 ** torch.linspace(-3, 3, first.outputs.numel(), dtype=torch.double)
        first.divide_outputs(factor)
        second.multiply_inputs(factor)
    return 1


def test_one_activation_is_left_as_it_was_and_the_others_are_smoothed(monkeypatch):
    model, x, asked = Chain().eval(), tokens(), []

    def best(bounds, layers, target):
        asked.append(len(bounds.low))
        return _widely_different(bounds, layers, target) if len(asked) == 1 else best_smoothing(bounds, layers, target)

    with torch.no_grad():
        model.middle.weight[3] *= 10
    monkeypatch.setattr("fxcompress.passes.smooth_activations.best_smoothing", best)
    smoothed = fxcompress.compile(model, [passes.SmoothActivations(token_samples=16), *QUANTIZED], data=x.split(8))
    assert len(asked) == 3
    assert "left as they were: norm" in " ".join(smoothed.report.notes)
    assert 1 <= smoothed.report.rows[1].rewrites <= 2
    assert torch.equal(smoothed.state_dict()["norm.weight"], model.norm.weight)


def test_ranges_of_values_that_stay_are_remembered_and_are_what_they_would_be(monkeypatch):
    """Each value is one of two, smoothed or not: no more than two runs find their ranges, however many mixtures are judged."""
    model, x, runs, judged = Chain().eval(), tokens(), [], []
    observed, set_ranges = extremes._observed, extremes.set_extremes

    def counted(*given):
        runs.append(given)
        return observed(*given)

    def compared(graph_module, batches, known):
        set_ranges(graph_module, batches, known)
        monkeypatch.setattr(extremes, "_observed", observed)
        remembered = [one.scale.clone() for one in quantizer_calls(graph_module).values()]
        set_ranges(graph_module, batches)
        for one, scale in zip(quantizer_calls(graph_module).values(), remembered, strict=True):
            torch.testing.assert_close(one.scale, scale, rtol=1e-3, atol=0)
        monkeypatch.setattr(extremes, "_observed", counted)
        judged.append(len(remembered))

    def alternately(bounds, layers, target):
        found = best_smoothing(bounds, layers, target)
        return found if len(layers) > 1 or len(bounds.low) % 2 else _widely_different(bounds, layers, target)

    monkeypatch.setattr(extremes, "_observed", counted)
    monkeypatch.setattr("fxcompress.driver.foreseen.set_extremes", compared)
    monkeypatch.setattr("fxcompress.passes.smooth_activations.best_smoothing", alternately)
    fxcompress.compile(model, [passes.SmoothActivations(token_samples=16), *QUANTIZED], data=x.split(8))
    assert len(judged) > 3 and len(runs) == 2


@given(seed=st.integers(0, 2**16), per_channel=st.booleans(), bias_share=st.sampled_from([0.0, 0.1]))
@settings(max_examples=15)
def test_equal_layers_do_no_harm_on_the_samples_that_judge_them(seed, per_channel, bias_share):
    """Ranges are found on the same samples in the end; and weights are rounded as `Quantize` is told to."""
    torch.manual_seed(seed)
    model, x = Net().eval(), images(32, seed)
    with torch.no_grad():
        for layer in (model.first, model.second, model.head):
            layer.weight *= (10 ** torch.randn(len(layer.weight))).view(-1, *[1] * (layer.weight.dim() - 1))
            layer.bias *= 10 ** torch.randn(len(layer.bias))
    quantized = [passes.Quantize(per_channel=per_channel), passes.Calibrate(samples=16, precision="float32")]
    plain = fxcompress.compile(model, quantized, data=x.split(8))
    equal = fxcompress.compile(model, [passes.EqualizeLayers(bias_share=bias_share, samples=16), *quantized], data=x.split(8))
    assert noise(equal, model, x[16:]) <= noise(plain, model, x[16:]) * (1 + 1e-3)


def test_a_scope_that_is_yet_to_come_keeps_nothing_from_being_changed():
    """The multiplication that smoothing inserts is in no graph that layers are split in; a name of nothing is told as ever."""
    model, x = Chain().eval(), tokens()
    both = [passes.SplitChannels(samples=16), passes.SmoothActivations(token_samples=16)]
    done = fxcompress.compile(model, [*both, passes.Quantize(ignored=["relu_smoothed"]), passes.Calibrate()], data=x.split(8))
    assert done.report.rows[1].rewrites == 2
    with pytest.raises(ScopeError, match="nothing_of_this_name"):
        fxcompress.compile(model, [*both, passes.Quantize(ignored=["nothing_of_this_name"])], data=x.split(8))
