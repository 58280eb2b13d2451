"""A layer that a model calls several times is one layer behind every pass, in training and in the file."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxcompress
from fxcompress import passes


class Encoder(nn.Module):
    """An encoder of two inputs, whose last block runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.scale, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)

    def encode(self, x):
        x = self.norm(self.conv(x)).relu().amax(2).transpose(1, 2)
        for _ in range(2):
            x = x + self.down(F.gelu(self.up(self.scale(x))))
        return x

    def forward(self, x, y):
        return self.encode(x) - self.encode(y)


def _model_and_data():
    torch.manual_seed(0)
    model, data = Encoder(), [(3 * torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)) for _ in range(8)]
    with torch.no_grad():
        for pair in data:
            model(*pair)
        model.up.weight[3] *= 20  # a channel that stands out, for each call in another place and by another factor
        model.scale.bias[5] += 4
    return model.eval(), data


STACKS = {
    "FoldBatchNorm": [passes.FoldBatchNorm()],
    "SplitChannels": [passes.SplitChannels(channels=8)],
    "SmoothActivations": [passes.SmoothActivations()],
    "default": None,
    "training": fxcompress.defaults.training(),
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_calls_of_one_layer_share_its_weights_and_the_file_has_them_once(stack, tmp_path):
    model, data = _model_and_data()
    compiled = fxcompress.compile(model, stack, data=data)
    report = str(compiled.report)
    assert {name for name, _ in compiled.named_parameters() if "quantizer" not in name} <= {
        name for name, _ in model.named_parameters()
    }
    assert stack is not None or "SplitChannels(): 1 of 1 changes" in report or "SmoothActivations(): " in report
    compiled.to_onnx(tmp_path / "model.onnx")
    weights = [one for one in onnx.load(tmp_path / "model.onnx").graph.initializer if len(one.dims) > 1 and max(one.dims) >= 16]
    assert len(weights) == 3, [(one.name, one.dims) for one in weights]


class Tied(nn.Module):
    """Two products with one matrix, the second time with its transpose, or not."""

    def __init__(self, transposed):
        super().__init__()
        self.scale, self.weight, self.fc = nn.LayerNorm(16), nn.Parameter(torch.randn(16, 16)), nn.Linear(16, 16)
        self.transposed = transposed

    def forward(self, x):
        x = F.gelu(F.linear(self.scale(x) * 2, self.weight))
        return self.fc(F.linear(x, self.weight.T if self.transposed else self.weight).tanh())


@pytest.mark.parametrize(
    ("one", "transposed"), [(passes.SmoothActivations(), True), (passes.SplitChannels(channels=8, gain=1.0), False)], ids=str
)
def test_a_weight_that_calls_read_in_different_ways_stays_as_it_is(one, transposed):
    torch.manual_seed(0)
    model, data = Tied(transposed).eval(), [torch.randn(4, 5, 16) * torch.linspace(0.1, 30, 16) for _ in range(4)]
    compiled = fxcompress.compile(model, [one], data=data)
    assert "other calls read the weights of these, which stay: " in "".join(compiled.report.rows[-1].notes)
    assert torch.equal(compiled.weight, model.weight)


@pytest.mark.parametrize("count", [1, 2])
def test_norms_of_their_own_behind_one_convolution_part_it_and_that_is_told(count):
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            norms = [nn.BatchNorm2d(4) for _ in range(count)]
            self.conv, self.heads = nn.Conv2d(3, 4, 3), nn.ModuleList([*norms, nn.Sigmoid()][:2])
            norms[-1].running_var.mul_(4)

        def forward(self, x):
            return [head(self.conv(x + place)) for place, head in enumerate(self.heads)]

    compiled = fxcompress.compile(Heads().eval(), [passes.FoldBatchNorm()], data=[torch.randn(2, 3, 8, 8)])
    assert "so there are several of conv.bias, conv.weight, each" in " ".join(compiled.report.rows[-1].notes)


class Twice(nn.Module):
    """One layer of two inputs, whose channels say different things."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 8, 3)

    def forward(self, x, y):
        return self.conv(x), self.conv(y)


@pytest.mark.parametrize("one", [passes.RoundWeights(biases=True), passes.LearnRounding(), passes.CorrectBias()], ids=str)
def test_a_layer_that_is_called_twice_is_mended_once_for_both(one):
    torch.manual_seed(0)
    model, mixed = Twice().eval(), torch.randn(2, 6, 6) / 2
    data = [[torch.einsum("bchw,dc->bdhw", torch.randn(8, 6, 6, 6), m) + 1 for m in mixed] for _ in range(12)]
    stack = [passes.Quantize(weights=fxcompress.QuantizationSpec(bits=3)), passes.Calibrate()]
    errors = []
    for mends in ([], [one]):
        where = 1 if isinstance(one, passes.RoundWeights) else 2
        compiled = fxcompress.compile(model, [*stack[:where], *mends, *stack[where:]], data=data)
        with torch.no_grad():
            errors.append([(a - b).square().mean() for a, b in zip(compiled(*data[-1]), model(*data[-1]))])
    assert all(after < 0.8 * before for before, after in zip(*errors)), errors
    assert len([name for name, _ in compiled.named_parameters() if name.startswith("conv")]) == 2


def test_a_weight_that_another_layer_reads_is_not_rounded_for_one_of_them():
    class Tied(nn.Linear):
        def forward(self, x):
            return F.linear(super().forward(x).relu(), self.weight)

    compiled = fxcompress.compile(Tied(16, 16), [passes.Quantize(), passes.RoundWeights()], data=[torch.randn(4, 5, 16)] * 4)
    assert "other calls read the weights of these, which stay: linear" in compiled.report.rows[-1].notes
