"""What a compiled model holds: what it computes with, under the names of the user's model, frozen where that was."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


LINEAR = {f"{layer}.{name}" for layer in (7, 9) for name in ("weight", "bias")}
CONV = {"0.weight", "0.bias", "3.weight", "3.bias"}  # the first bias is the norm's
NORMS = {f"{layer}.{name}" for layer in (1, 4) for name in ("weight", "bias")}
FROZEN = {f"{layer}.{name}" for layer in (3, 4) for name in ("weight", "bias")}
REMOVE = [passes.PruneFilters(amount=0.3, multiple=1), passes.RemoveFilters()]
STACKS = {
    "folded": ([passes.FoldBatchNorm()], CONV | LINEAR),
    "pruned": (REMOVE, NORMS | CONV - {"0.bias"} | LINEAR),
    "pruned twice": ([*REMOVE, *REMOVE], NORMS | CONV - {"0.bias"} | LINEAR),
    "pruned, then folded": ([*REMOVE, passes.FoldBatchNorm()], CONV | LINEAR),
    "folded, then pruned": ([passes.FoldBatchNorm(), *REMOVE], CONV | LINEAR),
    "sparse": ([passes.Sparsify(level=0.5), passes.FoldMasks()], NORMS | CONV - {"0.bias"} | LINEAR),
    "equalized": ([passes.FoldBatchNorm(), passes.EqualizeLayers()], CONV | LINEAR),
    "the default": (None, CONV | LINEAR),
    "all at once": (
        [*REMOVE, passes.FoldBatchNorm(), passes.EqualizeLayers(), passes.Quantize(), passes.Calibrate(),
         passes.RoundWeights(), passes.CorrectBias(), passes.RestorePrecision(min_decibels=30)],
        CONV | LINEAR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STACKS)
def test_parameters_are_those_that_are_computed_with_under_their_names(kind, tmp_path):
    """Each gets a gradient; what was frozen is frozen; earlier steps can still be looked at."""
    stack, expected = STACKS[kind]
    model, x = network(), torch.randn(4, 3, 4, 4)
    model[3:5].requires_grad_(False)
    compiled = fxcompress.compile(model, stack, data=[x])
    found = dict(compiled.named_parameters())
    assert found.keys() == expected
    assert {name for name, one in found.items() if not one.requires_grad} == FROZEN & expected
    compiled(x).square().sum().backward()
    assert all(one.grad is not None for one in found.values() if one.requires_grad)
    assert len(compiled.dump(tmp_path)) == 4 * len(compiled.compilation.steps)
    again = fxcompress.compile(model, stack, data=[x])
    again.load_state_dict(compiled.state_dict())
    assert torch.equal(again(x), compiled(x)) and torch.equal(copy.deepcopy(compiled)(x), compiled(x))


def test_of_earlier_steps_only_the_float_model_keeps_its_numbers():
    """That is what sensitivity compares with; of others, and of what lies between, the shapes are left for drawing."""
    model, x = network(), torch.randn(8, 3, 4, 4)
    stack = [
        passes.FoldBatchNorm(),
        passes.EqualizeLayers(),
        passes.Quantize(),
        passes.Calibrate(),
        passes.RoundWeights(columns=None),
    ]
    compiled = fxcompress.compile(model, stack, data=[x])
    compilation, gone = compiled.compilation, compiled.compilation.earlier.gone
    assert torch.allclose(compilation.before_quantizers(compiled)(x), model(x), atol=1e-5)
    read = {str(node.target) for node in compilation.steps[2][1].find_nodes(op="get_attr")}
    tensors = {name: one for name, one in gone.items() if isinstance(one, torch.Tensor)}
    assert {name for name, one in tensors.items() if not one.is_meta} == tensors.keys() & read
    vals = [node.meta["val"] for _, graph in compilation.steps for node in graph.nodes if node.op == "get_attr"]
    assert all(one.is_meta or isinstance(one, FakeTensor) for one in vals)


FOLDED = {
    "nothing": ((), {"weight", "bias"}, False),
    "the weight": (("0.weight",), {"bias"}, True),
    "the layer": (("0.weight", "0.bias"), {"bias"}, True),
    "the norm": (("1.weight", "1.bias"), {"weight", "bias"}, False),
    "the norm's scale and the layer": (("1.weight", "0.weight", "0.bias"), {"bias"}, False),
    "both biases": (("0.bias", "1.bias"), {"weight"}, False),
    "all": (("0.weight", "0.bias", "1.weight", "1.bias"), set(), False),
}


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, bias=False), nn.Linear(3, 4)], ids=str)
@pytest.mark.parametrize("frozen", FOLDED)
def test_a_folded_norm_is_trained_as_its_layer_was_and_what_is_lost_is_told(frozen, layer):
    """The bias is trained where the layer's or the norm's was; a scale that was is lost behind a frozen weight."""
    names, trained, is_told = FOLDED[frozen]
    if layer.bias is None and "1.bias" in names:
        trained = trained - {"bias"}
    convolves = isinstance(layer, nn.Conv2d)
    model = nn.Sequential(copy.deepcopy(layer), nn.BatchNorm2d(4) if convolves else nn.BatchNorm1d(4)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    x = torch.randn(2, 3, 5, 5) if convolves else torch.randn(2, 3)
    compiled = fxcompress.compile(model, [passes.FoldBatchNorm()], example_inputs=x)
    assert {name for name, one in compiled.named_parameters() if one.requires_grad} == {f"0.{name}" for name in trained}
    told = [note for note in compiled.report.rows[-1].notes if "trained scales of 1 batch norms" in note]
    assert bool(told) == is_told


def test_a_weight_that_another_layer_still_reads_keeps_its_name():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) + self.conv(x)

    model, x = Twice().eval(), torch.randn(2, 4, 3, 3)
    compiled = fxcompress.compile(model, [passes.FoldBatchNorm()], example_inputs=x)
    assert torch.equal(compiled.get_parameter("conv.weight"), model.conv.weight)
    assert len(list(compiled.parameters())) == 4
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


class Tied(nn.Module):
    """Two layers of one weight, which a graph reads by one of its names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_a_weight_of_two_names_goes_by_both():
    model, x = Tied().eval(), torch.randn(4, 16)
    sparse = fxcompress.compile(model, [passes.Sparsify(level=0.5), passes.FoldMasks()], example_inputs=x)
    assert sparse.first.weight is sparse.second.weight and (sparse.first.weight == 0).sum() == 128
    assert {name for name, _ in sparse.named_parameters()} == {name for name, _ in model.named_parameters()}
    integers = fxcompress.compile(model, [passes.CompressWeights(bits=8), passes.StoreIntegers()], example_inputs=x)
    assert {name for name, _ in integers.named_parameters()} == {"first.bias", "second.bias"}


