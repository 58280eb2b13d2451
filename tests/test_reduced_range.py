"""Weights whose products CPUs without VNNI add up rightly, in pairs of 16 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_quantize_options import images, net, quantized, quantizers
from torch import Tensor, nn

import fxcompress
from fxcompress import QuantizationOptions, QuantizationSpec, passes
from fxcompress.quantization.weights import fit
from fxcompress.quantizers import neighbours
from fxcompress.quantizers.neighbours import weight_sums
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets import OPENVINO_CPU, has_vnni


def pairs_saturate(activations: Tensor, weights: Tensor) -> bool:
    """Whether VPMADDUBSW saturates: sums of two neighbouring products of unsigned and signed bytes, in 16 bits."""
    products = activations.int() * weights.int()
    sums = products[..., 0::2] + products[..., 1::2]
    return bool((sums != sums.clamp(-(2**15), 2**15 - 1)).any())


@given(
    activations=st.lists(st.integers(0, 255), min_size=8, max_size=8),
    weights=st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8),
    symmetric=st.booleans(),
    signed=st.sampled_from([None, True, False]),
    narrow=st.booleans(),
)
def test_no_pair_of_products_saturates_in_a_reduced_range(activations, weights, symmetric, signed, narrow):
    spec = QuantizationSpec(symmetric=symmetric, signed=signed, narrow=narrow and symmetric)
    options = QuantizationOptions(weights=spec, reduce_range=True).weight
    weight, quantizer = torch.tensor([weights]), options.quantizer()
    quantizer.set_range(weight.min(), weight.max())
    assert quantizer.dtype == "int8"
    assert not pairs_saturate(torch.tensor(activations), quantizer.integers(weight))


def test_pairs_of_products_saturate_in_a_full_range():
    quantizer = QuantizationOptions(weights=QuantizationSpec(signed=True, narrow=True)).weight.quantizer()
    weight = torch.tensor([1.0, 1.0, -1.0, 0.5])
    quantizer.set_range(weight.min(), weight.max())
    assert pairs_saturate(torch.tensor([255, 255, 0, 0]), quantizer.integers(weight))


def test_a_reduced_range_is_for_weights_of_8_bits_and_for_nothing_else():
    overrides = {
        "head": QuantizationOptions(weights=QuantizationSpec(bits=4)),
        "right": QuantizationOptions(reduce_range=False),
    }
    found = quantizers(quantized(net(), images(), reduce_range=True, overrides=overrides))
    bits = {name.removesuffix("_weight_quantizer"): q.spec.bits for name, q in found.items()}
    assert bits | {"stem": 7, "left": 7, "right": 8, "head": 4} == bits
    assert all(q.spec.bits == 8 for name, q in found.items() if "weight" not in name)


def fitted(weight: Tensor, channel_axis: int = 0, **options) -> Quantizer:
    options = QuantizationOptions(weights=OPENVINO_CPU.weights, reduce_range="pairs", **options).weight
    quantizer = options.quantizer(weight.shape, channel_axis)
    fit(quantizer, weight)
    return quantizer


@given(
    activations=st.lists(st.integers(0, 255), min_size=8, max_size=8),
    weights=st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8),
    per_channel=st.booleans(),
    estimator=st.sampled_from(["min_max", "mse"]),
)
def test_no_pair_of_products_saturates_in_steps_for_pairs(activations, weights, per_channel, estimator):
    """Whether inputs are the second axis, as a linear layer's, or the first; wherever pairs of an odd number of them begin."""
    weight = torch.tensor([weights])
    for axis, one in ((0, weight), (1, weight.mT), (0, weight[:, :-1])):
        quantizer = fitted(one, axis, per_channel=per_channel, weight_estimator=estimator)
        integers = quantizer.integers(one).reshape(1, -1)
        if integers.shape[1] % 2:
            assert not pairs_saturate(torch.tensor(activations[:-2]), integers[:, 1:])
            integers = torch.cat([integers, torch.zeros(1, 1)], 1)
        assert not pairs_saturate(torch.tensor(activations), integers)


def test_steps_are_wider_only_where_neighbours_are_large():
    weight = torch.tensor([[127.0, 1, -127, 0], [127, 127, 0, 0], [127, -127, 127, -127], [80, 40, 0, 127]])
    assert torch.allclose(fitted(weight).scale, torch.tensor([1, 254 / 128, 1, 1]), rtol=1e-3)


@pytest.mark.parametrize(("filters", "groups", "paired"), [(4, 4, False), (8, 4, True), (8, 2, True)])
def test_a_depthwise_kernel_has_no_neighbours(filters, groups, paired):
    """Runtimes take its places one by one, but not those of groups of several filters."""
    layer = nn.Conv2d(4, filters, 3, groups=groups)
    nn.init.constant_(layer.weight, 127.0)
    (quantizer,) = (one for name, one in quantizers(quantized(layer, torch.randn(2, 4, 6, 6))).items() if "weight" in name)
    assert (quantizer.scale > 1.9).all() if paired else (quantizer.scale == 1).all()


