"""Where the samples of a model's inputs lie, and that data is counted, cut and joined there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.data.batch import Batch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError

QUANTIZE = [passes.Quantize(), passes.Calibrate()]


class Encoder(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)

    def forward(self, x, padding=None):
        return self.layer(x, src_key_padding_mask=padding)


class Step(nn.Module):
    """An image and the step of a diffusion."""

    def __init__(self):
        super().__init__()
        self.conv, self.shift = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(2, 8)

    def forward(self, x, step):
        told = torch.stack([torch.sin(step * 0.1), torch.cos(step * 0.1)], -1)
        return self.conv(x) + self.shift(told).view(-1, 8, 1, 1)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x, scale, flip=False):
        return self.conv(x.flip(3) if flip else x) * scale


class Convolved(nn.Module):
    """Nodes with features, and which of them are neighbours."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(depth))

    def forward(self, adjacency, x):
        for layer in self.layers:
            x = adjacency @ layer(x)
        return x


class Fixed(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.size, self.linear = size, nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(x.view(self.size, 2, 4).flatten(1))


class Recurrent(nn.Module):
    """A sequence comes first, and its order matters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return self.linear(x).cumsum(0)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(50, 16), Encoder(True), nn.Linear(16, 3)

    def forward(self, ids):
        return self.head(self.block(self.embed(ids)).mean(1))


def pictures():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def padded(batch, length):
    mask = torch.zeros(batch, length, dtype=torch.bool)
    mask[0, length // 2 :] = True
    return mask


WHERE = {
    "images": (lambda: nn.Conv2d(3, 4, 3), (torch.randn(4, 3, 8, 8),), (0,)),
    "one image": (lambda: nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 8, 8),), (0,)),
    "an image and a step for all": (Step, (torch.randn(4, 3, 8, 8), torch.tensor(3.0)), (0, None)),
    "an image and a step each": (Step, (torch.randn(4, 3, 8, 8), torch.arange(4.0)), (0, 0)),
    "numbers and flags": (Scaled, (torch.randn(4, 3, 8, 8), 2.0, True), (0, None, None)),
    "sequences second": (lambda: Encoder(True), (torch.randn(4, 10, 16),), (0,)),
    "sequences second, one sample": (lambda: Encoder(True), (torch.randn(1, 10, 16),), (0,)),
    "sequences first": (lambda: Encoder(False), (torch.randn(10, 4, 16),), (1,)),
    "sequences first, one sample": (lambda: Encoder(False), (torch.randn(10, 1, 16),), (1,)),
    "sequences first, with a mask": (lambda: Encoder(False), (torch.randn(10, 4, 16), padded(4, 10)), (1, 0)),
    "as long as the batch is large": (lambda: Encoder(False), (torch.randn(4, 4, 16), padded(4, 4)), (1, 0)),
    "sequences first, constant": (lambda: Encoder(False), (torch.zeros(10, 1, 16),), (1,)),
    "a running sum": (Recurrent, (torch.randn(7, 5, 6),), (1,)),
    "a graph": (lambda: Convolved(2), (torch.rand(7, 7), torch.randn(7, 5)), (None, None)),
    "a fixed batch": (Fixed, (torch.randn(32, 8),), (None,)),
}


@pytest.mark.parametrize("name", WHERE)
def test_where_the_samples_lie(name):
    build, inputs, expected = WHERE[name]
    torch.manual_seed(0)
    graph = capture(build().eval(), ExampleInputs(inputs)).graph
    assert Batch.of(graph).dimensions == expected


BATCHES = {
    "a fixed batch": (Fixed, [torch.randn(32, 8) for _ in range(12)]),
    "a fixed batch and a smaller one": (Fixed, [torch.randn(32, 8), torch.randn(3, 8)]),
    "sequences first": (lambda: Encoder(False), [torch.randn(10, 3, 16) for _ in range(8)]),
    "sequences first, masked": (lambda: Encoder(False), [(torch.randn(10, n, 16), padded(n, 10)) for n in (3, 2, 5)]),
    "another step each": (Step, [(torch.randn(2, 3, 8, 8), torch.tensor(float(step))) for step in range(5)]),
    "numbers and flags": (Scaled, [(torch.randn(2, 3, 8, 8), 2.0, True) for _ in range(5)]),
    "a flag by name": (Scaled, [{"x": torch.randn(2, 3, 8, 8), "scale": 2.0, "flip": False} for _ in range(5)]),
    "a graph": (lambda: Convolved(1), [(torch.rand(7, 7), torch.randn(7, 5)) for _ in range(5)]),
    "a deep graph": (lambda: Convolved(2), [(torch.rand(7, 7), torch.randn(7, 5)) for _ in range(50)]),
}


class Jumps(nn.Module):
    """A few values of each sample of `x` lie where rounding decides to which side of a jump they fall."""

    def __init__(self, x):
        super().__init__()
        self.layer = nn.Linear(x.shape[-1], 200)
        with torch.no_grad():
            for number, sample in enumerate(x[:, 0]):
                some = slice(12 * number, 12 * (number + 1))
                self.layer.bias[some] = 3 - (self.layer.weight.double() @ sample.double()).float()[some]

    def forward(self, x):
        return self.layer(x).floor()


class Shaken(Jumps):
    """What the kernels of some CPUs make of it in a batch of another size, made certain."""

    def forward(self, x):
        return (self.layer(x) - (x.shape[0] - 1) * 1e-6).floor()


@pytest.mark.parametrize("kind", [Jumps, Shaken])
def test_a_value_at_a_jump_does_not_hide_the_batch(kind):
    x = torch.randn(4, 3, 64)
    torch.manual_seed(1)
    model = kind(x).eval()
    dimensions = {"x": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    compiled = fxcompress.compile(model, [], example_inputs=x, dynamic_shapes=dimensions)
    assert Batch.of(compiled.graph) == Batch((0,))


class Loosely(nn.Module):
    """Some of the values of each sample are those of the largest sample."""

    def forward(self, x):
        return torch.cat([x[:, :-1], x[:, -1:].amax(0, keepdim=True).expand(x.shape[0], 1)], 1)


class Opposite(nn.Module):
    """Each sample sees the one at its place from the end."""

    def forward(self, x):
        return x + x.flip(0)


@pytest.mark.parametrize("kind", [Loosely, Opposite])
@pytest.mark.parametrize("sign", [1, -1])
def test_samples_that_see_a_little_of_one_another_are_no_batch(kind, sign):
    compiled = fxcompress.compile(kind(), [], example_inputs=sign * torch.arange(60.0).reshape(3, 20))
    assert Batch.of(compiled.graph).dimensions[0] != 0


@pytest.mark.parametrize("name", BATCHES)
def test_data_of_any_form_compiles(name, tmp_path):
    build, data = BATCHES[name]
    torch.manual_seed(0)
    compiled = fxcompress.compile(build().eval(), [*fxcompress.defaults.post_training(), passes.CorrectBias()], data=data)
    assert compiled.report.rows[-1].decibels > 25
    assert compiled.to_onnx(tmp_path / "model.onnx").exists()


def test_batches_of_another_size_than_the_fixed_one_are_left_out_and_told():
    compiled = fxcompress.compile(Fixed(), QUANTIZE, data=[torch.randn(32, 8), torch.randn(3, 8), torch.randn(32, 8)])
    assert "the model takes 32 samples at a time, as it was traced, not 3" in str(compiled.report.notes)
    assert "64 samples" in str(compiled.report.notes)
    with pytest.raises(InputError, match="no batch of the data can be run: the model takes 32 samples"):
        fxcompress.compile(Fixed(), QUANTIZE, example_inputs=torch.randn(32, 8), data=[torch.randn(3, 8)])


SIZES = {
    "lengths": (Tokens, [torch.randint(50, (2, n)) for n in (5, 9, 7, 7, 12)], {0: Dim("batch"), 1: Dim("length")}),
    "lengths, found out": (Tokens, [torch.randint(50, (2, n)) for n in (5, 9, 7)], {0: Dim.AUTO, 1: Dim.AUTO}),
    "images": (pictures, [torch.randn(2, 3, n, n + 4) for n in (8, 16, 12)], {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}),
    "images, one at a time": (pictures, [torch.randn(1, 3, n, n + 4) for n in (8, 16, 12)], {2: Dim.AUTO, 3: Dim.AUTO}),
}


@pytest.mark.parametrize("name", SIZES)
def test_data_of_several_sizes_with_dynamic_shapes(name):
    build, data, shapes = SIZES[name]
    torch.manual_seed(0)
    everything = [*fxcompress.defaults.post_training(), passes.CorrectBias(), passes.LearnRounding(iterations=2)]
    compiled = fxcompress.compile(build().eval(), everything, data=data, dynamic_shapes=(shapes,))
    assert compiled.report.rows[-1].decibels > 20
    assert f"{sum(map(len, data))} samples" in str(compiled.report.notes)


def test_other_sizes_of_pictures_without_dynamic_shapes_are_explained():
    with pytest.raises(InputError, match=r"expected the shape \[batch, 3, 8, 8\], got \[2, 3, 8, 9\]; dynamic_shapes='auto'"):
        fxcompress.compile(pictures().eval(), QUANTIZE, data=[torch.randn(2, 3, 8, n) for n in (8, 9)])


@pytest.mark.parametrize("samples", [1, 2])
def test_lengths_are_free_by_default(samples):
    data = [torch.randint(50, (samples, n)) for n in (5, 9, 7)]
    compiled = fxcompress.compile(Tokens().eval(), QUANTIZE, data=data)
    for batch, length in ((3, 4), (1, 12)):
        assert compiled(torch.randint(50, (batch, length))).shape[0] == batch


def test_a_number_that_changes_is_no_constant():
    data = [(torch.randn(2, 3, 8, 8), 2.0), (torch.randn(2, 3, 8, 8), 3.0)]
    with pytest.raises(InputError, match=r"inputs\[1\].*2.0 was taken for a constant, and is 3.0 here"):
        fxcompress.compile(Scaled(), QUANTIZE, data=data)


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_what_is_split_joins_to_the_same(data, count, size):
    dimensions = data.draw(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=4).filter(any_free))
    batch = Batch(tuple(dimensions))
    leaves = [torch.randn([count if d == axis else 3 for axis in range(3)]) for d in dimensions]
    pieces = list(batch.split(leaves, size))
    assert [batch.count(piece) for piece in pieces] == [min(size, count - start) for start in range(0, count, size)]
    assert all(batch.fit_together(pieces[0], piece) for piece in pieces)
    assert all(torch.equal(a, b) for a, b in zip(leaves, batch.join(pieces), strict=True))


def any_free(dimensions):
    return any(d is not None for d in dimensions)


def test_what_samples_share_must_be_the_same():
    batch = Batch((0, None))
    x, step = torch.randn(2, 3), torch.tensor(1.0)
    assert batch.fit_together([x, step], [x[:1], step.clone()])
    assert not batch.fit_together([x, step], [x, step + 1])
    assert not batch.fit_together([x, True], [x, False])
    assert not batch.fit_together([x, step], [torch.randn(2, 4), step])
    assert not Batch((None,)).fit_together([x], [x])


class Running(nn.Module):
    """What no file computes along a free size."""

    def forward(self, x):
        return x.cumprod(1)


def test_lengths_are_fixed_where_no_file_can_have_them_free(tmp_path):
    x = torch.randn(2, 5)
    compiled = fxcompress.compile(Running(), [], example_inputs=x)
    assert "lengths are fixed to those of the example inputs" in str(compiled.report.notes)
    compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
    assert compiled(torch.randn(3, 5)).shape == (3, 5)


@pytest.mark.parametrize("dynamic_shapes", [None, "auto"])
@pytest.mark.parametrize("drops", [lambda x: x.squeeze(), lambda x: x[0] if len(x) == 1 else x], ids=["squeezed", "asked"])
def test_one_sample_of_which_the_model_makes_something_else_fixes_the_batch(tmp_path, drops, dynamic_shapes):
    class Model(nn.Module):
        def forward(self, x):
            return drops(x) + 1

    x = torch.randn(1, 3, 5)
    compiled = fxcompress.compile(Model(), [], data=[(x,)], dynamic_shapes=dynamic_shapes)
    assert torch.equal(compiled(x), x[0] + 1)
    assert "something else of one sample" in str(compiled.report)
