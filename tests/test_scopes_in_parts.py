"""Scopes of a model that is compiled in parts: names are the model's, and each has to match in one part."""

import json

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import Config, op, passes, var
from fxcompress.capture import calls_outside
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import ScopeError
from fxcompress.pattern.call_paths import all_names
from fxcompress.pattern.scopes import select


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.bn(self.conv(x))) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.between = nn.Sequential(Block(), Block()), nn.Sequential(nn.Conv2d(4, 4, 1))
        self.heads = nn.ModuleDict({"a": Block(), "b": nn.Sequential(nn.Flatten(), nn.Linear(256, 2))})

    def forward(self, x):
        x = self.between(self.backbone(x)) + x
        return self.heads["a"](x), self.heads["b"](x)


X = torch.rand(2, 4, 8, 8)
PARTS = ["backbone", "heads.a", "heads.b"]


@pytest.fixture(scope="module")
def graphs():
    compiled = fxcompress.compile(Net(), [], example_inputs=X, submodules=PARTS, verify=False)
    return {path: part.graph for path, part in compiled.parts.items()}


def named(graphs, scope):
    return {(path, node.name) for path, graph in graphs.items() for node in select(graph, [scope])}


def test_each_operation_of_the_whole_has_its_name_in_its_part(graphs):
    whole = fxcompress.compile(Net(), [], example_inputs=X, verify=False).graph
    inside = [node for node in whole.nodes if "call" in node.meta and node.meta.get("scope", "").startswith(tuple(PARTS))]
    assert len(inside) > 12
    for node, name in zip(inside, all_names(inside)):
        ((path, _),) = named(graphs, name)
        assert node.meta["scope"].startswith(path)
        assert named(graphs, node.meta["scope"]) >= named(graphs, name)


FOUND = [
    ("backbone.0.conv", {("backbone", "_0_conv")}),
    ("0.conv", {("backbone", "_0_conv")}),
    ("heads.*.conv", {("heads.a", "conv")}),
    ("op:linear", {("heads.b", "_1")}),
    ("Net/ModuleDict[heads]/Block[a]/NNCFConv2d[conv]/conv2d_0", {("heads.a", "conv")}),
    (r"{re}Block\[a\]/.*conv2d", {("heads.a", "conv")}),
    (op.linear(*var("x w b")), {("heads.b", "_1")}),
    ("between", set()),
    ("between.0", set()),
    ("betw*", set()),
    ("Net/Sequential[between]/NNCFConv2d[0]/conv2d_0", set()),
    (r"{re}Sequential\[between\]/", set()),
    ("Net/__add___0", set()),
    (r"{re}^Net/[^/]*add", set()),
    ("optional:nothing", set()),
]


@pytest.mark.parametrize(("scope", "expected"), FOUND, ids=[str(scope) for scope, _ in FOUND])
def test_a_scope_matches_where_it_is_and_is_no_error_elsewhere(graphs, scope, expected):
    assert {one for one in named(graphs, scope) if not one[1].endswith(("weight", "bias"))} == expected


WRONG = [
    ("bakbone.0.conv", r"did you mean .*'backbone\.0\.conv'"),
    ("Net/ModuleDict[heads]/Block[a]/NNCFConv2d[conw]/conv2d_0", r"did you mean .*Block\[a\]/NNCFConv2d\[conv\]/conv2d_0"),
    ("Net/Sequential[betwen]/NNCFConv2d[0]/conv2d_0", "did you mean"),
    (r"{re}Conv9d\[", "matches nothing"),
    ("Net/Sequential[backbone]/__add___0", "did you mean"),
    ("Net/__mul___0", "matches nothing"),
    ("Net/__add___1", "matches nothing"),
    (r"{re}^Net/.*mul", "matches nothing"),
    ("op:conv9d", "did you mean .*op:conv2d"),
    (op.tanh(var("x")), "the pattern"),
]


@pytest.mark.parametrize(("scope", "message"), WRONG, ids=[str(scope) for scope, _ in WRONG])
def test_a_scope_that_matches_in_no_part_is_an_error_with_the_nearest(graphs, scope, message):
    for graph in graphs.values():
        with pytest.raises(ScopeError, match=message):
            select(graph, [scope])


def test_a_file_of_nncf_names_operations_of_a_model_in_parts():
    names = ["Net/Sequential[backbone]/Block[0]/NNCFConv2d[conv]/conv2d_0", r"{re}Block\[a\]"]
    given = {
        "target_device": "TRIAL",
        "compression": [
            {"algorithm": "magnitude_sparsity", "target_scopes": names[0], "params": {"sparsity_target_epoch": 0}},
            {
                "algorithm": "quantization",
                "ignored_scopes": [names[1], "Net/Sequential[between]"],
                "initializer": {
                    "precision": {"bitwidth_per_scope": [[4, f"{names[0]}|WEIGHT"]]},
                    "batchnorm_adaptation": {"num_bn_adaptation_samples": 0},
                },
            },
        ],
    }
    config = Config.parse(json.dumps(given), ".json")
    compiled = fxcompress.compile(Net(), config=config, data=[X], submodules=PARTS)
    assert [name for name, _ in compiled.named_buffers() if name.endswith(".mask")] == [
        "model.backbone._0_conv_weight_mask.mask"
    ]
    bits = {name: one.spec.bits for name, one in compiled.named_modules() if hasattr(one, "spec")}
    assert not any("heads.a" in name for name in bits) and any("heads.b" in name for name in bits)
    assert [name for name, number in bits.items() if number == 4] == ["model.backbone._0_conv_weight_quantizer"]


STACKS = [
    [passes.PruneFilters(scopes=["backbone.0.conv"])],
    [passes.LearnSparsity(scopes=["heads.b"])],
    [passes.Binarize(scopes=["heads.a.conv"])],
    [passes.Quantize(scopes=["heads.b"]), passes.Calibrate(), passes.TrainQuantizers()],
    [passes.Quantize(ignored=["backbone"]), passes.Calibrate(), passes.Distill()],
]


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: type(stack[0]).__name__)
def test_a_part_that_no_scope_names_stays_as_it_is(stack):
    compiled = fxcompress.compile(Net(), stack, data=[X], submodules=PARTS)
    compiled.train()
    sum(y.sum() for y in compiled(X)).backward()
    assert compiled.controller.statistics() is not None


def test_what_a_model_reads_of_a_tensor_is_no_call_and_what_it_calls_in_training_alone_is():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Block()

        def forward(self, x):
            x = self.inner(x).reshape(x.shape[0], -1)
            return x.tanh() if self.training else x * 2

    found = calls_outside(Other(), ExampleInputs((X,)), ["inner"])
    assert found == {"Other": {"Other/reshape_0", "Other/mul_0", "Other/tanh_0"}}
