"""Sparse weights: which are masked, exactly how many, what training does with them, and what the file holds."""

import copy

import pytest
import torch
from emission import file_agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.emit.inspect import inspect_onnx
from fxcompress.errors import InputError, ScopeError
from fxcompress.masks.mask import Mask, masked
from fxcompress.quantization.quantized import quantizer_calls, serves_weight
from fxcompress.sparsity.importance import CRITERIA, Pattern, lowest
from fxcompress.training import CompressionStage, MultiStep, Polynomial


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Flatten(), nn.Linear(12, 5)).eval()


X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def sparse(model=None, **options):
    return fxcompress.compile(model or network(), [passes.Sparsify(**options)], example_inputs=X)


def masks(compiled):
    """Each mask by the name of its weight, 0 where it masks."""
    found = {name: module.mask for name, module in compiled.named_modules() if isinstance(module, Mask)}
    return {name.removesuffix("_weight_mask").removeprefix("_"): mask for name, mask in found.items()}


def zeros(mask):
    return int((mask == 0).sum())


# ------------------------------------------------------------------------------------------------------ which, how many


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    level=st.floats(0, 0.999),
    values=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_lowest_share_is_met_within_one_element_however_many_are_equal(sizes, level, values, seed):
    torch.manual_seed(seed)
    scores = [torch.randint(values, (size,)).float() for size in sizes]
    chosen = lowest(scores, level)
    assert abs(sum(int(one.sum()) for one in chosen) - level * sum(sizes)) <= 0.5
    taken, left = (torch.cat([s[c == which] for s, c in zip(scores, chosen)]) for which in (True, False))
    assert not len(taken) or not len(left) or taken.max() <= left.min()


