"""Masks in stacks: in front of quantizers, whatever the order of the passes, and removed with them where a file is written."""

import copy
import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from emission import file_agreement
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import fx, nn

import fxcompress
from fxcompress import Effect, Pass, QuantizationOptions, QuantizationSpec, passes
from fxcompress.binarization.layers import binarized_layers
from fxcompress.channels import analyze
from fxcompress.channels.clusters import clusters
from fxcompress.channels.masking import element_masks, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.emit.inspect import inspect_onnx
from fxcompress.errors import CalibrationError
from fxcompress.execution.agreement import sqnr
from fxcompress.ir.cost import cost
from fxcompress.ir.dialect import copy_graph, resolve
from fxcompress.ir.signature import argument
from fxcompress.masks.mask import Mask, insert_mask, mask_of, source_constant
from fxcompress.quantization.quantized import quantizer_calls, quantizer_of, serves_weight
from fxcompress.rewrite.rule import Replacement
from fxcompress.training import CompressionStage, Polynomial


def exactly(graph_module, x):
    """The outputs in double precision, in which no other order of a sum moves a value to another integer."""
    with torch.no_grad():
        return copy.deepcopy(graph_module).double()(x.double())


def draw_channels(data, channels):
    """Any sets of channels that can be removed together."""
    return {
        one
        for cluster in clusters(channels)
        for one in data.draw(st.lists(st.sampled_from(cluster.elements), unique=True, max_size=len(cluster.elements) - 1))
    }


@settings(max_examples=8)
@given(recipe=recipes(regrouping=True), data=st.data())
def test_removed_from_a_quantized_graph_is_what_was_masked(recipe, data):
    x = recipe.inputs(3)
    graph_module = fxcompress.compile(recipe.build(), [passes.Quantize(), passes.Calibrate()], data=[x])
    channels = analyze(graph_module)
    chosen = draw_channels(data, channels)
    for constant, mask in element_masks(channels, chosen).items():
        insert_mask(graph_module, constant, Mask(mask), "test")
    graph_module.recompile()
    masked = exactly(graph_module, x)
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    graph_module.graph.lint()
    graph_module.recompile()
    assert sqnr(masked, exactly(graph_module, x)) >= 150
    for call, quantizer in quantizer_calls(graph_module).items():
        if serves_weight(call) and quantizer.scale.dim():
            assert len(quantizer.scale) == call.meta["val"].shape[quantizer.spec.channel_axis]


def with_binarized_convolutions(recipe, x, **options):
    """The network of `recipe` as it is, and with every convolution binarized that can be."""
    plain = fxcompress.compile(recipe.build(), [], example_inputs=(x,))
    convolutions = plain.graph.find_nodes(op="call_function", target=resolve("conv2d"))
    grouped = [node.name for node in convolutions if argument(node, "groups") != 1]
    binarize = passes.Binarize(scopes=["op:conv2d"], ignored=grouped, **options)
    try:
        return plain, fxcompress.compile(recipe.build(), [binarize], data=[x])
    except CalibrationError:  # what a convolution reads is never positive
        reject()


@settings(max_examples=8)
@given(recipe=recipes(regrouping=True), data=st.data(), weights=st.sampled_from(["xnor", "dorefa"]), start=st.integers(0, 1))
def test_removed_from_a_binarized_graph_is_what_was_masked(recipe, data, weights, start):
    """A weight that is masked is zero behind its binarizer and not in the mean that is its scale, as if it were gone."""
    x = recipe.inputs(3)
    plain, graph_module = with_binarized_convolutions(recipe, x, weights=weights, weights_start_epoch=start)
    channels = analyze(graph_module)
    chosen = draw_channels(data, channels)
    as_many = [len(cluster.elements) for cluster in clusters(analyze(plain))]
    assert [len(cluster.elements) for cluster in clusters(channels)] == as_many
    for constant, mask in element_masks(channels, chosen).items():
        insert_mask(graph_module, constant, Mask(mask), "test")
    graph_module.recompile()
    masked = exactly(graph_module, x)
    before = cost(graph_module).parameters
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    graph_module.graph.lint()
    graph_module.recompile()
    assert sqnr(masked, exactly(graph_module, x)) >= 150
    assert (cost(graph_module).parameters < before) == bool(chosen)
    for layer in binarized_layers(graph_module):
        assert layer.activation.threshold_logit.shape[1] == layer.node.args[1].meta["val"].shape[1]


