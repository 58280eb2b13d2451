"""The options of `Quantize`: what each changes, what they do together, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from emission import in_onnxruntime, in_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import Tensor, nn

import fxcompress
from fxcompress import QuantizationOptions, QuantizationSpec, op, passes, var
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, ScopeError
from fxcompress.execution.agreement import sqnr
from fxcompress.quantization.weights import weight_range
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.ranges import ESTIMATORS, MinMax, Percentile

FOUR_BITS = QuantizationSpec(bits=4, group_size=4)
COARSE = QuantizationOptions(activations=QuantizationSpec(bits=5, symmetric=False))
SEEDS = st.integers(0, 2**31)


class Net(nn.Module):
    """A convolution, two of the same value, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head((self.left(x) + self.right(x)).relu().mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, x: Tensor, calibrate: passes.Calibrate | None = None, **options) -> fxcompress.Compiled:
    return fxcompress.compile(model, [passes.Quantize(**options), calibrate or passes.Calibrate()], data=[x])


def quantizers(compiled: fxcompress.Compiled) -> dict[str, Quantizer]:
    return {name: module for name, module in compiled.named_modules() if isinstance(module, Quantizer)}


def emitted(compiled: fxcompress.Compiled, x: Tensor, path: Path, decibels: float = 40) -> dict[str, onnx.TensorProto]:
    """The initializers of the file of `compiled`, once it computes in both runtimes what the simulation does."""
    serialized = compiled.to_onnx(path).read_bytes()
    onnx.checker.check_model(path, full_check=True)
    for run in (in_onnxruntime, in_openvino):
        assert sqnr(compiled(x), torch.from_numpy(run(serialized, [x])[0])) > decibels, run.__name__
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


# ------------------------------------------------------------------------------------------------------ estimators


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_get_the_range_that_their_estimator_fits_to_each_channel(name):
    model = net()
    with torch.no_grad():
        model.left.weight[:, 0, 0, 0] = 3.0  # an outlier in each channel
    compiled = quantized(model, images(), weight_estimator=name, reduce_range=False)
    found = quantizers(compiled)["left_weight_quantizer"]
    expected = Quantizer(found.spec, model.left.weight.shape)
    expected.set_range(*ESTIMATORS[name].fit_values(model.left.weight.detach().flatten(1), found.spec))
    assert torch.equal(found.scale, expected.scale)


def test_the_estimator_of_a_quantizer_goes_before_that_of_the_calibration():
    narrow = passes.Calibrate(estimator=Percentile(5, 95))
    first = quantized(net(), images(), activation_estimator=Percentile(5, 95))
    second = quantized(net(), images(), narrow)
    third = quantized(net(), images(), narrow, activation_estimator=MinMax())
    default = quantized(net(), images())
    assert torch.equal(first(images()), second(images())) and torch.equal(third(images()), default(images()))
    assert not torch.equal(first(images()), default(images()))


# -------------------------------------------------------------------------------------------------------- overrides


def test_overrides_change_what_they_say_where_they_say_it():
    overrides = {
        "op:conv2d": QuantizationOptions(per_channel=False, weights=QuantizationSpec(bits=6)),
        "left": QuantizationOptions(weights=QuantizationSpec(bits=4), activation_estimator=Percentile(1, 99)),
        "head": QuantizationOptions(weight_estimator="mse"),
    }
    compiled = quantized(net(), images(), overrides=overrides)
    found = quantizers(compiled)
    bits = {name: (q.spec.bits, q.scale.dim()) for name, q in found.items() if "weight" in name}
    assert bits == {
        "stem_weight_quantizer": (6, 0),
        "left_weight_quantizer": (4, 0),  # of two overrides the later counts, for what it says
        "right_weight_quantizer": (6, 0),
        "head_weight_quantizer": (8, 1),
    }
    assert [q.estimator for name, q in found.items() if name.startswith("relu") and "weight" not in name] == [
        Percentile(1, 99),  # as the left one reads it
        None,  # as the right one does
        None,
    ]


