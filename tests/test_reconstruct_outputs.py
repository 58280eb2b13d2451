"""Reconstruction of outputs: what is trained without labels is never worse on samples that did not train it."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import Config, defaults, passes
from fxcompress.errors import ConfigError, InputError, PlanError
from fxcompress.masks.mask import masked
from fxcompress.quantization.matrix_layers import Call, MatrixLayer
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.quantization.reconstruction import INSIDE, _within_the_same_step

QUICK = passes.ReconstructOutputs(samples=20, judging=20, epochs=3, batch_size=5, learning_rate=2e-3)


class Network(nn.Module):
    """Images to two outputs: convolutions of all kinds, a norm, a residual branch and attention's product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24, padding=1, bias=False)
        self.pointwise = nn.Conv2d(24, 12, 1)
        self.scale = nn.LayerNorm(12)
        self.head = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(self.stem(x)).clamp(0, 6)
        x = x + self.pointwise(self.depthwise(self.wide(x).relu()).relu())
        tokens = self.scale(x.flatten(2).transpose(1, 2))
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.head(mixed.mean(1)), x


def images(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return nn.functional.interpolate(torch.randn(count, 3, 6, 6, generator=random), size=16, mode="bilinear")


def network() -> Network:
    torch.manual_seed(0)
    model = Network().train()
    for _ in range(10):
        model(images(20, seed=1))  # statistics of norms
    return model.eval()


COARSE = fxcompress.QuantizationSpec(bits=4, signed=True)
FOUR_BITS = fxcompress.QuantizationSpec(bits=4, signed=True, group_size=4)
BEFORE = [passes.FoldBatchNorm(), passes.CanonicalizeActivations()]
STACKS = {
    "the default": defaults.post_training(),
    "4 bits in groups": [*BEFORE, passes.Quantize(weights=FOUR_BITS), passes.Calibrate()],
    "exact sums": [*BEFORE, passes.Quantize(exact_sums=True), passes.Calibrate()],
    "asymmetric": [*BEFORE, passes.Quantize(weights=fxcompress.QuantizationSpec(symmetric=False)), passes.Calibrate()],
    "norms alive": defaults.training(),
    "trained ranges": [*defaults.training(), passes.TrainQuantizers()],
    "sparse": [passes.Sparsify(level=0.5), *BEFORE, passes.Quantize(weights=COARSE), passes.Calibrate()],
    "pruned": [passes.PruneFilters(amount=0.4), *BEFORE, passes.Quantize(weights=COARSE), passes.Calibrate()],
    "binary": [passes.Binarize(), *defaults.training()],
}


def error(compiled: nn.Module, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return sum(float((a - b).square().sum() / b.square().sum()) for a, b in zip(compiled(x), model(x), strict=True))


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("rate", [1e-3, 0.3])
def test_never_worse_on_samples_that_did_not_train_it(name, rate):
    model, shown = network(), images(40)
    tuned = passes.ReconstructOutputs(samples=20, judging=20, epochs=2, batch_size=5, learning_rate=rate)
    before, after = (fxcompress.compile(model, [*STACKS[name], *more], data=shown.split(8)) for more in ([], [tuned]))
    given = (
        fxcompress.compile(model, STACKS[name][:-3], data=shown.split(8)) if name in ("sparse", "pruned", "binary") else model
    )
    assert error(after, given, shown[20:]) <= error(before, given, shown[20:]) * (1 + 1e-4)
    assert "20 other samples" in after.report.notes[-1]


def test_few_bits_gain_on_images_that_nothing_has_seen():
    model, shown, others = network(), images(80), images(40, seed=2)
    before, after = (
        fxcompress.compile(model, [*STACKS["4 bits in groups"], *more], data=shown.split(8))
        for more in ([], [passes.ReconstructOutputs(samples=60, judging=20, epochs=10, batch_size=10, learning_rate=2e-3)])
    )
    assert error(after, model, others) < 0.7 * error(before, model, others)


@pytest.mark.parametrize("name", ["sparse", "pruned"])
def test_masked_weights_stay_zero(name):
    model, shown = network(), images(40)
    before, after = (fxcompress.compile(model, [*STACKS[name], *more], data=shown.split(8)) for more in ([], [QUICK]))
    assert after.report.rows[-1].rewrites
    held = [_weights(compiled) for compiled in (before, after)]
    assert held[0].keys() == held[1].keys() and sum(int((x == 0).sum()) for x in held[0].values()) > 50
    assert all((held[1][name][value == 0] == 0).all() for name, value in held[0].items())


def test_weights_that_are_zero_without_a_mask_stay_zero():
    model, shown = network(), images(40)
    layers = {"depthwise": model.depthwise, "pointwise": model.pointwise, "head": model.head}
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.mul_(torch.rand(layer.weight.shape) > 0.5)
    stack = [passes.Quantize(weights=COARSE), passes.Calibrate(), QUICK]
    compiled = fxcompress.compile(model, [*BEFORE, *stack], data=shown.split(8))
    assert compiled.report.rows[-1].rewrites
    for name, layer in layers.items():
        tuned = compiled.get_parameter(f"{name}.weight")
        assert not torch.equal(tuned, layer.weight) and torch.equal(tuned == 0, layer.weight == 0)


def _weights(compiled: fxcompress.Compiled) -> dict[str, torch.Tensor]:
    calls = [call for call in quantizer_calls(compiled) if serves_weight(call)]
    return {str(call.target): masked(compiled, call.args[0]).detach() for call in calls}


def test_the_same_data_give_the_same_model_and_the_given_one_keeps_its_weights():
    model, shown = network().requires_grad_(False), images(40)
    held = {name: value.clone() for name, value in model.state_dict().items()}
    first = fxcompress.compile(model, [*STACKS["the default"], QUICK], data=shown.split(8))
    torch.manual_seed(1)
    with torch.inference_mode():
        second = fxcompress.compile(model, [*STACKS["the default"], QUICK], data=shown.split(8))
    assert all(torch.equal(*pair) for pair in zip(first(shown), second(shown)))
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in first.parameters())


def test_a_table_that_is_looked_up_in_stays_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    tokens = torch.randint(0, 50, (40, 6))
    compiled = fxcompress.compile(model, [*STACKS["4 bits in groups"], QUICK], data=tokens.split(8))
    assert compiled.report.rows[-1].rewrites
    assert torch.equal(compiled.get_parameter("0.weight"), model[0].weight)


def test_samples_of_many_lengths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    tokens = [torch.randint(0, 50, (2, 4 + length % 3)) for length in range(20)]
    compiled = fxcompress.compile(model, [*STACKS["4 bits in groups"], QUICK], data=tokens)
    assert compiled.report.rows[-1].rewrites


def test_without_samples_to_judge_on_nothing_is_trained():
    compiled = fxcompress.compile(network(), [*STACKS["the default"], QUICK], data=images(3).split(1))
    assert compiled.report.rows[-1].rewrites == 0
    assert "no samples to judge it on" in compiled.report.notes[-1]


def test_the_file_has_what_was_trained(tmp_path):
    model, shown = network(), images(40)
    compiled = fxcompress.compile(model, [*STACKS["the default"], QUICK], data=shown.split(8))
    assert compiled.to_onnx(tmp_path / "model.onnx", verify="strict").exists()


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_start_as_near_to_the_float_ones_as_their_integers_allow(symmetric):
    """Beyond the ends of the grid, where a float weight would be moved further out, they start at the end."""
    spec = fxcompress.QuantizationSpec(bits=4, signed=True, symmetric=symmetric)
    stack = [passes.Quantize(weights=spec), passes.Calibrate()]
    model, x = nn.Linear(40, 8), torch.randn(4, 40)
    compiled = fxcompress.compile(model, stack, data=[x])
    (linear,) = (node for node in compiled.graph.nodes if str(node.target) == "aten.linear.default")
    quantizer = compiled.get_submodule(linear.args[1].target)
    integers = torch.randint(-8, 8, (8, 40), generator=torch.Generator().manual_seed(0)).float()
    scale, zero_point = (one.expand(8, 40) for one in quantizer.broadcast((8, 40)))
    model.weight.data = (integers - zero_point) * scale + torch.linspace(-3, 3, 40) * scale
    reference = fxcompress.compile(model, [], example_inputs=x)
    (twin,) = (node for node in reference.graph.nodes if str(node.target) == "aten.linear.default")
    layer = MatrixLayer(compiled, reference, (Call(linear, twin),), "test")
    layer.set_integers(integers)
    started = _within_the_same_step(layer)
    assert torch.equal(quantizer.integers(started), integers)
    steps = (started - (integers - zero_point) * scale) / scale
    wanted = torch.linspace(-3, 3, 40).expand(8, 40).clamp(-INSIDE, INSIDE)
    low, high = quantizer.levels
    wanted = torch.where((integers <= low) & (wanted < 0) | (integers >= high) & (wanted > 0), 0.0, wanted)
    torch.testing.assert_close(steps, wanted, atol=1e-4, rtol=0)


def test_progress_counts_the_epochs():
    told: list[tuple[str, int, int | None]] = []
    stack = [*STACKS["the default"], QUICK]
    fxcompress.compile(network(), stack, data=images(40).split(8), progress=lambda *news: told.append(news))
    assert [news[1:] for news in told if news[0] == "reconstructing outputs"] == [(done, 3) for done in range(3)]


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"judging": 0}, {"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        passes.ReconstructOutputs(**options)


def test_it_needs_data_and_ranges():
    with pytest.raises(PlanError, match="ReconstructOutputs needs 'calibrated'"):
        fxcompress.compile(network(), [passes.Quantize(), QUICK], data=images(8).split(4))


# ------------------------------------------------------------------------------------------ the default pipeline's effort


def test_high_effort_ends_with_it():
    assert defaults.post_training(effort="high") == [*defaults.post_training(), passes.ReconstructOutputs()]
    with pytest.raises(InputError, match="post_training needs effort .*did you mean 'high'"):
        defaults.post_training(effort="hihg")


def test_a_file_names_the_effort():
    text = "passes:\n  - {defaults.post_training: {effort: high}}\n  - RestoreSlowLayers\n"
    assert list(Config.parse(text).passes) == [*defaults.post_training(effort="high"), passes.RestoreSlowLayers()]
    assert list(Config.parse("passes: [{defaults.training: }]").passes) == defaults.training()


@pytest.mark.parametrize(
    ("one", "complaint"),
    [
        ("{defaults.post_training: {effort: highest}}", "passes.*effort.*'normal' or 'high', got 'highest'"),
        ("{defaults.post_training: {efort: high}}", "post_training has no option 'efort' .did you mean 'effort'"),
        ("{defaults.training: {effort: high}}", "training has no option 'effort', nor any other"),
        ("{defaults.post_training: high}", "the options of post_training are a mapping, not 'high'"),
        ("{defaults.post_trainin: {effort: high}}", "there is no 'defaults.post_trainin'"),
    ],
)
def test_wrong_options_of_a_list_are_told(one, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Config.parse(f"passes: [{one}]")