def saturating(compiled: fxcompress.Compiled) -> list[str]:
    """The weights in the file's integers of which a pair saturates where all activations are largest."""
    found = []
    for name, held in compiled.lower().named_buffers():
        if held.dtype == torch.int8 and held.dim() > 1 and held.shape[1] > 1:
            rows = held.int().movedim(1, -1).flatten(1)
            step = 1 if held.shape[1] % 2 else 2
            pairs = torch.stack([rows[:, :-1:step], rows[:, 1::step]], -1).flatten(0, 1)
            if any(pairs_saturate(torch.where(pairs * sign > 0, 255, 0), pairs) for sign in (1, -1)):
                found.append(name)
    return found


@pytest.mark.parametrize("behind", [[], [passes.RoundWeights(samples=2)], [passes.LearnRounding()]])
def test_rounding_takes_no_pair_too_far(behind):
    """Of weights that are all large, so that nearly every channel is at the limit."""
    model = net()
    for weight in model.parameters():
        weight.data = weight.data.sign() * (0.8 + 0.2 * torch.rand_like(weight))
    stack = [passes.Quantize(), passes.Calibrate(), *behind]
    assert not saturating(fxcompress.compile(model, stack, data=[images()]))
    assert saturating(fxcompress.compile(model, [passes.Quantize(reduce_range=False), *stack[1:]], data=[images()]))


@pytest.mark.parametrize("learned", [False, True])
def test_steps_follow_neighbours_that_grow_in_training(learned):
    stack = [passes.Quantize(), passes.Calibrate(), *[passes.TrainQuantizers()] * learned]
    compiled, twin = (fxcompress.compile(net(), stack, data=[images()]).train() for _ in range(2))
    for _ in range(2):
        with torch.no_grad():
            for name, one in compiled.named_parameters():
                if name.endswith(".weight") and one.dim() > 1:
                    one.mul_(3)
        compiled(images()).square().mean().backward()
    assert not saturating(compiled.eval())
    twin.load_state_dict(compiled.state_dict())
    assert torch.equal(twin.eval()(images()), compiled(images()))


@pytest.mark.parametrize("options", [{"bits": 8, "reduce_range": True}, {"bits": 7, "reduce_range": "pairs"}])
def test_neighbours_on_a_grid_to_one_side_of_zero_fit_too(options):
    """In a file integers of less than 8 bits are less by their zero point: up to 127 of the 7 bits."""
    model, weights = net(), QuantizationSpec(bits=options["bits"], symmetric=False)
    for weight in model.parameters():
        weight.data = 0.8 + 0.2 * torch.rand_like(weight)
    stack = [passes.Quantize(weights=weights, reduce_range=options["reduce_range"]), passes.Calibrate()]
    compiled = fxcompress.compile(model, stack, data=[images()])
    assert any(held.dtype == torch.int8 and held.dim() > 1 for _, held in compiled.lower().named_buffers())
    assert not saturating(compiled)
    trained = fxcompress.compile(model, [*stack, passes.TrainQuantizers()], data=[images()]).train()
    for _ in range(2):
        with torch.no_grad():
            for name, one in trained.named_parameters():
                if name.endswith(".weight") and one.dim() > 1:
                    one.mul_(3)
        trained(images())
    assert not saturating(trained.eval())


def test_ranges_that_are_learned_are_taken_again_once_neighbours_are_small():
    stack = [passes.Quantize(), passes.Calibrate(), passes.TrainQuantizers()]
    compiled = fxcompress.compile(net(), stack, data=[images()]).train()
    before = {name: one.scale.clone() for name, one in quantizers(compiled).items()}
    weights = [one for name, one in compiled.named_parameters() if name.endswith(".weight") and one.dim() > 1]
    for factor in (3, 1 / 3):
        with torch.no_grad():
            for one in weights:
                one.mul_(factor)
        compiled(images())
    assert all(torch.equal(one.scale, before[name]) for name, one in quantizers(compiled).items())


def test_the_operand_of_a_product_has_steps_for_pairs():
    """Any two of the values that were seen may be neighbours in another sample, of one sign too."""

    def scale(y: Tensor, **options) -> float:
        x = torch.rand(len(y), 4, y.shape[-1])
        compiled = fxcompress.compile(Products(), [passes.Quantize(**options), passes.Calibrate()], data=[(x, y)])
        return next(float(one.scale) for name, one in quantizers(compiled).items() if "y" in name)

    y = torch.full((2, 5, 6), 12.7)
    assert scale(y) == pytest.approx(25.4 / 128, 1e-3) and scale(y, reduce_range=False) == pytest.approx(0.1)
    y[..., 1::2] *= -1
    assert scale(y) == pytest.approx(25.4 / 128, 1e-3)