@pytest.mark.parametrize("scope", ["left", "right", "head", "add", "op:conv2d", "stem"])
def test_what_readers_disagree_about_is_what_the_file_computes(scope, tmp_path):
    options = QuantizationOptions(activations=COARSE.activations, activation_estimator="mse", reduce_range=True)
    compiled = quantized(net(), images(), overrides={scope: options})
    assert sum(q.spec.bits == 5 for q in quantizers(compiled).values()) >= 1
    emitted(compiled, images(), tmp_path / "model.onnx")


some_options = st.builds(
    QuantizationOptions,
    weights=st.sampled_from([None, QuantizationSpec(bits=4, group_size=3), QuantizationSpec(bits=6, symmetric=False)]),
    activations=st.sampled_from([None, QuantizationSpec(bits=7, symmetric=False), QuantizationSpec(bits=8)]),
    activation_estimator=st.sampled_from([None, "mse"]),
)


@settings(max_examples=8)
@given(recipe=recipes(), choices=st.data())
def test_whatever_is_overridden_is_what_the_file_computes(tmp_path_factory, recipe, choices):
    x = recipe.inputs(4)
    nodes = capture(recipe.build().eval(), ExampleInputs((x,))).graph.nodes
    scopes = st.lists(st.sampled_from([node.name for node in nodes if node.op == "call_function"]), max_size=4, unique=True)
    overrides = {scope: choices.draw(some_options) for scope in choices.draw(scopes)}
    compiled = quantized(recipe.build(), x, overrides=overrides)
    emitted(compiled, x, tmp_path_factory.mktemp("onnx") / "model.onnx", decibels=25)


def test_an_override_that_says_nothing_changes_nothing():
    same = quantized(net(), images(), overrides={"op:conv2d": QuantizationOptions(), "head": QuantizationOptions()})
    assert torch.equal(same(images()), quantized(net(), images())(images()))


def test_an_override_of_everything_is_the_option_itself():
    options = {
        "weights": QuantizationSpec(bits=5),
        "activations": QuantizationSpec(bits=6, symmetric=False),
        "weight_estimator": "mse",
        "activation_estimator": "percentile",
        "per_channel": False,
    }
    overridden = quantized(net(), images(), overrides={"*": QuantizationOptions(**options)})
    assert torch.equal(overridden(images()), quantized(net(), images(), **options)(images()))


@pytest.mark.parametrize(("ignored", "scope"), [([], "op:relu"), (["head"], "head")])
def test_an_override_of_nothing_is_noted(ignored, scope):
    compiled = quantized(net(), images(), ignored=ignored, overrides={scope: COARSE, "left": COARSE})
    (note,) = [note for note in compiled.report.notes if "override" in note]
    assert scope in note


def test_a_matrix_that_is_transposed_once_for_two_layers_is_quantized_for_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            transposed = self.weight.t()
            return F.linear(F.linear(x, transposed).tanh(), transposed)

    def weights(**options):
        compiled = quantized(Twice(), torch.randn(3, 6), **options)
        called = [quantizers(compiled).get(node.target) for node in compiled.graph.nodes]
        return sorted(q.spec.bits for q in called if q is not None and q.signed)

    three = QuantizationOptions(weights=QuantizationSpec(bits=3))
    assert weights(overrides={"op:linear": three}) == [3]
    assert weights(overrides={"linear": three}) == [3, 8]
    assert weights(ignored=["linear"]) == [8]
    graph = quantized(Twice(), torch.randn(3, 6), ignored=["linear"]).graph
    layers = graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert [layer.args[1].args[0].op for layer in layers] == ["get_attr", "call_module"]


def test_an_override_of_an_embedding_that_stays_in_float_says_how_to_quantize_it():
    compiled = quantized(Words(), WORDS, embeddings=False, overrides={"words": QuantizationOptions(weights=FOUR_BITS)})
    assert [note for note in compiled.report.notes if "embeddings=True" in note]


