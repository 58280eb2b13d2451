"""Batch norm that trains with simulated quantization, and folds into the scales of the weight before it."""

from collections import Counter

import pytest
import torch
from emission import checked, file_agreement, in_onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import InputError
from fxcompress.execution.agreement import sqnr
from fxcompress.masks.mask import source_constant
from fxcompress.quantization.folding import scaled
from fxcompress.quantization.quantized import activations_in_float, quantizer_calls, serves_weight
from fxcompress.quantization.weights import weight_range
from fxcompress.quantizers.ops import UNPACK, along, unpack
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import MinMax
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.training import adapt_batch_norm

BATCH_NORM = torch.ops.aten.batch_norm.default


def compiled(model, data, *first, quantize=None, train=True):
    stack = [
        *first,
        passes.CanonicalizeActivations(),
        quantize or passes.Quantize(),
        passes.Calibrate(),
        *[passes.TrainQuantizers()] * train,
    ]
    return fxcompress.compile(model, stack, data=[data])


def trained(model, data, steps=3):
    """`model` after some steps, with batch norms of either sign and of scale zero among them."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(data).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for node in model.graph.find_nodes(op="call_function", target=BATCH_NORM):
            gamma = model.get_parameter(source_constant(node.args[1]).target)
            gamma.mul_(torch.randn(len(gamma)).sign())
            gamma[0] = 0
    return model.eval()


# ------------------------------------------------------------------------------------------------- factors on a weight


@given(st.data())
def test_scales_take_up_factors_and_integers_stay(data):
    shape, axis = (4, 6, 3), data.draw(st.integers(0, 1))
    symmetric = data.draw(st.booleans())
    channel_axis = data.draw(st.sampled_from([None, axis]))
    spec = QuantizationSpec(
        bits=data.draw(st.integers(2, 8)),
        symmetric=symmetric,
        signed=data.draw(st.sampled_from([None, True, False])),
        narrow=symmetric and data.draw(st.booleans()),
        channel_axis=channel_axis,
        group_size=None if channel_axis is None else data.draw(st.sampled_from([None, 4])),
    )
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    weight = torch.randn(shape, generator=random)
    factor = torch.randn(shape[axis], generator=random, dtype=torch.float64) * 10 ** data.draw(st.integers(-4, 4))
    factor[1] = data.draw(st.sampled_from([0.0, 1e-44, 2.0]))
    quantizer = Quantizer(spec, shape)
    quantizer.set_range(*weight_range(weight, spec, MinMax()))
    folded, made = scaled(quantizer, weight, factor, axis)
    factors = factor.reshape(-1, *[1] * (2 - axis))
    torch.testing.assert_close(made(folded).double(), quantizer(weight).double() * factors, rtol=1e-5, atol=1e-30)
    assert torch.equal(made(folded), folded)
    assert (made.scale > 0).all()
    mirrored = torch.where(factors < 0, sum(quantizer.levels) - quantizer.integers(weight), quantizer.integers(weight))
    kept = factors.abs() > 1e-30
    assert torch.equal(made.integers(folded) * kept, mirrored * kept)
    if spec.narrow and quantizer.signed:
        assert not made.zero_point.any()


def test_a_factor_that_no_scale_can_take_up_is_left_alone():
    quantizer = Quantizer(QuantizationSpec(signed=True))
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    assert scaled(quantizer, torch.ones(2, 3), torch.tensor([1.0, torch.inf]), 0) is None


# ------------------------------------------------------------------------------------------------------------- networks


def neighbours(graph_module):
    """How often each kind of operation reads each other kind, through or without a quantizer."""

    def kind(node):
        return "quantizer" if node.op == "call_module" else str(node.target) if node.op == "call_function" else node.op

    return Counter((kind(source), kind(node)) for node in graph_module.graph.nodes for source in node.all_input_nodes)


@settings(max_examples=6)
@given(recipes())
def test_quantizers_stand_where_they_would_have_stood_with_batch_norm_folded(recipe):
    model, data = recipe.build(), recipe.inputs(4)
    alive = compiled(model, data, train=False)
    folded = compiled(model, data, passes.FoldBatchNorm(), train=False)
    assert neighbours(alive.lower()) == neighbours(folded.lower())


@settings(max_examples=8)
@given(recipes(max_steps=5), st.booleans(), st.booleans())
def test_the_file_is_the_trained_model(recipe, per_channel, asymmetric):
    data = recipe.inputs(8)
    weights = QuantizationSpec(symmetric=False) if asymmetric else "target"
    model = trained(compiled(recipe.build(), data, quantize=passes.Quantize(per_channel=per_channel, weights=weights)), data)
    with torch.no_grad(), activations_in_float(model):
        torch.testing.assert_close(model(data), model.lower()(data), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        wanted = model(data)
    in_file = torch.from_numpy(in_onnxruntime(checked(to_onnx_model(model.lower())), [data])[0])
    assert sqnr(wanted, in_file) > 20 or (wanted - in_file).abs().max() < 1e-3


class Net(nn.Module):
    """Each kind of layer that a batch norm folds into."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.up, self.norm3 = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.linear, self.norm4 = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = self.norm2(self.depthwise(x)).clamp(0, 6) + x
        x = self.norm3(self.up(x)).relu()
        return self.norm4(self.linear(x.mean((2, 3))))