class Block(nn.Module):
    """A convolution, a depthwise one beside a shortcut, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.point(self.deep(x))).mean((2, 3)))


def block():
    torch.manual_seed(0)
    return Block().eval()


X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
PRUNE, SPARSIFY = passes.PruneFilters(amount=0.5, multiple=4), passes.Sparsify(level=0.4)
QUANTIZE = passes.Quantize(reduce_range=True, weight_estimator="mse")


def compiled(*stack, model=None):
    return fxcompress.compile(model or block(), list(stack), data=[X])


@pytest.mark.parametrize(
    "order", [*itertools.permutations([PRUNE, SPARSIFY, QUANTIZE])], ids=lambda o: "-".join(p.name for p in o)
)
def test_the_order_of_passes_does_not_matter(order):
    """The ranges of weights are those of what is left, whichever pass was first; activations are calibrated at the end."""
    expected = compiled(PRUNE, SPARSIFY, QUANTIZE, passes.Calibrate())
    found = compiled(*order, passes.Calibrate())
    assert torch.equal(expected(X), found(X))
    assert expected.state_dict().keys() == found.state_dict().keys()
    for call in found.graph.find_nodes(op="call_module"):
        if quantizer_of(found, call) and serves_weight(call):
            assert mask_of(found, call.args[0]) and mask_of(found, call.args[0].args[0])  # both masks in front of it
            assert call.name == f"{source_constant(call).name}_quantizer"


def train(model, optimizer, epochs=3):
    model.train()
    for _ in range(epochs):
        model.controller.scheduler.epoch_step()
        for _ in range(2):
            model.controller.scheduler.step()
            loss = (model(X) - X.mean((1, 2, 3))[:, None]).square().mean() + model.controller.loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def widths(graph_module):
    """The channels that each convolution puts out."""
    convolutions = graph_module.graph.find_nodes(op="call_function", target=resolve("conv2d"))
    return [node.meta["val"].shape[1] for node in convolutions]


def removed(model):
    """The model as it is when its filters are out, before quantizers are lowered."""
    twin = fx.GraphModule(model, copy_graph(model.graph))
    Removal(analyze(twin, pin_what_is_not_masked)).apply("test")
    twin.recompile()
    return twin


def test_pruned_sparse_and_quantized_the_trained_model_is_its_file(tmp_path):
    schedule = Polynomial(epochs=2)
    model = compiled(
        passes.PruneFilters(amount=0.5, multiple=4, schedule=schedule),
        passes.Sparsify(level=0.4, schedule=schedule),
        passes.Quantize(),
        passes.Calibrate(),
    )
    before = cost(model)
    train(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    assert model.controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert sqnr(exactly(model, X), exactly(removed(model), X)) > 150
    lowered = model.lower()
    assert cost(removed(model)).multiply_adds < 0.6 * before.multiply_adds
    assert widths(lowered) == [8, 8, 8]
    assert inspect_onnx(model.to_onnx(tmp_path / "model.onnx")).zero_share > 0.25
    assert file_agreement(model, X) > 40


def test_every_pass_that_mends_a_quantized_model_sees_through_masks():
    mended = [passes.RoundWeights(), passes.Calibrate(), passes.LearnRounding(iterations=5), passes.CorrectBias()]
    fold = passes.FoldBatchNorm()
    nearest = compiled(fold, PRUNE, SPARSIFY, passes.Quantize(weights=QuantizationSpec(bits=4)), passes.Calibrate())
    model = compiled(fold, PRUNE, SPARSIFY, passes.Quantize(weights=QuantizationSpec(bits=4)), *mended)
    wanted = compiled(fold, PRUNE, SPARSIFY)(X)
    assert sqnr(wanted, model(X)) > sqnr(wanted, nearest(X)) + 3
    assert widths(model.lower()) == [8, 8, 8]
    restored = compiled(fold, PRUNE, SPARSIFY, passes.Quantize(), passes.Calibrate(), passes.RestorePrecision(min_decibels=500))
    assert sqnr(wanted, restored(X)) > 120


def test_groups_that_share_a_scale_keep_their_inputs():
    grouped = passes.Quantize(overrides={"point": QuantizationOptions(weights=QuantizationSpec(bits=4, group_size=8))})
    model = compiled(PRUNE, grouped, passes.Calibrate())
    assert sqnr(exactly(model, X), exactly(removed(model), X)) > 150
    shapes = [
        node.meta["val"].shape[1] for node in removed(model).graph.find_nodes(op="call_function", target=resolve("conv2d"))
    ]
    assert shapes == [16, 16, 16]  # masked, and zeros in the file


def test_weights_of_masked_layers_are_counted_as_integers():
    bytes_of = {len(stack): compiled(*stack, QUANTIZE).report.rows[-1].bytes for stack in ([], [SPARSIFY])}
    assert bytes_of[0] == bytes_of[1]


def test_one_weight_can_have_a_quantizer_for_each_reader_behind_its_mask():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    torch.manual_seed(0)
    model = Twice().eval()
    names = [node.name for node in compiled(model=model).graph.find_nodes(op="call_function", target=resolve("conv2d"))]
    quantize = passes.Quantize(overrides={names[1]: QuantizationOptions(weights=QuantizationSpec(bits=4))})
    for stack in ([SPARSIFY, quantize], [quantize, SPARSIFY]):
        found = compiled(*stack, passes.RoundWeights(), passes.Calibrate(), model=model)
        assert len([c for c in quantizer_calls(found) if serves_weight(c)]) == 2
        assert file_agreement(found, X) > 40


def test_filters_can_be_removed_before_or_behind_quantize():
    fold, remove, last = passes.FoldBatchNorm(), passes.RemoveFilters(), [passes.RoundWeights(), passes.Calibrate()]
    quantize = passes.Quantize(reduce_range=True)  # which does not depend on what is whose neighbour
    first = compiled(fold, PRUNE, remove, quantize, *last)
    for order in ([PRUNE, quantize, remove], [quantize, PRUNE, remove]):
        assert torch.equal(first(X), compiled(fold, *order, *last)(X))


def test_masks_that_a_schedule_has_not_come_to_outlive_the_filters():
    ramp = passes.Sparsify(level=0.5, schedule=Polynomial(epochs=1))
    model = compiled(ramp, PRUNE, passes.RemoveFilters())
    assert widths(model) == [8, 8, 8] and list(model.controller.children) == ["Sparsify"]
    for _ in range(2):
        model.controller.scheduler.epoch_step()
    assert model.controller["Sparsify"].reached() == pytest.approx(0.5, abs=1e-3)


def test_other_masks_outlive_the_filters_and_are_trained_on():
    learn, remove = passes.LearnSparsity(level=0.3, schedule=None), passes.RemoveFilters()
    quantize = [passes.Quantize(), passes.Calibrate()]
    model = compiled(SPARSIFY, learn, PRUNE, *quantize, remove)
    assert widths(model) == [8, 8, 8] and list(model.controller.children) == ["Sparsify", "LearnSparsity"]
    later = compiled(SPARSIFY, learn, PRUNE, *quantize)
    assert sqnr(exactly(model, X), exactly(later, X)) > 150
    train(model, torch.optim.Adam(model.parameters(), lr=0.1))
    for layer, mask in model.controller["Sparsify"].masks.items():
        read = model.controller["LearnSparsity"].masks[layer].mask * mask.mask
        assert mask.mask.shape == read.shape == model.controller["Sparsify"].weight(layer).shape
    assert model.controller["LearnSparsity"].reached() > 0.012  # from 0.01 on
    assert file_agreement(model, X) > 30


@dataclass(frozen=True, kw_only=True)
class MaskTopRow(Pass):
    """Masks the upper row of every filter of the weight ``0.weight``."""

    effect: ClassVar[Effect] = Effect.LOSSY

    def run(self, graph_module, context):
        (weight,) = (node for node in graph_module.graph.find_nodes(op="get_attr") if node.target == "0.weight")
        mask = torch.ones(graph_module.get_parameter("0.weight").shape)
        mask[..., 0, :] = 0
        return [Replacement.at(insert_mask(graph_module, weight, Mask(mask), self.name))]


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_kernel_keeps_the_places_that_are_masked_in_every_filter(convolution):
    model = nn.Sequential(convolution(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
    removed = fxcompress.compile(model, [MaskTopRow(), passes.RemoveFilters()], example_inputs=(torch.randn(2, 3, 8, 8),))
    assert removed.report.rows[-1].decibels > 100
