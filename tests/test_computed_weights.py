"""Weights that are computed from parameters: folded after training, and treated like others before."""

import math

import numpy as np
import onnx
import pytest
import torch
from emission import in_openvino
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm

import fxcompress
from fxcompress import passes
from fxcompress.execution.agreement import sqnr
from fxcompress.ir.constants import constants, is_constant
from fxcompress.passes import FoldConstants, PruneFilters, Quantize, Sparsify


class Made(nn.Module):
    """A linear layer from 8 to 12 whose weight, and perhaps bias, `make` computes from its parameters."""

    def __init__(self, make, *shapes, buffers=0):
        super().__init__()
        self.make, self.count = make, len(shapes)
        for number, shape in enumerate(shapes):
            value = torch.randn(shape) / 3
            if number < len(shapes) - buffers:
                self.register_parameter(f"p{number}", nn.Parameter(value))
            else:
                self.register_buffer(f"p{number}", value)

    def forward(self, x):
        return F.linear(x, *self.make(*(getattr(self, f"p{number}") for number in range(self.count))))


def standardized(weight):
    return ((weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True),)


KINDS = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 12)),
    "spectral norm": lambda: spectral_norm(nn.Linear(8, 12)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 12)),  # no operator of ONNX computes it
    "pruning hook": lambda: prune.random_unstructured(nn.Linear(8, 12), "weight", 0.3),
    "standardized": lambda: Made(standardized, (12, 8)),
    "equalized": lambda: Made(lambda w, b: (w * 8**-0.5, b * 0.1), (12, 8), (12,)),
    "slice": lambda: Made(lambda w, b: (w[12:], b[12:]), (24, 8), (24,)),
    "adapter": lambda: Made(lambda w, a, b: (w + b @ a * 0.5,), (12, 8), (2, 8), (12, 2)),
    "joined": lambda: Made(lambda a, b, c: (torch.cat([a, b]), c), (5, 8), (7, 8), (12,)),
    "buffers": lambda: Made(lambda s, w: (w * s,), (12, 1), (12, 8), buffers=1),
    "transposed": lambda: Made(lambda w, s: ((w * s).T,), (8, 12), (12,)),
}


def network(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), KINDS[kind](), nn.ReLU(), nn.Linear(12, 4))
    return model.eval(), torch.randn(32, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_after_training_a_computed_weight_is_an_ordinary_one(kind, tmp_path):
    model, x = network(kind)
    compiled = fxcompress.compile(model, data=[x])
    assert not any(" stay" in note for note in compiled.report.notes)
    assert sqnr(model(x), compiled(x)) > 25
    assert {node.op for node in constants(compiled.graph)} == {"get_attr", "call_module"} | (
        {"call_function"} if kind == "transposed" else set()
    )
    path = compiled.to_onnx(tmp_path / "model.onnx")
    written = onnx.load(path)
    assert sum(one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2 for one in written.graph.initializer) == 3
    assert sqnr(compiled(x), torch.from_numpy(np.array(in_openvino(path.read_bytes(), [x])[0]))) > 60


@pytest.mark.parametrize("kind", ["weight norm", "orthogonal", "equalized", "adapter", "transposed"])
def test_in_training_a_computed_weight_is_pruned_sparse_and_quantized_and_its_parameters_learn(kind, tmp_path):
    model, x = network(kind)
    stack = [PruneFilters(amount=0.25, multiple=1), Sparsify(level=0.3), *fxcompress.defaults.training()]
    compiled = fxcompress.compile(model, stack, data=[x])
    assert not any(" stay" in note and "_4 stay" not in note for note in compiled.report.notes)
    before = {name: value.clone() for name, value in compiled.named_parameters() if name.startswith("2.")}
    assert before.keys() == {name for name, _ in model.named_parameters() if name.startswith("2.")}
    compiled.train()
    compiled(x).square().mean().backward()
    torch.optim.SGD(compiled.parameters(), lr=0.1).step()
    moved = dict(compiled.named_parameters())
    assert all(not torch.equal(moved[name], value) for name, value in before.items())
    compiled.eval()
    path = compiled.to_onnx(tmp_path / "model.onnx")
    integers = {tuple(one.dims) for one in onnx.load(path).graph.initializer if one.data_type == onnx.TensorProto.INT8}
    assert {tuple(sorted(shape)) for shape in integers if len(shape) == 2} == {(6, 6), (6, 9), (4, 9)}
    assert sqnr(compiled(x), torch.from_numpy(np.array(in_openvino(path.read_bytes(), [x])[0]))) > 60


def test_a_weight_that_is_computed_twice_is_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = parametrizations.weight_norm(nn.Linear(6, 6))

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    compiled = fxcompress.compile(Twice().eval(), [Quantize()], data=[torch.randn(4, 6)])
    (weight,) = [node for node in compiled.graph.nodes if node.op == "call_function" and is_constant(node)]
    assert [user.op for user in weight.users] == ["call_module"]
    assert len(next(iter(weight.users)).users) == 2


def test_a_table_that_is_smaller_than_what_is_computed_from_it_stays():
    class Offsets(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(31))
            self.register_buffer("index", (torch.arange(16)[:, None] - torch.arange(16) + 15).to(torch.int16))

        def forward(self, x):
            return x + self.table[self.index.long()]

    compiled = fxcompress.compile(Offsets().eval(), [FoldConstants()], data=[torch.randn(2, 16, 16)])
    assert compiled.report.rows[-1].rewrites == 0


def test_folded_filters_can_be_removed_from_the_model_itself():
    model, x = network("weight norm")
    compiled = fxcompress.compile(model, [PruneFilters(amount=0.25, multiple=1), passes.RemoveFilters()], data=[x])
    assert compiled.get_parameter("4.weight").shape == (4, 9)
    assert not any("original" in name for name in compiled.state_dict())


class Latents(nn.Module):
    """Cross attention of learned latents, which are a sum's operand and, through a layer, the queries."""

    def __init__(self):
        super().__init__()
        self.latents, self.scale = nn.Parameter(torch.randn(3, 8)), nn.LayerNorm(8)
        self.query, self.key, self.up, self.out = nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.key(x)
        x = F.scaled_dot_product_attention(self.query(self.latents).expand(len(x), 3, 8), x, x) + self.latents
        return self.out(self.up(self.scale(x)).relu())


def test_what_weights_are_computed_from_loses_nothing():
    torch.manual_seed(0)
    model, x, prune = Latents().eval(), torch.randn(2, 5, 6), PruneFilters(amount=0.5, multiple=1, summed=True)
    masked, removed = (fxcompress.compile(model, [prune, *rest], data=[x]) for rest in ([], [passes.RemoveFilters()]))
    assert removed.get_parameter("up.weight").shape == (8, 8)
    assert "the filters of key stay: weights are computed from them" in "".join(removed.report.notes)
    torch.testing.assert_close(masked(x), removed(x))


def test_bits_are_chosen_for_weights_that_are_computed():
    model, x = network("weight norm")
    choose = passes.ChooseBits(loss=lambda model, x: model(x).square().mean(), ratio=1.2)
    compiled = fxcompress.compile(model, [Quantize(), choose], data=[x])
    assert any("of 4 bits" in note for note in compiled.report.notes)
    assert "2.parametrizations.weight.original0" in compiled.state_dict()


def test_restoring_precision_and_sizes_count_what_a_file_holds():
    model, x = network("adapter")
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 4))
    sizes = [fxcompress.compile(one.eval(), [Quantize()], data=[x]).report.rows[-1].bytes for one in (model, plain)]
    assert math.isclose(*sizes)
