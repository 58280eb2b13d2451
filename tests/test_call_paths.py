"""NNCF's names of operations as scopes: on five architectures, with what is shared, called often, or in place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, ScopeError
from fxcompress.pattern.scopes import select


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(y)
        y += x
        return self.relu(y)


class Residual(nn.Module):
    """As torchvision's ResNet is written: one ReLU for all, additions in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.layer1(F.relu(self.stem(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Listed(nn.Module):
    """As Transformers writes encoders: a list of layers, norms, products of activations."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            scores = torch.softmax(torch.matmul(self.query(x), self.key(x).transpose(-1, -2)), -1)
            return self.norm(scores @ x + x)

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([self.Layer(), self.Layer()])
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 2)})

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.heads["a"](x)


class Shared(nn.Module):
    """One layer called twice, and the same operation many times in one module."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        x = torch.cat([self.layer(x), self.layer(x + 1)], -1)
        return torch.cat([x * 2, x * 3], -1)


class Resized(nn.Module):
    """As segmentation networks: convolutions transposed, resized maps, joins."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        y = F.hardswish(self.down(x))
        return torch.cat([self.up(y), F.interpolate(y, scale_factor=2.0, mode="bilinear")], 1)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.lstm_free = nn.Embedding(10, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.lstm_free(self.words(x)[:, 0])


IMAGES = torch.rand(2, 3, 8, 8)
MODELS = {
    Residual: IMAGES,
    Listed: torch.rand(2, 5, 8),
    Shared: torch.rand(2, 8),
    Resized: IMAGES,
    Embedded: torch.randint(10, (2, 5)),
}
FOUND = [
    (Residual, "Residual/NNCFConv2d[stem]/conv2d_0", ["stem"]),
    (Residual, "Residual/Conv2d[stem]/conv2d_0", ["stem"]),
    (Residual, "Residual/Sequential[layer1]/Block[1]/NNCFConv2d[conv1]/conv2d_0", ["layer1_1_conv1"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/ReLU[relu]/relu__0", ["layer1_0_relu"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/ReLU[relu]/relu__1", ["layer1_0_relu_1"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/ReLU[relu]/RELU_1", ["layer1_0_relu_1"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/__iadd___0", ["layer1_0_add"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/__add___0", ["layer1_0_add"]),
    (Residual, "Residual/Sequential[layer1]/Block[0]/NNCFBatchNorm2d[bn1]/batch_norm_0", ["layer1_0_bn1"]),
    (Residual, "Residual/relu_0", ["relu"]),
    (Residual, "Residual/adaptive_avg_pool2d_0", ["adaptive_avg_pool2d"]),
    (Residual, "/nncf_model_input_0", ["x"]),
    (Residual, r"{re}Residual/NNCFConv2d\[stem\]", ["stem"]),
    (Residual, r"{re}.*Block\[[0-9]\]/NNCFConv2d\[conv1\]", ["layer1_0_conv1", "layer1_1_conv1"]),
    (Residual, r"{re}^Residual/NNCFLinear\[fc\]/.*$", ["fc"]),
    (Listed, "Listed/ModuleList[layers]/Layer[1]/NNCFLinear[query]/linear_0", ["layers_1_query"]),
    (Listed, "Listed/ModuleList[layers]/Layer[0]/matmul_0", ["layers_0_matmul"]),
    (Listed, "Listed/ModuleList[layers]/Layer[0]/__matmul___1", ["layers_0_matmul_1"]),
    (Listed, "Listed/ModuleList[layers]/Layer[0]/softmax_0", ["layers_0_softmax"]),
    (Listed, "Listed/ModuleList[layers]/Layer[0]/NNCFLayerNorm[norm]/layer_norm_0", ["layers_0_norm"]),
    (Listed, "Listed/ModuleDict[heads]/NNCFLinear[a]/linear_0", ["heads_a"]),
    (Shared, "Shared/NNCFLinear[layer]/linear_0", ["layer"]),
    (Shared, "Shared/NNCFLinear[layer]/linear_1", ["layer_1"]),
    (Shared, "Shared/cat_1", ["cat_1"]),
    (Shared, "Shared/__mul___1", ["mul_1"]),
    (Resized, "Resized/NNCFConvTranspose2d[up]/conv_transpose2d_0", ["up"]),
    (Resized, "Resized/interpolate_0", None),
    (Resized, "Resized/cat_0", ["cat"]),
    (Resized, "Resized/hardswish_0", ["hardswish"]),
    (Embedded, "Embedded/NNCFEmbedding[words]/embedding_0", ["words"]),
    (Embedded, "Embedded/Sequential[lstm_free]/GELU[1]/gelu_0", ["lstm_free_1"]),
]


@pytest.fixture(scope="module")
def graphs():
    torch.manual_seed(0)
    return {kind: fxcompress.compile(kind(), [], example_inputs=x, verify=False).graph for kind, x in MODELS.items()}


@pytest.mark.parametrize(("kind", "scope", "names"), FOUND, ids=[scope for _, scope, _ in FOUND])
def test_names_of_nncf_are_found(graphs, kind, scope, names):
    found = select(graphs[kind], [scope])
    assert found and (names is None or sorted(node.name for node in found) == sorted(names))


WRONG = [
    (Residual, "Residual/NNCFConv2d[stm]/conv2d_0", "did you mean .*Residual/NNCFConv2d.stem./conv2d_0"),
    (Residual, "Residual/Sequential[layer1]/Block[7]/NNCFConv2d[conv1]/conv2d_0", r"did you mean .*Block\[1\]"),
    (Residual, "Residual/NNCFConv2d[stem]/conv2d_1", "did you mean"),
    (Residual, r"{re}Conv9d\[", "matches nothing"),
    (Residual, "/nncf_model_input_3", "matches nothing"),
    (Shared, "Shared/cat_2", "did you mean .*Shared/cat_1"),
]


@pytest.mark.parametrize(("kind", "scope", "message"), WRONG, ids=[scope for _, scope, _ in WRONG])
def test_a_name_that_is_none_is_an_error_with_the_nearest(graphs, kind, scope, message):
    with pytest.raises(ScopeError, match=message):
        select(graphs[kind], [scope])
    assert select(graphs[kind], [f"optional:{scope}"]) == set()


def test_an_expression_that_is_none_is_an_error(graphs):
    with pytest.raises(InputError, match="is no regular expression"):
        select(graphs[Residual], ["{re}conv["])


def test_modules_alone_name_all_that_is_called_in_them(graphs):
    found = {node.name for node in select(graphs[Residual], ["Residual/Sequential[layer1]/Block[0]"])}
    assert {"layer1_0_conv1", "layer1_0_add", "layer1_0_relu_1"} <= found and not any("layer1_1" in name for name in found)


def test_what_passes_have_replaced_matches_nothing_and_is_no_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ignored = ["Sequential/NNCFBatchNorm2d[1]/batch_norm_0"]
    compiled = fxcompress.compile(
        model, [passes.FoldBatchNorm(), passes.Quantize(ignored=ignored), passes.Calibrate()], data=[IMAGES]
    )
    assert "quantizer" in compiled.text()


def test_names_are_those_of_the_model_after_passes_too():
    torch.manual_seed(0)
    ignored = ["Residual/Sequential[layer1]/Block[1]/NNCFConv2d[conv1]/conv2d_0"]
    stack = [passes.Sparsify(level=0.5), passes.Quantize(ignored=ignored), passes.Calibrate()]
    text = fxcompress.compile(Residual(), stack, data=[IMAGES]).text()
    assert "layer1_1_conv1_weight_quantizer" not in text and "layer1_0_conv1_weight" in text


def test_the_scopes_of_passes_are_all_that_they_change():
    torch.manual_seed(0)
    model, only = Residual(), ["layer1.0.conv1"]
    x = [IMAGES]
    text = fxcompress.compile(model, [passes.Quantize(scopes=only), passes.Calibrate()], data=x).text()
    assert "layer1_0_conv1_weight_quantizer" in text and "layer1_1_conv1_weight_quantizer" not in text
    masked = fxcompress.compile(model, [passes.Sparsify(level=0.5, scopes=only)], data=x)
    assert [name for name, _ in masked.named_buffers() if name.endswith("mask")] == ["layer1_0_conv1_weight_mask.mask"]


def test_the_grid_of_what_a_place_computes():
    torch.manual_seed(0)
    four = fxcompress.QuantizationOptions(activations=fxcompress.QuantizationSpec(bits=4, symmetric=False))
    place = "Residual/Sequential[layer1]/Block[0]/ReLU[relu]/relu__1|OUTPUT"
    stack = [passes.Quantize(overrides={place: four}), passes.Calibrate()]
    compiled = fxcompress.compile(Residual(), stack, data=[IMAGES])
    bits = {name: one.spec.bits for name, one in compiled.named_modules() if hasattr(one, "spec")}
    assert bits["layer1_0_relu_1_quantizer"] == 4
    assert {name for name, number in bits.items() if number == 4} == {"layer1_0_relu_1_quantizer"}
