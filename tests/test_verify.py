"""The law of equal bits, where a graph names the type that it computes in."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from emission import Call
from torch import nn

import fxcompress
from fxcompress import Effect, Pass, QuantizationSpec, passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.verify import SAME_IN_DOUBLE, _agreement_in_double
from fxcompress.errors import VerificationError
from fxcompress.execution.agreement import sqnr
from fxcompress.ir.edit import insert_constant
from fxcompress.rewrite.rule import Replacement


class Net(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(7, 5)

    def forward(self, x):
        return self.linear(x.float() * self.factor) + torch.arange(5, dtype=torch.float32)


def test_a_graph_that_names_a_type_is_compared_in_double_precision():
    example = ExampleInputs((torch.randint(0, 20, (5, 7)),))
    torch.manual_seed(0)
    graph = capture(Net(0.1).eval(), example)
    torch.manual_seed(0)
    other = capture(Net(0.1 + 1e-9).eval(), example)
    assert _agreement_in_double([graph, graph], example) == math.inf
    assert 150 < _agreement_in_double([graph, other], example) < 190  # float32 would see none of it, or a rounding


class Detections(nn.Module):
    """The best of many places, as a detector without suppression returns them: scores of background are nearly the same."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x):
        y = self.norm(self.conv(x)).flatten(2)
        scores, boxes = torch.sin(y[:, 0] * 1e5), y[:, 1:]  # a deep network moves them as much
        best, index = scores.topk(50)
        return best, boxes.gather(2, index[:, None].expand(-1, 4, -1)), boxes


@dataclass(frozen=True, kw_only=True)
class Nudge(Pass):
    """Adds a little to the first weight that it meets: 70 dB."""

    effect: ClassVar[Effect] = Effect.ROUNDING

    def run(self, graph_module, context):
        (node,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
        weight = graph_module.get_parameter(str(node.args[1].target)).detach()
        weight = nn.Parameter(weight + 3e-4 * weight.std() * torch.randn_like(weight))
        made = insert_constant(graph_module, "nudged", weight, before=node, created_by=self.name)
        node.update_arg(1, made)
        return [Replacement.at(node)]


def test_what_the_model_itself_decides_by_last_bits_a_pass_may_change():
    torch.manual_seed(0)
    model, x = Detections().eval(), torch.randn(2, 3, 40, 40)
    model.norm.running_var.uniform_(0.5, 2)
    compiled = fxcompress.compile(model, [fxcompress.passes.FoldBatchNorm()], data=[x])
    assert compiled.report.rows[-1].decibels < 80
    with pytest.raises(VerificationError, match="Nudge promised at least 80 dB"):
        fxcompress.compile(model, [Nudge()], data=[x])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_grid_that_is_trained_is_one_of_single_precision(seed, symmetric):
    torch.manual_seed(seed)
    specs = {"weights": QuantizationSpec(bits=4, signed=True), "activations": QuantizationSpec(symmetric=symmetric)}
    stack = [passes.Quantize(**specs), passes.Calibrate(), passes.TrainQuantizers()]
    compiled = fxcompress.compile(nn.Linear(4, 3), stack, data=[(torch.randn(5, 4),)]).eval()
    example = compiled.compilation.example
    lowered = compiled.lower()
    assert _agreement_in_double([compiled, lowered], example) >= SAME_IN_DOUBLE


@pytest.mark.parametrize("seed", range(6))
def test_a_weight_that_is_computed_once_is_one_of_single_precision(seed):
    """Beside what makes a library add up in another order: a tensor that lies elsewhere."""
    torch.manual_seed(551399 + seed)
    model, x = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)).eval(), torch.randn(5, 2, 2, 3)
    moved = nn.Sequential(Call(lambda x: x.transpose(1, 2)), model)
    compiled = fxcompress.compile(moved, [passes.FoldConstants()], data=[(x,)])
    assert sqnr(moved(x), compiled(x)) > 120


class Nothing(nn.Module):
    """The mean of what has mean zero: nothing but rounding."""

    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.EmbeddingBag(20, 13, mode="sum"), nn.InstanceNorm1d(1)

    def forward(self, x):
        return F.adaptive_avg_pool1d(self.norm(self.words(x).unsqueeze(1)), 1)


@pytest.mark.parametrize("seed", range(3))
def test_outputs_of_nothing_but_rounding_are_no_finding(seed):
    torch.manual_seed(seed)
    compiled = fxcompress.compile(Nothing().eval(), [], data=[torch.randint(0, 20, (5, 7))])
    assert isinstance(compiled, fxcompress.Compiled)  # whole


@pytest.mark.parametrize("size", [1e38, 1.0])
def test_outputs_that_are_no_numbers_any_more_are_an_error_of_every_pass(size):
    """Ranges of calibration can be wider than the largest number, though neither end is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    data = [torch.randn(4, 8) * size]
    if size == 1:
        assert fxcompress.compile(model, data=data)(data[0]).isfinite().all()
        return
    with pytest.raises(VerificationError, match="Calibrate makes NaN of an output"):
        fxcompress.compile(model, data=data)