# --------------------------------------------------------------------------------------------------------- patterns


def test_a_pattern_names_all_that_its_matches_cover():
    x, w, b = var("x w b")
    pattern = op.relu(op.conv2d(x, w, b, ...))
    compiled = quantized(net(), images(), ignored=[pattern])
    assert "stem_weight_quantizer" not in quantizers(compiled) and "x_quantizer" not in quantizers(compiled)
    pointwise = op.conv2d(x, w.where(lambda node: node.meta["val"].shape[-1] == 1), b, ...)
    found = quantizers(quantized(net(), images(), overrides={pointwise: QuantizationOptions(weights=QuantizationSpec(bits=3))}))
    assert [name for name, q in found.items() if q.spec.bits == 3] == ["right_weight_quantizer"]


# ----------------------------------------------------------------------------------------------------------- groups


class Conv1D(nn.Module):
    """Hugging Face's linear layer, whose weight is inputs by outputs."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


LAYERS = {
    "linear": (lambda: nn.Linear(10, 6), (3, 10)),
    "linear of sequences": (lambda: nn.Linear(8, 6), (3, 5, 8)),
    "convolution": (lambda: nn.Conv2d(10, 6, 3, padding=1), (2, 10, 5, 5)),
    "pointwise": (lambda: nn.Conv2d(8, 6, 1), (2, 8, 5, 5)),
    "grouped convolution": (lambda: nn.Conv2d(12, 6, 3, groups=2), (2, 12, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(6, 3, 2, stride=2), (2, 6, 5, 5)),
    "convolution of sequences": (lambda: nn.Conv1d(8, 6, 3), (2, 8, 7)),
    "product": (Product, (3, 10)),
    "GPT-2's": (lambda: Conv1D(10, 6), (3, 5, 10)),
}
INPUT_AXES = {"transposed convolution": 0, "product": 0, "GPT-2's": 0}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "spec",
    [FOUR_BITS, QuantizationSpec(bits=4, symmetric=False, group_size=3), QuantizationSpec(bits=8, group_size=4)],
    ids=["int4", "uint4", "8 bits"],
)
def test_groups_of_inputs_share_a_scale_in_the_file_too(layer, spec, tmp_path):
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    model, x = make(), torch.randn(shape)
    compiled = quantized(model, x, weights=spec)
    (quantizer,) = [q for name, q in quantizers(compiled).items() if "weight" in name]
    axis, weight = INPUT_AXES.get(layer, 1), model.weight.detach()
    expected = list(weight.shape)
    expected[axis] = -(-expected[axis] // spec.group_size)
    assert list(quantizer.scale.shape) == ([6] if layer == "depthwise" else expected)
    assert len([note for note in compiled.report.notes if "no more than a group" in note]) == (layer == "depthwise")
    tensors = emitted(compiled, x, tmp_path / "model.onnx")
    if spec.bits == 4:
        packed = [t for t in tensors.values() if t.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)]
        assert max(len(t.raw_data) for t in packed) <= (weight.numel() * 1.5 + 1) // 2


@given(
    seed=SEEDS,
    shape=st.tuples(*[st.integers(1, 7)] * 2),
    size=st.integers(1, 8),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
def test_a_group_is_quantized_as_a_tensor_of_its_own(seed, shape, size, bits, symmetric):
    torch.manual_seed(seed)
    layer = nn.Linear(*shape, bias=False)
    spec = QuantizationSpec(bits=bits, symmetric=symmetric, signed=symmetric, group_size=size)
    options = QuantizationOptions(weights=spec, weight_estimator="mse").weight
    quantizer = options.quantizer(layer.weight.shape, 0)

    weight = layer.weight.detach()
    quantizer.set_range(*weight_range(weight, quantizer.spec, options.estimator))
    alone = QuantizationSpec(bits=bits, symmetric=symmetric, signed=symmetric)
    for row, found in zip(weight, quantizer(weight)):
        for group, rounded in zip(row.split(size), found.split(size)):
            one = Quantizer(alone)
            one.set_range(*(bound.squeeze(0) for bound in options.estimator.fit_values(group[None], alone)))
            assert torch.equal(one(group), rounded)


# -------------------------------------------------------------------------------------------------------- embeddings


class Words(nn.Module):
    def __init__(self, width: int = 10):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(20, width), nn.Embedding(5, width), nn.Linear(width, 3)
        self.register_buffer("order", torch.arange(5)[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x) + self.places(self.order)))


WORDS = torch.arange(15).view(3, 5)


def test_embeddings_are_quantized_unless_asked_not_to():
    names = {name for name in quantizers(quantized(Words(), WORDS)) if "weight" in name}
    assert names == {"head_weight_quantizer", "words_weight_quantizer", "places_weight_quantizer"}
    one = quantized(Words(), WORDS, embeddings=False, overrides={"words": QuantizationOptions(embeddings=True)})
    assert {name for name in quantizers(one) if "weight" in name} == {"head_weight_quantizer", "words_weight_quantizer"}


@pytest.mark.parametrize(
    "spec",
    ["target", FOUR_BITS, QuantizationSpec(bits=4), QuantizationSpec(bits=3, symmetric=False, group_size=4)],
    ids=["8 bits", "groups", "channels", "asymmetric"],
)
def test_embeddings_of_few_bits_are_looked_up_in_the_file(spec, tmp_path):
    torch.manual_seed(0)
    compiled = quantized(Words(), WORDS, weights=spec, embeddings=True)
    found = quantizers(compiled)
    assert {name for name in found if "weight" in name} == {f"{n}_weight_quantizer" for n in ("words", "places", "head")}
    assert not [name for name in found if name.startswith("x")]
    tensors = emitted(compiled, WORDS, tmp_path / "model.onnx")
    assert all(t.data_type != onnx.TensorProto.FLOAT or np.prod(t.dims) < 100 for t in tensors.values())


def test_a_table_that_is_a_layer_too_is_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(self.words(x))

    torch.manual_seed(0)
    compiled = quantized(Tied(), WORDS, embeddings=True)
    assert len([name for name in quantizers(compiled) if "weight" in name]) == 1
    emitted(compiled, WORDS, tmp_path / "model.onnx")


# ---------------------------------------------------------------------------------------------------- all that a spec says

specs = st.builds(
    QuantizationSpec,
    bits=st.integers(2, 8),
    symmetric=st.just(True),
    signed=st.sampled_from([None, True, False]),
    narrow=st.booleans(),
    group_size=st.sampled_from([None, 3, 4]),
) | st.builds(
    QuantizationSpec,
    bits=st.integers(2, 8),
    symmetric=st.just(False),
    signed=st.sampled_from([None, True, False]),
    group_size=st.sampled_from([None, 3, 4]),
)


@settings(max_examples=30)
@given(weights=specs, activations=specs, embedding=st.booleans(), estimator=st.sampled_from([*ESTIMATORS]), seed=SEEDS)
def test_every_grid_is_the_same_in_the_file(tmp_path_factory, weights, activations, embedding, estimator, seed):
    torch.manual_seed(seed)
    model, x = (Words(), WORDS) if embedding else (nn.Linear(10, 6), torch.randn(4, 10))
    compiled = quantized(
        model,
        x,
        weights=weights,
        activations=replace(activations, group_size=None),
        weight_estimator=estimator,
        activation_estimator=estimator,
        embeddings=True,
    )
    path = compiled.to_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx")
    difference = (compiled(x) - torch.from_numpy(in_onnxruntime(path.read_bytes(), [x])[0])).abs().max()
    assert difference <= 1e-4 * compiled(x).abs().max() + 1e-6


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": 4}, InputError, "weights that is a QuantizationSpec, or that is .target., got 4"),
        ({"activations": "int8"}, InputError, "activations that is a QuantizationSpec"),
        ({"activations": QuantizationSpec(group_size=4)}, InputError, "activations have one scale"),
        ({"activations": QuantizationSpec(channel_axis=1)}, InputError, "activations have one scale"),
        ({"weight_estimator": "minmax"}, InputError, "did you mean 'min_max'"),
        ({"activation_estimator": "percentiles"}, InputError, "did you mean 'percentile'"),
        ({"per_channel": "yes"}, InputError, "per_channel that is True or False"),
        ({"reduce_range": 7}, InputError, "reduce_range that is True or False"),
        ({"embeddings": ["words"]}, InputError, "embeddings that is True or False"),
        ({"weights": FOUR_BITS, "per_channel": False}, InputError, "per_channel=True"),
        ({"weights": FOUR_BITS, "overrides": {"head": QuantizationOptions(per_channel=False)}}, InputError, "group_size"),
        ({"overrides": ["head"]}, InputError, "dict from .* to a QuantizationOptions"),
        ({"overrides": {"head": QuantizationSpec(bits=4)}}, InputError, "dict from .* to a QuantizationOptions"),
        ({"overrides": {"haed": COARSE}}, ScopeError, "did you mean 'head'"),
        ({"overrides": {3: COARSE}}, InputError, "overrides that is a dict from a text, or that is a Pattern"),
        ({"ignored": [torch.nn.Linear]}, InputError, "ignored that is a list, each a text"),
        ({"ignored": "head"}, InputError, r"write \['head'\]"),
        ({"ignored": op.relu(var("x"))}, InputError, r"write \[relu\(x\)\]"),
        ({"ignored": [op.tanh(var("x"))]}, ScopeError, r"pattern tanh\(x\) matches nothing.*no call of tanh"),
        ({"overrides": {op.tanh(op.relu(var("x"))): COARSE}}, ScopeError, "matches nothing"),
    ],
)
def test_bad_options_are_explained(options, error, message):
    with pytest.raises(error, match=message):
        quantized(net(), images(), **options)


def test_what_no_model_could_use_is_refused_before_there_is_one():
    with pytest.raises(InputError, match="did you mean 'min_max'"):
        passes.Quantize(weight_estimator="minmax")
    with pytest.raises(InputError, match="per_channel=True"):
        passes.Quantize(per_channel=False, overrides={"head": QuantizationOptions(weights=FOUR_BITS)})


def activation_quantizers(compiled) -> list[str]:
    return [n.name for n in compiled.graph.nodes if n.name.endswith("_quantizer") and "weight" not in n.name]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("bits", [8, 4])
def test_without_activations_weights_alone_are_quantized_and_the_file_computes_the_same(target, bits, tmp_path):
    x, chosen = images(), [*fxcompress.defaults.post_training()]
    place = [type(one) for one in chosen].index(passes.Quantize)
    chosen[place] = passes.Quantize(weights=QuantizationSpec(bits=bits), activations=None)
    compiled = fxcompress.compile(net(), chosen, data=[x], target=target)
    assert activation_quantizers(compiled) == []
    assert any("weights alone" in note for row in compiled.report.rows for note in row.notes)
    path = compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    for run in (in_openvino, in_onnxruntime):
        assert sqnr(compiled(x), torch.from_numpy(run(path.read_bytes(), [x])[0])) > 80
    ranks = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    integers = {8: onnx.TensorProto.INT8, 4: onnx.TensorProto.INT4}[bits]
    assert list(ranks.values()).count(integers) >= 4


def test_an_override_leaves_the_activations_of_a_scope_in_float():
    overrides = {"head": QuantizationOptions(weights_only=True), "op:add": QuantizationOptions(weights_only=True)}
    whole, part = quantized(net(), images()), quantized(net(), images(), overrides=overrides)
    assert "mean_quantizer" in activation_quantizers(whole) and "mean_quantizer" not in activation_quantizers(part)
    assert part.get_submodule("head_weight_quantizer").enabled


def test_weights_in_float_are_refused_with_what_to_do_instead():
    with pytest.raises(InputError, match="weights"):
        passes.Quantize(weights=None)