@given(
    kept=st.integers(1, 3),
    more=st.integers(1, 3),
    groups=st.integers(1, 4),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    axis=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_a_pattern_keeps_so_many_of_every_group_along_its_axis(kept, more, groups, shape, axis, seed):
    pattern, axis = Pattern(kept, kept + more), axis % (len(shape) + 1)
    shape = [*shape[:axis], groups * pattern.group, *shape[axis:]]
    torch.manual_seed(seed)
    scores = torch.randint(5, shape).float()
    zeros = pattern.zeros(scores, axis)
    rows, values = (t.movedim(axis, -1).reshape(-1, pattern.group) for t in (zeros, scores))
    assert (rows.sum(1) == more).all()
    for row, value in zip(rows, values):
        assert value[row].max() <= value[~row].min()


@pytest.mark.parametrize("ranking", ["global", "local"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_smallest_weights_are_masked(criterion, ranking):
    """Against plain sorting, weight by weight."""
    model = network()
    found = masks(sparse(model, level=0.7, criterion=criterion, ranking=ranking))
    weights = {name: model[int(name)].weight.detach() for name in found}
    assert list(found) == ["0", "2", "4"]
    scores = {n: w.abs() / (w.square().sum().sqrt() if criterion == "normalized" else 1) for n, w in weights.items()}
    every = sorted(s for score in scores.values() for s in score.flatten().tolist())
    for name, score in scores.items():
        own = sorted(score.flatten().tolist()) if ranking == "local" else every
        bound = own[round(0.7 * len(own)) - 1]
        assert torch.equal(found[name] == 0, score <= bound)


def test_the_pattern_goes_along_the_inputs_where_they_divide():
    compiled = sparse(pattern="2:4")
    found = masks(compiled)
    assert list(found) == ["2", "4"]
    assert (found["2"].unflatten(1, (2, 4)).sum(2) == 2).all() and (found["4"].unflatten(1, (3, 4)).sum(2) == 2).all()
    assert any("_0 stay: their inputs are no multiple of 4" in note for note in compiled.report.notes)


def test_inputs_of_a_transposed_convolution_and_of_a_product_are_its_first_axis():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.weight = nn.ConvTranspose2d(4, 3, 2), nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            return self.up(x).mean(1) @ self.weight

    compiled = fxcompress.compile(Model().eval(), [passes.Sparsify(pattern="1:2")], example_inputs=torch.randn(2, 4, 3, 3))
    assert {name: tuple(mask.shape) for name, mask in masks(compiled).items()} == {"up": (4, 3, 2, 2), "weight_mask": (4, 6)}
    for mask in masks(compiled).values():
        assert (mask.unflatten(0, (2, 2)).sum(1) == 1).all()


def test_zeros_that_are_there_stay_and_count():
    model = network()
    with torch.no_grad():
        model[4].weight[:, :6] = 0
    found = masks(sparse(model, level=0.0))
    assert {name: zeros(mask) for name, mask in found.items()} == {"0": 0, "2": 0, "4": 30}
    total = sum(mask.numel() for mask in found.values())
    found = masks(sparse(model, level=0.5))
    assert sum(map(zeros, found.values())) == total // 2 and not found["4"][:, :6].any()
    assert not any(map(zeros, masks(sparse(model, schedule=Polynomial(epochs=2))).values()))  # training may fill them


@pytest.mark.parametrize("options", [{"level": 0.5}, {"schedule": Polynomial(epochs=1)}, {"level": 0.5, "ranking": "local"}])
def test_a_weight_that_is_yet_to_be_trained_is_left_whole(options):
    model = network()
    with torch.no_grad():
        model[2].weight.zero_()  # as the second factor of an adapter, or the last layer of a residual branch
    compiled = sparse(model, **options).train()
    for _ in range(2):
        compiled.controller.scheduler.epoch_step()
    found = masks(compiled)
    assert found["2"].all() and zeros(found["0"]) and zeros(found["4"])
    assert any("_2 stay whole" in note for note in compiled.report.rows[-1].notes)
    compiled(X).sum().backward()
    assert compiled.get_parameter("2.weight").grad.any()


def test_ignored_layers_stay():
    assert list(masks(sparse(ignored=["0", "op:linear"]))) == ["2"]


def test_a_shared_weight_is_masked_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(self.layer(x))

    compiled = fxcompress.compile(Model().eval(), [passes.Sparsify()], example_inputs=torch.randn(2, 6))
    assert [zeros(mask) for mask in masks(compiled).values()] == [18]


# --------------------------------------------------------------------------------------------------------- in training


def test_masked_weights_get_no_gradient_and_the_others_that_of_the_masked_model():
    compiled = sparse()
    compiled.train()(X).square().sum().backward()
    plain = network()
    with torch.no_grad():
        for name, mask in masks(compiled).items():
            plain[int(name)].weight *= mask
    plain(X).square().sum().backward()
    for name, mask in masks(compiled).items():
        gradient = compiled.get_parameter(f"{name}.weight").grad
        assert not gradient[mask == 0].any()
        torch.testing.assert_close(gradient, plain[int(name)].weight.grad * mask)


def test_the_controller_masks_anew_from_the_weights_behind_the_masks():
    compiled = sparse(schedule=MultiStep(levels=(0.2, 0.4), epochs=(1, 2)), level=0.6)
    controller, shares = compiled.controller["Sparsify"], []
    weight = compiled.get_parameter("4.weight")
    for epoch in range(4):
        compiled.controller.scheduler.epoch_step()
        shares.append(controller.reached())
        if epoch == 0:
            with torch.no_grad():
                weight[masks(compiled)["4"] == 0] = 10.0
        if epoch == 2:
            assert masks(compiled)["4"][weight == 10].all()
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.6], abs=1e-3)
    assert controller.compression_stage() is CompressionStage.FULLY_COMPRESSED


def test_levels_by_hand_for_all_or_for_some_layers():
    compiled = sparse()
    controller = compiled.controller["Sparsify"]
    before = masks(compiled)["0"].clone()
    controller.set_level({"_4": 0.9, "_2": 0.25})
    found = masks(compiled)
    assert zeros(found["4"]) == round(0.9 * 60) and zeros(found["2"]) == 216 and torch.equal(found["0"], before)
    controller.set_level(0.1)
    assert sum(map(zeros, masks(compiled).values())) == round(0.1 * (216 + 864 + 60))
    table = str(controller.statistics())
    assert "_2" in table and "12 x 8 x 3 x 3" in table and "10.0%" in table and "74.2%" in table


def test_two_passes_have_their_own_layers():
    first, second = passes.Sparsify(level=0.25, ignored=["4"]), passes.Sparsify(level=0.75, ignored=["0", "2"])
    controller = fxcompress.compile(network(), [first, second], example_inputs=X).controller
    assert list(controller["Sparsify"].layers) == ["_0", "_2"] and list(controller["Sparsify_2"].layers) == ["_4"]
    assert controller["Sparsify_2"].reached() == 0.75


def test_a_copy_is_masked_by_its_own_controller_and_the_state_has_the_masks():
    compiled = sparse(level=0.5)
    assert compiled.controller["Sparsify"]
    twin = copy.deepcopy(compiled)
    twin.controller["Sparsify"].set_level(0.9)
    assert compiled.controller["Sparsify"].reached() == pytest.approx(0.5, abs=1e-3)
    compiled.load_state_dict(twin.state_dict())
    assert compiled.controller["Sparsify"].reached() == pytest.approx(0.9, abs=1e-3)
    assert torch.equal(compiled(X), twin(X))


# ---------------------------------------------------------------------------------------------------------- in the file


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("options", [{"level": 0.6}, {"pattern": "2:4", "ignored": ["0"]}])
def test_the_file_has_the_zeros_and_is_the_model(options, quantized, tmp_path):
    stack = [passes.Sparsify(**options)]
    stack += [passes.Quantize(), passes.Calibrate()] if quantized else []
    compiled = fxcompress.compile(network(), stack, data=[X])
    summary = inspect_onnx(compiled.to_onnx(tmp_path / "model.onnx"))
    masked = sum(map(zeros, masks(compiled).values())) / sum(mask.numel() for mask in masks(compiled).values())
    share = masked if "level" in options else masked * (864 + 60) / (216 + 864 + 60)
    assert share <= summary.zero_share <= share + 0.02  # a few small weights are rounded to zero as well
    assert summary.integer_weight_share == quantized
    assert file_agreement(compiled, X) > (45 if quantized else 100)


@pytest.mark.parametrize(
    "grid",
    [
        {"symmetric": False},
        {"symmetric": False, "group_size": 4},
        {"bits": 4},
        {"bits": 4, "symmetric": False},
        {"bits": 4, "group_size": 4},
        {"bits": 4, "symmetric": False, "group_size": 4},
    ],
)
def test_zeros_are_counted_where_each_channel_or_group_has_its_own(grid, tmp_path):
    quantize = passes.Quantize(weights=QuantizationSpec(**grid))
    compiled = fxcompress.compile(network(), [passes.Sparsify(level=0.6), quantize, passes.Calibrate()], data=[X])
    lowered = [q.integers(masked(compiled, c.args[0])) - q.broadcast(c.meta["val"].shape)[1]
               for c, q in quantizer_calls(compiled).items() if serves_weight(c)]  # fmt: skip
    zero, total = sum(int((weight == 0).sum()) for weight in lowered), sum(weight.numel() for weight in lowered)
    assert zero >= round(0.6 * total)
    summary = inspect_onnx(compiled.to_onnx(tmp_path / "model.onnx"))
    assert summary.zero_share == pytest.approx(zero / total) and summary.integer_weight_share == 1


@settings(max_examples=6)
@given(recipe=recipes(), level=st.floats(0, 0.95), local=st.booleans())
def test_any_network_is_sparse_to_the_level_and_its_file_is_the_model(recipe, level, local):
    x = recipe.inputs(3)
    pass_ = passes.Sparsify(level=level, ranking="local" if local else "global")
    compiled = fxcompress.compile(recipe.build(), [pass_], example_inputs=(x,))
    controller = compiled.controller.children.get("Sparsify")
    if controller is not None:
        assert abs(controller.reached() - level) * sum(m.mask.numel() for m in controller.masks.values()) <= (
            0.5 + (len(controller.masks) if local else 0)
        )
    assert file_agreement(compiled, x) > 90


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, r"level from 0 to below 1, or None, got 1\.0"),
        ({"criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"ranking": "uniform"}, "'global' or 'local', got 'uniform'"),
        ({"pattern": "4:2"}, "like \"2:4\".*not '4:2'"),
        ({"level": "0.5"}, "level from 0 to below 1, or None, got '0.5'"),
        ({"pattern": "two of four"}, 'like "2:4"'),
        ({"pattern": "2:4", "level": 0.5}, "leave out level and schedule"),
        ({"pattern": "2:4", "schedule": Polynomial(epochs=2)}, "leave out level and schedule"),
        ({"schedule": 5}, "schedule that is a Schedule"),
        ({"schedule": Polynomial(epochs=2, initial=0.7)}, "starts at 0.7"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(InputError, match=message):
        passes.Sparsify(**options)


def test_the_report_tells_a_level_from_one_to_come():
    now, later = sparse(level=0.5), sparse(level=0.5, schedule=Polynomial(epochs=2))
    assert "50.0% of 1140 weights in 3 layers are masked" in now.report.notes[0]
    assert "50.0% of 1140 weights in 3 layers will be masked" in later.report.notes[0]


def test_unusable_scopes_and_levels():
    with pytest.raises(ScopeError, match="nothing"):
        sparse(ignored=["nowhere"])
    controller = sparse().controller["Sparsify"]
    with pytest.raises(InputError, match=r"no sparse layer '_5' \(did you mean"):
        controller.set_level({"_5": 0.5})
    with pytest.raises(InputError, match="from 0 to below 1, not 1"):
        controller.set_level({"_4": 1})
    with pytest.raises(InputError, match="'2:4' says which"):
        sparse(pattern="2:4").controller["Sparsify"].set_level(0.5)