def test_the_range_of_an_operand_is_told_as_it_is_in_the_file():
    """The report is of the steps that room for pairs has made wider."""
    x, y = torch.rand(40, 3, 4), torch.full((40, 5, 4), 12.7)
    stack = [passes.Quantize(), passes.Calibrate(estimator="output_error")]
    compiled = fxcompress.compile(Products(), stack, data=list(zip(x.split(8), y.split(8))))
    told = {choice.quantizer: choice for choice in compiled.report.ranges}
    (name,) = [name for name in told if name.startswith("y")]
    assert float(quantizers(compiled)[name].scale) == pytest.approx(25.4 / 128, 1e-3)
    assert told[name].chosen[1] == pytest.approx(127 * 25.4 / 128, 1e-2) and told[name].seen[1] == pytest.approx(12.7)


class Products(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.transpose(1, 2)


def test_weights_that_grow_outside_of_training_are_told():
    compiled = quantized(net(), images())
    assert "neighbours" not in str(compiled.lower().meta["report"].rows)
    with torch.no_grad():
        for name, one in compiled.named_parameters():
            if name.endswith("head.weight"):
                one.fill_(one.abs().max())
    (note,) = [note for row in compiled.lower().meta["report"].rows for note in row.notes if "neighbours" in note]
    assert "neighbours in head_weight are larger" in note and "Quantize(reduce_range=True)" in note


@pytest.mark.parametrize("reduce_range", ["pairs", True])
@pytest.mark.parametrize("bits", [4, 8])
def test_restored_weights_are_in_steps_for_pairs(bits, reduce_range):
    model = net()
    nn.init.constant_(model.head.weight, 1.0)
    few = passes.Quantize(weights=QuantizationSpec(bits=bits, signed=True), reduce_range=reduce_range)
    compiled = fxcompress.compile(
        model, [few, passes.Calibrate(), passes.RestorePrecision(bits=8, max_size=10**6)], data=[images()]
    )
    assert any(one.spec.bits == 8 for name, one in quantizers(compiled).items() if "weight" in name)
    assert not saturating(compiled)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what the CPU can do")
def test_what_the_cpu_can_do_is_what_the_system_lists():
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert has_vnni() == (not words.isdisjoint({"avx512_vnni", "avx_vnni"}))


@given(seed=st.integers(0, 2**16), kept=st.lists(st.booleans(), min_size=1, max_size=9), places=st.integers(1, 3))
def test_odd_neighbours_are_any_two_in_a_row_also_without_masked_inputs(seed, kept, places):
    """A file has such inputs no more, once their filters are removed."""
    weight = torch.randn(2, len(kept), places, generator=torch.Generator().manual_seed(seed)) * torch.tensor(kept)[:, None]
    left = weight[:, torch.tensor(kept)].mT.reshape(2, -1)
    found = weight_sums(weight, 0)
    if not all(kept) or len(kept) % 2:
        assert ((left[:, :-1] + left[:, 1:]).abs() <= found[:, None]).all()
    assert (found <= 2 * weight.abs().amax((1, 2))).all()


@given(st.integers(0, 2**16), st.integers(1, 9), st.integers(1, 20), st.sampled_from([(), (1,), (3, 3)]), st.booleans())
def test_the_kernel_finds_the_same_neighbours(seed, rows, inputs, kernel, rounded):
    """On numbers whose sums are exact; a quarter are zero, so that few filters read an input, or none."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randint(-200, 200, (rows, inputs, *kernel), generator=random) / 8
    weight *= torch.rand(weight.shape, generator=random) > 0.25
    scale, points = (
        2.0 ** torch.randint(-3, 1, (rows,), generator=random),
        torch.randint(-3, 3, (rows,), generator=random).float(),
    )
    grid = (scale, points, (-64, 63)) if rounded else None
    found = neighbours.weight_sums(weight, 0, grid)
    loaded, neighbours._load = neighbours._load, lambda: None
    try:
        assert torch.equal(found, neighbours.weight_sums(weight, 0, grid))
    finally:
        neighbours._load = loaded


@pytest.mark.parametrize("masked", [0, 1, 4])
def test_neighbours_are_the_same_where_torch_compiles(masked):
    weight = torch.randn(8, 6, 3, 3)
    weight[:, :masked] = 0
    compiled = torch.compile(weight_sums, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(weight, 0), weight_sums(weight, 0))


@pytest.mark.parametrize("removed", [True, False])
def test_no_pair_saturates_once_pruned_filters_are_gone(removed):
    """Of weights whose even inputs are large, and the odd ones, which are pruned, small."""
    first, second = nn.Linear(4, 8), nn.Linear(8, 5)
    for weight in (first.weight.data, second.weight.data.mT):
        weight.copy_(torch.where(torch.arange(8) % 2 == 0, 1.0, 0.01)[:, None])
    stack = [
        passes.PruneFilters(amount=0.5, multiple=1),
        *[passes.RemoveFilters()] * removed,
        passes.Quantize(),
        passes.Calibrate(),
    ]
    model = nn.Sequential(first, nn.ReLU(), second)
    assert not saturating(fxcompress.compile(model, stack, data=[torch.randn(4, 4)]))