DATA = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "weights", ["target", QuantizationSpec(bits=4, signed=True), QuantizationSpec(bits=4, group_size=4, signed=True)]
)
def test_the_integers_of_the_file_are_those_that_were_trained(weights):
    torch.manual_seed(0)
    model = trained(compiled(Net(), DATA, quantize=passes.Quantize(weights=weights)), DATA)
    wanted = {}
    for call, quantizer in quantizer_calls(model).items():
        if serves_weight(call):
            integers = quantizer.integers(model.get_parameter(call.args[0].target).detach())
            wanted[call.args[0].name] = integers - quantizer.broadcast(integers.shape)[1]
    lowered = model.lower()
    assert not lowered.graph.find_nodes(op="call_function", target=BATCH_NORM)
    found = 0
    for node in lowered.graph.find_nodes(op="call_function", target=torch.ops.fxcompress.dequantize.default):
        q, scale, zero_point, axis, _, block, *_ = node.args
        packed, *shape = (q.args[0], *q.args[1:]) if q.target is UNPACK else (q,)
        if packed.op == "get_attr":
            stem = packed.name.partition("_weight")[0] + "_weight"
            integers = getattr(lowered, packed.target)
            integers = (unpack(integers, *shape) if shape else integers).float()
            steps = integers - along(getattr(lowered, zero_point.target), axis, block, integers.shape)
            others = [d for d in range(steps.dim()) if d != (stem == "up_weight")]  # than the output channels'
            same, flipped, gone = ((steps == x).amin(others) for x in (wanted[stem], -wanted[stem], torch.tensor(0)))
            assert (same | flipped | gone).all() and gone.sum() == 1
            assert (getattr(lowered, scale.target) > 0).all()
            found += 1
    assert found == len(wanted) == 4


def test_runtimes_compute_what_was_trained():
    torch.manual_seed(1)
    assert file_agreement(trained(compiled(Net(), DATA), DATA), DATA) > 25


def test_batch_norm_takes_its_statistics_in_training():
    model = compiled(Net(), DATA)
    before = model.norm.running_mean.clone(), model.norm3.running_var.clone()
    model.train()(DATA)
    assert not torch.equal(model.norm.running_mean, before[0])
    assert not torch.equal(model.norm3.running_var, before[1])


# ------------------------------------------------------------------------------------------------------------ adaptation


@pytest.mark.parametrize("training", [True, False])
def test_adaptation_takes_statistics_and_changes_nothing_else(training):
    model = compiled(nn.Sequential(Net(), nn.Dropout(0.5)), DATA).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert adapt_batch_norm(model, [DATA] * 5, samples=20) == 24
    assert model.training is training
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if "running" in name}
    twin = nn.BatchNorm2d(8)
    with torch.no_grad():
        of_input, of_weight = (model.get_submodule(node.target) for node in list(quantizer_calls(model))[:2])
        seen = torch.conv2d(of_input(DATA), of_weight(model.get_parameter("0.conv.weight")), None, 1, 1)
        for _ in range(3):
            twin(seen)
    torch.testing.assert_close(after["0.norm.running_mean"], twin.running_mean)


def test_adaptation_needs_batch_norms_and_data():
    with pytest.raises(InputError, match=r"no batch norm of this model takes statistics; leave FoldBatchNorm\(\) out"):
        adapt_batch_norm(compiled(Net(), DATA, passes.FoldBatchNorm()), [DATA])
    frozen = compiled(Net(), DATA)
    fxcompress.training.freeze_batch_norm(frozen)
    with pytest.raises(InputError, match=r"they are frozen: call freeze_batch_norm\(compiled, frozen=False\) first"):
        adapt_batch_norm(frozen, [DATA])
    with pytest.raises(InputError, match="samples of 1 or more, or None, got 0"):
        adapt_batch_norm(compiled(Net(), DATA), [DATA], samples=0)
    with pytest.raises(InputError, match="the data is empty"):
        adapt_batch_norm(compiled(Net(), DATA), [])


class _Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("in_place", [False, True])
def test_batch_norms_are_frozen_by_scope_and_thawed(in_place):
    x, model = torch.randn(8, 3, 6, 6), _Normed()
    stack = [passes.PruneFilters(amount=0.25, multiple=1), *fxcompress.defaults.training()]
    if in_place:
        compiled, trained = fxcompress.compress(model, stack, data=[x]).compiled, model
    else:
        compiled = trained = fxcompress.compile(model, stack, data=[x])

    def moved():
        before = {name: value.clone() for name, value in trained.named_buffers() if "running" in name}
        trained.train()(x).sum().backward()
        return {
            name.split(".")[0] for name, value in trained.named_buffers() if name in before and not value.equal(before[name])
        }

    assert moved() == {"body", "head"}
    assert fxcompress.training.freeze_batch_norm(compiled, ["body"]) == ["body_1"]
    assert moved() == {"head"}
    assert fxcompress.training.freeze_batch_norm(compiled) == ["body_1", "head_1"]
    assert moved() == set()
    assert trained.get_parameter("body.1.weight").grad is not None
    fxcompress.training.freeze_batch_norm(compiled, frozen=False)
    assert moved() == {"body", "head"}


def test_there_must_be_a_batch_norm_to_freeze():
    compiled = fxcompress.compile(nn.Linear(2, 2), [], example_inputs=torch.randn(1, 2))
    with pytest.raises(InputError, match="no batch norm"):
        fxcompress.training.freeze_batch_norm(compiled)
