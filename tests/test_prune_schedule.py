"""Filters pruned while training: masks that follow a schedule, targets in multiply-adds, and what the controller tells."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.channels import analyze
from fxcompress.channels.clusters import clusters
from fxcompress.channels.masking import element_masks, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.channels.selection import Selection, cost_without
from fxcompress.errors import InputError
from fxcompress.ir.cost import cost
from fxcompress.masks.mask import Mask, insert_mask
from fxcompress.training import CompressionStage, Exponential, MultiStep, Polynomial

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


def pruned(*others, **options):
    options = {"multiple": 1, **options}
    return fxcompress.compile(network(), [passes.PruneFilters(**options), *others], data=[X])


def kept(compiled, layer):
    """Which filters of a layer no mask zeroes."""
    return compiled.get_submodule(f"_{layer}_weight_mask").mask.flatten(1).any(1)


@settings(max_examples=8)
@given(recipe=recipes(regrouping=True), data=st.data())
def test_the_cost_foretold_is_that_of_the_smaller_model(recipe, data):
    compiled = fxcompress.compile(recipe.build(), [], example_inputs=(recipe.inputs(2),))
    channels = analyze(compiled)
    chosen = {
        one
        for cluster in clusters(channels)
        for one in data.draw(st.lists(st.sampled_from(cluster.elements), unique=True, max_size=len(cluster.elements) - 1))
    }
    foretold = cost_without(channels, chosen)
    for constant, mask in element_masks(channels, chosen).items():
        insert_mask(compiled, constant, Mask(mask), "test")
    Removal(analyze(compiled, pin_what_is_not_masked)).apply("test")
    assert cost(compiled) == foretold


@settings(max_examples=8)
@given(recipe=recipes(), share=st.floats(0.05, 0.6), ranking=st.sampled_from(["uniform", "global"]))
def test_a_share_of_multiply_adds_is_met_and_not_without_need_exceeded(recipe, share, ranking):
    """One filter less of the last ones chosen, and it would not be met."""
    compiled = fxcompress.compile(recipe.build(), [], example_inputs=(recipe.inputs(2),))
    channels = analyze(compiled)
    groups, whole = clusters(channels), cost(compiled).multiply_adds
    by_computation, by_filters = (Selection("l2", ranking, 1, of_computation=flag) for flag in (True, False))
    try:
        chosen = by_computation.choose(channels, groups, share)
    except InputError:
        everything = by_filters.choose(channels, groups, 1 - 1e-12)
        assert 1 - cost_without(channels, everything).multiply_adds / whole < share
        return
    assert cost_without(channels, chosen).multiply_adds <= (1 - share) * whole
    smaller = [by_filters.choose(channels, groups, amount / 60) for amount in range(60)]
    for other in smaller:
        if len(other) < len(chosen):
            assert cost_without(channels, other).multiply_adds > (1 - share) * whole


@pytest.mark.parametrize("ranking", ["uniform", "global"])
def test_flops_are_what_is_left_behind_removal(ranking):
    smaller = pruned(passes.RemoveFilters(), flops=0.5, ranking=ranking)
    share = cost(smaller).multiply_adds / cost(pruned()).multiply_adds
    assert 0.45 < share <= 0.5


def test_masks_follow_the_schedule_from_the_weights_behind_them():
    compiled = pruned(amount=0.75, schedule=MultiStep(levels=(0.0, 0.25, 0.5), epochs=(1, 2, 3)))
    controller, counts, stages = compiled.controller["PruneFilters"], [], []
    weight = compiled.get_parameter("0.weight")
    for epoch in range(5):
        compiled.controller.scheduler.epoch_step()
        counts.append(int(kept(compiled, 0).sum()))
        stages.append(controller.compression_stage())
        if epoch == 1:
            early = ~kept(compiled, 0)
            with torch.no_grad():
                weight[early] *= 100  # they come back
    assert counts == [16, 12, 8, 4, 4] and kept(compiled, 0)[early].all()
    assert stages[0] is CompressionStage.UNCOMPRESSED and stages[-1] is CompressionStage.FULLY_COMPRESSED
    assert controller.reached() == pytest.approx(0.75)


def test_masked_filters_keep_their_values_and_the_masks_stay_from_the_target_on():
    compiled = pruned(amount=0.5, schedule=Exponential(epochs=2))
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.5)
    before = compiled.get_parameter("0.weight").detach().clone()
    compiled.train()
    for epoch in range(5):
        compiled.controller.scheduler.epoch_step()
        if epoch == 2:
            target, held = kept(compiled, 0).clone(), compiled.get_parameter("0.weight").detach().clone()
        compiled(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(kept(compiled, 0), target)
    weight = compiled.get_parameter("0.weight").detach()
    assert torch.equal(weight[~target], held[~target]) and not torch.equal(weight[target], before[target])


def test_ignored_layers_stay_whole_when_masks_change():
    compiled = pruned(amount=0.5, ignored=["0"])
    compiled.controller["PruneFilters"].set_level(0.75)
    assert not any(name.startswith("_0_weight_mask") for name, _ in compiled.named_modules())
    assert int(kept(compiled, 3).sum()) == 8
    assert compiled.get_submodule("_3_weight_mask").mask.flatten(2).any(2).any(0).all()


class Shuffled(nn.Module):
    """Groups that are shuffled, and a norm over groups of another size: which part of an axis goes is decided several times."""

    def __init__(self):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1, groups=4)
        self.depthwise, self.norm = nn.Conv2d(32, 32, 1, groups=32), nn.GroupNorm(8, 32)
        self.second, self.last = nn.Conv2d(32, 48, 1, groups=2), nn.Conv2d(48, 2, 1)

    def forward(self, x):
        x = self.first(x)
        y = self.grouped(x).unflatten(1, (4, 8)).transpose(1, 2).flatten(1, 2)
        return self.last(self.second(self.norm(self.depthwise(y)) + x))


def test_masks_that_are_made_anew_for_the_same_level_are_the_same():
    torch.manual_seed(0)
    prune = passes.PruneFilters(amount=0.5, multiple=1, summed=True)
    compiled = fxcompress.compile(Shuffled().eval(), [prune], example_inputs=torch.randn(2, 3, 4, 4))
    controller = copy.deepcopy(compiled).controller["PruneFilters"]
    first = [mask.mask.clone() for mask in controller._masks.values()]
    for level in (0.0, 0.5):
        controller.set_level(level)
    assert all(torch.equal(mask.mask, one) for mask, one in zip(controller._masks.values(), first, strict=True))


def test_a_level_by_hand_is_a_share_of_what_was_asked_for():
    compiled = pruned(flops=0.3)
    controller = compiled.controller["PruneFilters"]
    controller.set_level(0.6)
    assert 0.6 <= controller.reached() < 0.68
    share = cost(removed(compiled)).multiply_adds / cost(compiled).multiply_adds
    assert 1 - share == pytest.approx(controller.reached())
    with pytest.raises(InputError, match=r"at most 9\d\.\d% of the multiply-adds can be removed, not 99\.9%"):
        controller.set_level(0.999)
    assert controller.scheduler.level == 0.6


def removed(compiled):
    twin = copy.deepcopy(compiled)
    Removal(analyze(twin, pin_what_is_not_masked)).apply("test")
    return twin


def test_the_tables_say_what_is_left():
    compiled = pruned(amount=0.5)
    lines = [line.split() for line in str(compiled.controller.statistics()).splitlines()]
    assert ["_0", "1", "16", "8"] in lines and ["_3", "2", "32", "16"] in lines and ["_6", "-", "4", "4"] in lines
    assert ["filters", "52", "28", "46.2%"] in lines
    left = cost(removed(compiled))
    assert any(line[0] == "parameters" and f"{left.parameters / 1000:.4g}" in line for line in lines if line)


def test_where_nothing_can_be_pruned_there_is_no_controller():
    stack = [passes.PruneFilters(), passes.PruneFilters(amount=0.5), passes.RemoveFilters()]
    assert fxcompress.compile(nn.Linear(3, 3), stack, example_inputs=torch.randn(2, 3)).controller.children == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0.3, "flops": 0.3}, "not both"),
        ({"flops": 1.0}, r"flops from 0 to below 1, or None, got 1\.0"),
        ({"schedule": 0.5}, "schedule that is a Schedule"),
        ({"amount": 0.2, "schedule": Exponential(epochs=3, initial=0.3)}, "starts at 0.3, above the 0.2"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(InputError, match=message):
        passes.PruneFilters(**options)


def test_what_cannot_be_removed_is_said():
    with pytest.raises(InputError, match="at most .* of the multiply-adds can be removed, not 99.0%; ask for less"):
        pruned(flops=0.99, multiple=8)


def test_an_average_of_models_has_masks_of_zeros_and_ones(tmp_path):
    """As training recipes average them: what is of floating point, and the rest as it is."""
    compiled = pruned(amount=0.25)
    average = copy.deepcopy(compiled)
    compiled.controller["PruneFilters"].set_level(0.5)
    with torch.no_grad():
        for mean, present in zip(average.state_dict().values(), compiled.state_dict().values()):
            mean.lerp_(present, 0.1) if mean.is_floating_point() else mean.copy_(present)
    assert kept(average, 0).sum() == 8 and kept(average, 3).sum() == 16
    average.to_onnx(tmp_path / "model.onnx")


def test_channels_that_come_back_find_their_statistics():
    """What is masked has outputs of variance 0, which would be divided by once it is unmasked."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    ]
    x = 3 * torch.randn(32, 3, 6, 6)
    model = nn.Sequential(*layers)
    for _ in range(40):
        model(x)
    stack = [passes.PruneFilters(amount=0.5, multiple=1, schedule=Polynomial(epochs=1))]
    compiled = fxcompress.compile(model.eval(), stack, example_inputs=x)
    whole = compiled(x)
    controller = compiled.controller["PruneFilters"]
    controller.set_level(0.5)
    pruned = compiled(x)
    compiled.train()
    for _ in range(60):
        compiled(x)
    assert compiled.get_buffer("1.running_var").min() > 0.1
    torch.testing.assert_close(compiled.eval()(x), pruned, rtol=1e-3, atol=1e-3)
    controller.set_level(0.0)
    torch.testing.assert_close(compiled(x), whole, rtol=1e-3, atol=1e-3)