def test_a_constant_that_is_no_parameter_becomes_none():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(6, 4, 1, 1))
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x):
            return self.norm(nn.functional.conv2d(x, self.weight))

    compiled = fxcompress.compile(Fixed().eval(), [passes.FoldBatchNorm()], example_inputs=torch.randn(2, 4, 3, 3))
    assert [name for name, _ in compiled.named_buffers()] == ["weight"]
    assert [name for name, _ in compiled.named_parameters()] == ["bias"], "which the norm has trained"


def test_what_the_model_holds_beside_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model.register_buffer("version", torch.tensor(3))
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 3, 4, 4))
    assert compiled.state_dict().keys() == model.state_dict().keys()


def test_training_and_its_checkpoints_work_with_these_names(tmp_path):
    stack = [passes.PruneFilters(flops=0.2, multiple=1, schedule=Polynomial(epochs=2)), passes.Quantize(), passes.Calibrate()]
    x = torch.randn(4, 3, 4, 4)
    compiled = fxcompress.compile(network(), stack, data=[x])
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.01)
    compiled.train()
    compiled.controller.scheduler.epoch_step()
    compiled.controller.scheduler.step()
    compiled(x).square().sum().backward()
    optimizer.step()
    resumed = fxcompress.compile(network(), stack, data=[x])
    resumed.load_checkpoint(compiled.checkpoint())
    for one in (compiled, resumed):
        one.train()
        for _ in range(2):
            one.controller.scheduler.epoch_step()
    assert resumed.controller["PruneFilters"].reached() >= 0.2
    assert all(torch.equal(a, b) for a, b in zip(compiled.state_dict().values(), resumed.state_dict().values()))
