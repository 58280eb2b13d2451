"""Where runtimes are at fault, files run as the simulation does: each kind with its siblings, in both, at several batches."""

from __future__ import annotations

import operator
import re
from functools import reduce
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from emission import Call, batches, checked, in_openvino
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.execution.agreement import sqnr
from fxcompress.targets.faults import Fault

ODD = torch.linspace(0.5, 2.0, 9)


class Between(nn.Module):
    """An operation behind one layer and in front of another."""

    def __init__(self, operation, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.operation, self.before, self.after = operation, before, after

    def forward(self, x):
        return self.after(self.operation(self.before(x)))


class Product(nn.Module):
    """What an operation makes of a product of two linear layers, maybe read by a third."""

    def __init__(self, operation, read: bool = False) -> None:
        super().__init__()
        self.operation, self.a, self.b = operation, nn.Linear(6, 6), nn.Linear(6, 6)
        self.c = nn.Linear(9, 5) if read else nn.Identity()

    def forward(self, x):
        return self.c(self.operation(self.a(x) @ self.b(x).transpose(1, 2)))


def compile_here(model: nn.Module, *inputs: Tensor, **options):
    torch.manual_seed(0)
    return fxcompress.compile(
        model.eval(), [passes.FoldBatchNorm(), passes.Quantize(**options), passes.Calibrate()], data=[inputs]
    )


def agree(compiled, *inputs: Tensor) -> bytes:
    """The file of `compiled`, which runs as it does in both runtimes, as they are used, at each batch size."""
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    for batch in batches(inputs):
        with torch.no_grad():
            expected = pytree.tree_leaves(compiled(*batch))
        for run in (in_openvino, optimized):
            for wanted, found in zip(expected, map(torch.from_numpy, run(serialized, batch)), strict=True):
                assert found.shape == wanted.shape
                assert sqnr(wanted, found) > 40, run.__name__
    return serialized


def optimized(serialized: bytes, inputs) -> list:
    """In onnxruntime with its optimizations, as users run it."""
    import onnxruntime

    run = onnxruntime.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    return run.run(None, {held.name: tensor.numpy() for held, tensor in zip(run.get_inputs(), inputs)})


MAXIMA = {
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin((2, 3)),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, 1).flatten(1),
    "whole": lambda x: F.max_pool2d(x, x.shape[2:]).flatten(1),
    "kept": lambda x: x.amax((2, 3), keepdim=True).flatten(1),
    "one by one": lambda x: x.max(3)[0].min(2)[0],
    "relu": lambda x: x.amax((2, 3)).relu(),
    "sigmoid": lambda x: (3 * x.amin((2, 3))).sigmoid(),
    "scaled": lambda x: x.amax((2, 3)) * torch.linspace(-1, 2, 12),
    "shifted and scaled": lambda x: (x.amin((2, 3)) + 1) / torch.linspace(-1, 2, 12),
    "both": lambda x: torch.cat([x.amax((2, 3)), x.amin((2, 3))], 1)[:, 3:15],
}


@pytest.mark.parametrize("operation", MAXIMA.values(), ids=MAXIMA)
def test_a_maximum_before_a_quantizer(operation):
    model = Between(operation, nn.Conv2d(3, 12, 3), nn.Linear(12, 5))
    x = torch.randn(4, 3, 9, 7)
    agree(compile_here(model, x), x)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_maximum_along_any_dimension_before_a_convolution(dim, keepdim):
    model = Between(
        lambda x: x.amax(dim, keepdim).reshape(x.shape[0], 1, -1, 3), nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(1, 5, 1)
    )
    x = torch.randn(4, 3, 9, 12)
    agree(compile_here(model, x), x)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("element", [torch.tanh, F.hardswish, lambda x: x * 0.3])
def test_a_maximum_that_is_moved_before_a_quantizer(element, keepdim):
    model = nn.Sequential(Call(lambda x: element(x.amin(1, keepdim).movedim(-1, 1)).flatten(1, -2)), nn.Linear(2, 5))
    x = torch.randn(4, 3, 2, 6)
    agree(compile_here(model.eval(), x), x)


NUMBERS = torch.linspace(-1, 1, 3)
FEW = QuantizationSpec(bits=4, symmetric=False)  # values are clipped to their range
CLIPPED = {
    "sum": lambda x: (x + NUMBERS).clamp(-0.5, 0.75),
    "difference": lambda x: (x - NUMBERS).clamp(-0.5, 0.75),
    "difference the other way": lambda x: F.hardtanh(NUMBERS - x),
    "product": lambda x: F.relu6(x * NUMBERS),
    "quotient": lambda x: F.hardtanh(x / NUMBERS.add(2)),
    "from above": lambda x: (x - NUMBERS).clamp(max=0.3),
    "from below": lambda x: (x - NUMBERS).clamp(min=-0.3),
    "read twice": lambda x: (x - NUMBERS).clamp(-0.5, 0.75) + x,
    "plain": lambda x: x - NUMBERS,
    "nothing": lambda x: x * 0.0,
    "nothing of some": lambda x: x * torch.tensor([0.0, 1.0, 2.0]),
    "bilinear": lambda x: F.hardtanh(F.bilinear(x, x, torch.ones(3, 3, 3), NUMBERS)),
}


@pytest.mark.parametrize("operation", CLIPPED.values(), ids=CLIPPED)
def test_a_clip_of_what_was_computed_with_numbers_before_a_quantizer(operation):
    x = torch.randn(4, 3)
    agree(compile_here(Between(operation, nn.Identity(), nn.Linear(3, 5)), x, activations=FEW), x)


@pytest.mark.parametrize("bound", [0.3, 0.75])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
def test_a_clip_of_what_was_computed_with_numbers_before_a_convolution(bound, shape):
    numbers = NUMBERS.reshape(shape) if len(shape) > 1 else torch.linspace(-1, 1, 4)
    x = torch.randn(4, 3, 5, 4)
    agree(
        compile_here(
            Between(lambda x: (x - numbers).clamp(-0.5, bound), nn.Identity(), nn.Conv2d(3, 4, 1)), x, activations=FEW
        ),
        x,
    )


SCALINGS = {
    "vector": lambda y: y * ODD,
    "quotient": lambda y: y / ODD,
    "behind a number": lambda y: (y * 0.3 + 1) * ODD,
    "behind a vector": lambda y: (y + ODD) * ODD,
    "behind a relu": lambda y: y.relu() * ODD,
    "twice": lambda y: (y * ODD + 1) * ODD.flip(0),
    "read twice": lambda y: y * ODD + y.exp(),
    "sum behind a relu": lambda y: y.relu() + ODD,
    "difference behind a gelu": lambda y: ODD - F.gelu(y),
    "square": lambda y: y.square() * ODD,
    "itself": lambda y: y * y,
    "sum with itself": lambda y: y + y.sigmoid(),
    "column": lambda y: y * ODD[:, None],
    "batch norm": lambda y: F.batch_norm(y.transpose(1, 2), ODD, ODD, ODD, ODD).transpose(1, 2),
}


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("operation", SCALINGS.values(), ids=SCALINGS)
def test_a_product_of_activations_that_is_scaled(operation, read):
    x = torch.randn(4, 9, 6)
    agree(compile_here(Product(operation, read), x), x)


@pytest.mark.parametrize("operation", SCALINGS.values(), ids=SCALINGS)
def test_a_product_of_two_inputs_of_any_number_of_rows_that_is_scaled(operation):
    class Products(nn.Module):
        def forward(self, a, b):
            return operation(torch.bmm(a, b.mT))

    a, b = torch.randn(4, 9, 3), torch.randn(4, 9, 3)
    agree(compile_here(Products(), a, b), a, b)


TELLING = {
    "ceil": lambda y: y.ceil(),
    "floor": lambda y: (-y).relu().neg().floor(),
    "sign": lambda y: y.sign(),
    "greater": lambda y: (y > 0).float(),
    "at least": lambda y: (y * 2 <= 0).float(),
    "equal": lambda y: (y.abs() == 0).float(),
    "where": lambda y: torch.where(y.relu() > 0, y, 7.0),
    "to booleans": lambda y: y.bool().float(),
    "not": lambda y: y.logical_not().float(),
    "logarithm": lambda y: y.log().clamp(min=-200),
    "reciprocal": lambda y: (y.abs().reciprocal() + 1).reciprocal(),
    "root": lambda y: y.abs().pow(0.05),
    "pooled": lambda y: F.max_pool1d(y.flatten(1)[:, None], 2).sign(),
}
BARE = {"convolution": nn.Conv1d(5, 9, 1, bias=False), "linear": nn.Linear(6, 9, bias=False), "product": None}


@pytest.mark.parametrize("layer", BARE.values(), ids=BARE)
@pytest.mark.parametrize("telling", TELLING.values(), ids=TELLING)
def test_a_sum_of_nothing_is_zero_to_what_tells(telling, layer):
    class Telling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            y = torch.bmm(x, x.mT) if self.layer is None else self.layer(x)
            return telling(y), telling(y.relu())

    x = torch.randn(4, 5, 6) * (torch.arange(4) % 2)[:, None, None]
    compiled = compile_here(Telling(), x)
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    for run in (in_openvino, optimized):
        for wanted, found in zip(compiled(x), map(torch.from_numpy, run(serialized, (x,))), strict=True):
            torch.testing.assert_close(found[::2], wanted.detach()[::2])


def test_nodes_that_are_put_at_one_place_for_two_reasons_have_names_of_their_own():
    model = Call(lambda x: torch.remainder(x @ x.mT, 0.7))
    x = torch.randn(4, 5, 6)
    names = [node.name for node in onnx.load_model_from_string(agree(compile_here(model, x, activations=FEW), x)).graph.node]
    assert len(set(names)) == len(names)


STEPS = torch.linspace(0.5, 2.0, 6)
SCALED = {
    "product": lambda y: y * STEPS,
    "sum": lambda y: y + STEPS,
    "quotient and relu": lambda y: (y / STEPS).relu(),
    "both": lambda y: y * STEPS - STEPS.flip(0),
    "behind a number": lambda y: (y * 3 + 1) * STEPS,
    "moved": lambda y: y.transpose(1, 2).contiguous().transpose(1, 2) * STEPS,
}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("scaled", SCALED.values(), ids=SCALED)
def test_rows_of_a_layer_in_float_that_are_read_again_are_scaled_before_a_quantizer(scaled, joined):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = self.a(x)
            z = self.b(scaled(y))
            return y + z if joined else (y, z)

    x = torch.randn(4, 5, 6)
    agree(compile_here(Residual(), x, ignored=["a"]), x)


ROWS = torch.linspace(0.5, 2.0, 7)
NUMBERS_OF_ROWS = {
    "batch norm": lambda x: F.batch_norm(x, ROWS - 1, ROWS, ROWS, ROWS - 1),
    "product": lambda x: x * ROWS[:, None],
    "product and a step": lambda x: (x * ROWS[:, None]).relu(),
}
REDUCED = {
    "deviation": lambda x: x - x.mean(-1, keepdim=True),
    "variance": lambda x: x.var(-1, keepdim=True),
    "scaled mean": lambda x: x.mean(-1, keepdim=True) * 1.5,
    "largest": lambda x: x.amax(-1, keepdim=True),
}


@pytest.mark.parametrize("numbers", NUMBERS_OF_ROWS.values(), ids=NUMBERS_OF_ROWS)
@pytest.mark.parametrize("reduced", REDUCED.values(), ids=REDUCED)
def test_rows_with_numbers_of_their_own_are_reduced_before_a_product(reduced, numbers):
    class Rows(nn.Module):
        def forward(self, x):
            y = reduced(numbers(x.relu()))
            return torch.bmm(y, y.mT)

    x = torch.randn(5, 7, 3)
    agree(compile_here(Rows(), x), x)


SEVERAL_READERS = {
    "logarithm of softmax": lambda y: 1 + (50 * y).log_softmax(-1),
    "scaled": lambda y: 2 * y - (2 * y).amax(1, keepdim=True),
    "moved": lambda y: (lambda z: z - z.amax(1, keepdim=True))(y.flatten(1)),
    "in parts": lambda y: (lambda a, b: a - b.amax(1, keepdim=True))(*y.split((1, 2), 1)),
}


@pytest.mark.parametrize("operation", SEVERAL_READERS.values(), ids=SEVERAL_READERS)
def test_a_product_of_a_column_that_several_operations_come_to_read(operation):
    class Column(nn.Module):
        def forward(self, x, y):
            return operation(x.transpose(1, 2) @ y)

    inputs = 3 * torch.randn(5, 11, 3), 3 * torch.randn(5, 11, 1)
    activations = QuantizationSpec(symmetric=True, signed=True)
    agree(compile_here(Column(), *inputs, activations=activations), *inputs)


SIZES = {
    "resize": lambda x: F.interpolate(x, size=(13, 11)),
    "resize to another": lambda x: F.interpolate(x, size=x.shape[2:]),
    "zeros": lambda x: torch.cat([x, x.new_zeros(x.shape[0], 2, *x.shape[2:])], 1),
    "ones": lambda x: x + x.new_ones(x.shape[0], 1, *x.shape[2:]),
    "expand": lambda x: x[:, :1].expand(x.shape[0], 5, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "number": lambda x: x * x.shape[0],
    "number and a constant of 0": lambda x: torch.ones(x.shape[0], *x.shape[1:]).cumsum(0) + x,
    "rows": lambda x: x.reshape(x.shape[0] * 4, -1).reshape(x.shape[0], 4, -1),
    "full": lambda x: x * torch.full((x.shape[0], 1, 1, 1), 0.5),
}


@pytest.mark.parametrize("operation", SIZES.values(), ids=SIZES)
def test_a_file_that_reads_its_own_batch_size(operation):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), Call(operation))
    x = torch.randn(4, 3, 12, 12)
    agree(compile_here(model, x), x)


class Pyramid(nn.Module):
    """A text detector's shape: what two joins and convolutions give is resized to what comes from further up."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 8), (8, 10)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in ((18, 8), (14, 6)))
        self.head = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        a = self.stages[0](x).relu()
        b = self.stages[1](F.max_pool2d(a, 2)).relu()
        c = self.stages[2](F.max_pool2d(b, 2)).relu()
        y = F.interpolate(c, size=b.shape[2:], mode="bilinear", align_corners=False)
        y = self.up[0](torch.cat([y, b], 1)).relu()
        y = F.interpolate(y, size=a.shape[2:], mode="bilinear", align_corners=False)
        return self.head(self.up[1](torch.cat([y, a], 1)).relu()).permute(0, 2, 3, 1)


@pytest.mark.parametrize("dynamic_shapes", [None, "auto"])
def test_a_pyramid_that_reads_its_own_sizes_behind_joins(dynamic_shapes):
    x = torch.randn(4, 3, 12, 8)
    torch.manual_seed(0)
    agree(fxcompress.compile(Pyramid().eval(), data=[(x,)], dynamic_shapes=dynamic_shapes), x)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
@pytest.mark.parametrize(("shape", "dim"), [(s, d) for s in ((7, 6), (4, 7, 6), (2, 3, 4, 6)) for d in range(1, len(s) + 1)])
def test_parts_joined_along_any_dimension(shape, dim, layer):
    x = torch.randn(3, *shape)
    join = Call(lambda x: torch.cat([x, x.sigmoid(), x], dim))
    joined = join(x)
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[x.dim()]
    after = nn.Linear(joined.shape[-1], 5) if layer == "linear" else convolution(joined.shape[1], 5, 1)
    compiled = compile_here(nn.Sequential(join, after), x)
    assert not [note for note in compiled.report.notes if "stays in float" in note]
    agree(compiled, x)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_parts_stacked_along_any_dimension(dim):
    x = torch.randn(3, 4, 6)
    join = Call(lambda x: torch.stack([x, x.sigmoid()], dim))
    agree(compile_here(nn.Sequential(join, nn.Linear(join(x).shape[-1], 5)), x), x)


GRIDS = {
    "asymmetric": {"symmetric": False},
    "unsigned": {"signed": False},
    "undecided": {},
    "groups": {"group_size": 2, "signed": True},
    "4 bits, asymmetric": {"bits": 4, "symmetric": False},
    "3 bits": {"bits": 3, "signed": True},
    "4 bits, groups": {"bits": 4, "group_size": 2, "symmetric": False},
}
LAYERS = {
    "inverted bottleneck": (
        lambda: nn.Sequential(
            *(nn.Conv2d(11, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 11, 1))
        ),
        (11, 9, 9),
    ),
    "linear before convolution": (lambda: nn.Sequential(nn.Linear(6, 12), nn.Conv3d(7, 3, (1, 3, 3))), (7, 1, 4, 6)),
    "two linear layers": (lambda: nn.Sequential(nn.Linear(29, 13), nn.ReLU(), nn.Linear(13, 17)), (29,)),
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_weights_on_any_grid(grid, layers):
    make, shape = layers
    x = torch.randn(4, *shape)
    compiled = compile_here(make(), x, weights=QuantizationSpec(**grid))
    agree(compiled, x)
    if grid.get("group_size"):
        assert any("integer kernels read no groups of weights" in note for note in compiled.report.notes)


def test_4_bits_that_integer_kernels_read_become_8_in_the_file():
    x = torch.randn(4, 29)
    compiled = compile_here(nn.Linear(29, 13), x, weights=QuantizationSpec(bits=4, symmetric=False))
    graph = onnx.load_model_from_string(agree(compiled, x)).graph
    (stored,) = (t for t in graph.initializer if t.data_type == onnx.TensorProto.UINT4 and np_size(t) > 13)
    assert np_size(stored) == 29 * 13
    assert [node.op_type for node in graph.node if stored.name in node.input] == ["Cast"]
    assert {"Sub", "QuantizeLinear"} <= {node.op_type for node in graph.node}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(9, 2), (15, 8), (33, 5)])
def test_matrices_of_4_bits_with_an_odd_number_of_rows(symmetric, rows, columns):
    x = torch.randn(4, 3, rows)
    spec = QuantizationSpec(bits=4, symmetric=symmetric)
    agree(compile_here(nn.Linear(rows, columns), x, weights=spec, activations=None), x)


def test_a_layer_of_4_bits_is_no_product_of_activations():
    x = torch.randn(4, 5, 8)
    compiled = compile_here(
        nn.Sequential(nn.Linear(8, 6, bias=False), nn.Linear(6, 5)), x, weights=QuantizationSpec(bits=4, symmetric=False)
    )
    graph = onnx.load_model_from_string(agree(compiled, x)).graph
    (guard,) = (node for node in graph.node if "constant/float32_smallest" in node.input)
    assert guard.output[0] == "_0"


def np_size(tensor) -> int:
    size = 1
    for length in tensor.dims:
        size *= length
    return size


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [None, True])
def test_activations_of_few_bits_are_bytes_in_the_file(bits, symmetric, signed):
    x = torch.randn(6, 9, 31) + (0 if symmetric else 0.7)
    model = nn.Sequential(nn.Linear(31, 20), nn.ReLU(), nn.Linear(20, 3))
    grid = QuantizationSpec(bits=bits, symmetric=symmetric, signed=signed)
    serialized = agree(compile_here(model, x, activations=grid), x)
    types = {t.data_type for t in onnx.load_model_from_string(serialized).graph.initializer}
    assert types.isdisjoint({onnx.TensorProto.INT4, onnx.TensorProto.UINT4})


@pytest.mark.parametrize("transposed", [False, True])
def test_attention_and_4_bits_in_one_file(transposed):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

        def forward(self, x):
            q, k, v = (f(x).reshape(x.shape[0], -1, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            found = (q @ k.transpose(2, 3)).softmax(-1) @ v if transposed else F.scaled_dot_product_attention(q, k, v)
            return self.o(found.transpose(1, 2).flatten(2))

    x = torch.randn(4, 7, 12)
    four = QuantizationSpec(bits=4, signed=True)
    assert onnx.load_model_from_string(agree(compile_here(Attention(), x, weights=four), x)).opset_import[0].version == 21


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(3, 8, 3), nn.Linear(9, 8)], ids=str
)
def test_a_bias_that_is_too_large_for_32_bits(layer, target):
    """Of weights a millionth as large, which what comes behind reads in integers, so that runtimes keep the bias in those."""
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.mul_(1e-6)
        layer.bias.copy_(torch.linspace(-2, 1e5, len(layer.bias)))
    x = torch.rand(4, 3, 9, 9) if not isinstance(layer, nn.Linear) else torch.rand(4, 9)
    behind = nn.Linear(8, 4) if isinstance(layer, nn.Linear) else nn.Conv2d(len(layer.bias), 4, 1)
    one = [passes.Quantize(), passes.Calibrate()]
    compiled = fxcompress.compile(nn.Sequential(layer, nn.ReLU(), behind), one, data=[x], target=target)
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    found = (in_openvino if target == "openvino" else optimized)(serialized, [x])[0]
    assert sqnr(compiled(x), torch.from_numpy(found)) > 80


@pytest.mark.parametrize("stack", [fxcompress.defaults.post_training(), fxcompress.defaults.training()], ids=len)
def test_a_norm_that_scales_by_next_to_nothing_and_shifts_by_one(stack):
    """Folded into the weight, or into its scales, it leaves a bias of more steps than 32 bits count."""
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(8), torch.rand(4, 3, 9, 9)
    with torch.no_grad():
        norm.weight.fill_(1e-5)
        norm.bias.copy_(torch.linspace(-1, 1, 8))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    compiled = fxcompress.compile(model, stack, data=[x], target="onnxruntime")
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    assert sqnr(compiled(x), torch.from_numpy(optimized(serialized, [x])[0])) > 40


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_of_one_place_with_strides_over_padding(convolution):
    layer = convolution(3, 5, 1, stride=2, padding=1)
    x = torch.randn(4, 3, *[6, 7, 5][: layer.weight.dim() - 2])
    agree(compile_here(layer, x), x)
    agree(fxcompress.compile(nn.Sequential(nn.Sigmoid(), layer).eval(), [], example_inputs=x), x)


def test_a_file_in_float_is_written_as_it_is():
    model = Between(MAXIMA["amax"], nn.Conv2d(3, 12, 3), nn.Linear(12, 5))
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 3, 9, 7))
    written = to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults)
    assert [node.op_type for node in written.graph] == ["Conv", "ReduceMax", "Gemm"]


SIX = torch.linspace(-1, 2, 6)
REDUCTIONS = {
    "scaled": lambda x: x.mean(-1) * SIX,
    "shifted": lambda x: x.sum(-1, keepdim=True) + SIX[:, None],
    "rectified": lambda x: F.prelu(x.mean(-1, keepdim=True), SIX),
    "behind a number": lambda x: (x.mean(-1).exp() - 1) * SIX,
    "global": lambda x: F.adaptive_avg_pool1d(x, 1) * SIX[:, None],
    "largest": lambda x: x.amax(-1) * SIX,
}


@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS)
def test_numbers_for_channels_behind_a_reduction_of_rows_in_float(reduction):
    x = torch.randn(4, 6, 7)
    agree(fxcompress.compile(Call(reduction).eval(), [], data=[(x,)]), x)


@pytest.mark.parametrize("reduction", [lambda x: x.mean(-1), lambda x: x.relu().sum(-1), lambda x: F.adaptive_avg_pool1d(x, 1)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_without_a_bias_before_a_reduction_of_rows(reduction, groups):
    layer, x = nn.Conv1d(6, 6, 3, padding=1, groups=groups, bias=False), torch.randn(4, 6, 7)
    agree(compile_here(nn.Sequential(layer, Call(reduction)), x), x)


@pytest.mark.parametrize("reduced", [torch.sum, torch.mean, torch.amax, lambda x, dim: x.long().sum(dim).float()])
@pytest.mark.parametrize(("dim", "shape"), [(2, (24, 1)), (1, (1, 12)), ((1, 2), (1, 6)), (2, (4, 6))])
def test_a_reduction_that_is_reshaped_as_if_it_had_kept_its_dimensions(reduced, dim, shape):
    x = 5 * torch.randn(3, 4, 2, 6)
    model = Call(lambda x: reduced(x, dim=dim).reshape(x.shape[0], *shape).sigmoid())
    agree(fxcompress.compile(model.eval(), [], data=[(x,)]), x)
    agree(compile_here(nn.Sequential(model, nn.Linear(shape[-1], 3)), x), x)


@pytest.mark.parametrize("shape", [(8, 4, 1), (1, 4, 8), (8, 4, 3)])
@pytest.mark.parametrize(
    "moved", [lambda x: x.mT, lambda x: x.movedim(1, -1), lambda x: x.reshape(x.shape[0], 4, -1, 1).relu()]
)
@pytest.mark.parametrize("dim", [1, 2, (1, 2)])
def test_a_reduction_of_what_is_moved(dim, moved, shape):
    x = torch.randn(3, *shape)
    agree(fxcompress.compile(Call(lambda x: moved(x).sum(dim)).eval(), [], data=[(x,)]), x)


def test_a_norm_of_root_mean_squares_is_written_as_runtimes_know_it():
    class Norm(nn.Module):
        def forward(self, x):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * SIX

    compiled = fxcompress.compile(Norm(), [], example_inputs=torch.randn(2, 3, 6))
    written = to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults)
    assert not {"Squeeze", "Unsqueeze"} & {node.op_type for node in written.graph}


ALONG_CHANNELS = {
    "rectified": lambda y: F.prelu(y, torch.linspace(0.1, 0.9, y.shape[1])),
    "scaled": lambda y: y * torch.linspace(0.1, 0.9, y.shape[1]).reshape(-1, *[1] * (y.dim() - 2)),
    "shifted": lambda y: y.relu() + torch.linspace(0.1, 0.9, y.shape[1]).reshape(-1, *[1] * (y.dim() - 2)),
    "along rows": lambda y: y * torch.linspace(0.1, 0.9, y.shape[-2])[:, None],
}


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (2, 1, 1), (2, 3, 2, 1), (3, 3, 3)])
@pytest.mark.parametrize("operation", ALONG_CHANNELS.values(), ids=ALONG_CHANNELS)
def test_numbers_along_another_axis_behind_a_linear_layer(operation, shape, quantized):
    x = torch.randn(4, *shape)
    for width in (1, shape[0]):
        model = nn.Sequential(nn.Linear(shape[-1], width), Call(operation)).eval()
        agree(compile_here(model, x) if quantized else fxcompress.compile(model, [], data=[(x,)]), x)


class Rows(nn.Module):
    """A batch norm of rows."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        nn.init.normal_(self.norm.running_mean), nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("before", [torch.relu, torch.sigmoid, torch.square, lambda x: x.amax(2, keepdim=True).expand_as(x)])
@pytest.mark.parametrize("operation", [*map(Call, ALONG_CHANNELS.values()), Rows()], ids=[*ALONG_CHANNELS, "normalized"])
def test_numbers_along_rows_behind_a_linear_layer_that_reads_no_negative_values(before, operation):
    x = torch.randn(4, 5, 6)
    agree(compile_here(nn.Sequential(Call(before), nn.Linear(6, 7), operation), x), x)


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_computed_twice_is_written_once(apart):
    """A runtime that merges both gives the product a reader that nobody saw."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            product = x.transpose(1, 2) @ x
            return self.layer(product), x.transpose(1, 2) @ x if apart else product

    x = torch.randn(4, 5, 6)
    written = agree(compile_here(Twice(), x), x)
    assert [node.op_type for node in onnx.load_model_from_string(written).graph.node].count("MatMul") == 2


@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_adaptive_maxima_before_a_product(size):
    model = Call(lambda x: (lambda y: y.transpose(-1, -2) @ y)(F.adaptive_max_pool2d(x, 2)))
    x = torch.randn(4, 3, size, 5)
    agree(compile_here(model, x), x)  # whose products are all large


POOLS = {
    "largest": lambda y: F.max_pool2d(y, 3, 1, 1),
    "mean": lambda y: F.avg_pool2d(y, 2),
    "nearest": lambda y: F.interpolate(y, scale_factor=2),
    "linear": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "repeated": lambda y: y.repeat_interleave(2, -1),
    "transposed": lambda y: F.max_pool2d(y.transpose(1, -1), 3, 1, 1),
    "one length": lambda y: F.avg_pool1d(y.flatten(1, 2), 3, 1, 1),
    "normed": lambda y: F.layer_norm(y, y.shape[-1:]),
}
ARITHMETIC = {
    "as it is": lambda y: y,
    "scaled": lambda y: y * 0.5,
    "shifted": lambda y: 1 - y,
    "by numbers": lambda y: y * torch.linspace(0.5, 1, y.shape[-1]),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_outputs_of_a_linear_layer_that_are_pooled(pool, arithmetic, bias):
    x = torch.randn(4, 4, 4, 6)
    agree(compile_here(nn.Sequential(nn.Linear(6, 4, bias=bias), Call(lambda y: pool(arithmetic(y)))), x), x)


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_without_a_bias_before_a_layer_norm(convolution):
    layer = convolution(3, 5, 1, bias=False)
    x = torch.randn(4, 3, *[2, 4, 6][3 - layer.weight.dim() + 2 :])
    agree(compile_here(nn.Sequential(layer, nn.LayerNorm(6)), x), x)


@pytest.mark.parametrize("dims", [1, (1, 2), 2])
@pytest.mark.parametrize("reduction", [torch.mean, torch.sum, torch.amax])
def test_numbers_between_a_reduction_and_a_quantizer(reduction, dims):
    x = torch.randn(4, 5, 6, 6)
    model = nn.Sequential(Call(lambda x: reduction(x, dims) + torch.linspace(-1, 1, 6)), nn.Linear(6, 5))
    agree(compile_here(model, x), x)


def test_numbers_along_another_axis_behind_a_linear_layer_whose_weight_is_computed():
    x = torch.randn(4, 2, 1, 1, 1)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(1, 3)), nn.PReLU(2)).eval()
    agree(compile_here(model, x), x)


def test_every_fault_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "targets.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)) == {fault.name for fault in Fault}


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 6, 8), (4, 2, 6, 8)])
@pytest.mark.parametrize(
    "between", [lambda y, x: y, lambda y, x: 0.5 * y + x, lambda y, x: 30 * y], ids=["bare", "sum", "large"]
)
def test_a_mish_behind_an_attention(shape, between):
    x = torch.randn(shape)
    model = Call(lambda x: F.mish(between(F.scaled_dot_product_attention(x, x, x), x)))
    agree(compile_here(model, x), x)  # squares add up


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 4)])
def test_a_norm_behind_an_attention_that_is_scaled(shape):
    channels = torch.linspace(0.5, 1.5, shape[0])

    def scaled(x):
        found = F.scaled_dot_product_attention(x, x, x)
        return F.batch_norm(found * torch.linspace(0.5, 2, shape[2]), channels - 1, channels), found

    x = torch.randn(4, *shape)
    agree(compile_here(Call(scaled), x), x)


class OfLevels(nn.Module):
    """Layers that read several levels of features, as detectors' heads do."""

    def __init__(self, kind: type[nn.Module], bias: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, 8, 3, stride, 1, bias=bias) for stride in (1, 2, 4))
        self.layers = nn.ModuleList([kind(8, 8, 3, padding=1, bias=bias), nn.Conv2d(8, 4, 1, bias=bias)])

    def forward(self, x):
        return [self.layers[1](self.layers[0](level(x).relu()).relu()) for level in self.levels]


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("bias", [True, False])
def test_biases_are_added_in_the_kernels_of_their_layers(kind, bias):
    x = torch.randn(2, 3, 9, 12)
    core = openvino.Core()
    network = core.compile_model(core.read_model(agree(compile_here(OfLevels(kind, bias), x), x)), "CPU")
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in network.get_runtime_model().get_ops()]
    assert "Eltwise" not in kinds


class Shifted(nn.Module):
    """Numbers are added to what is averaged, with its padding, for a convolution to read."""

    def __init__(self, spatial: int, average) -> None:
        super().__init__()
        kinds = (nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)
        convolution, norm = kinds[spatial - 1]
        self.first, self.norm, self.last = convolution(3, 6, 1), norm(6), convolution(6, 4, 1)
        self.shift, self.average = nn.Parameter(torch.linspace(-1, 2, 6).reshape(6, *[1] * spatial)), average
        nn.init.constant_(self.norm.running_mean, 0.5)

    def forward(self, x):
        normed = self.norm(F.gelu(self.first(x)))
        return self.last(self.average(normed)), self.last(self.average(self.shift - normed))


AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
PADDED = {
    "by itself": lambda average, x: average(x, 3, 1, 1),
    "in front": lambda average, x: average(F.pad(x, [1] * 2 * (x.dim() - 2)), 3, 1),
    "in front of an activation": lambda average, x: average(F.pad(x, [1] * 2 * (x.dim() - 2)).tanh(), 3, 1),
    "rounded up": lambda average, x: average(x, 3, 2, 1, True),
    "by another divisor": lambda average, x: average(x, 3, 2, 1, divisor_override=5),
}


@pytest.mark.parametrize("spatial", AVERAGES)
@pytest.mark.parametrize("padded", PADDED.values(), ids=PADDED)
def test_numbers_that_are_added_in_front_of_an_average_of_padding(padded, spatial):
    if padded is PADDED["by another divisor"] and spatial == 1:
        pytest.skip("an average of rows has no other divisor")
    x = torch.randn(4, 3, *[8] * spatial)
    agree(compile_here(Shifted(spatial, lambda x: padded(AVERAGES[spatial], x)), x), x)


class Moved(nn.Module):
    """What was computed with numbers of its channels is moved to where channels are others, for a linear layer to read."""

    def __init__(self, numbers, move) -> None:
        super().__init__()
        self.first, self.numbers, self.move = nn.Conv2d(3, 8, 3, padding=1), numbers, move
        self.last = nn.LazyLinear(5)

    def forward(self, x):
        return self.last(self.move(self.numbers(F.gelu(self.first(x)))))


def _shifting(norm: nn.Module) -> nn.Module:
    nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias)
    return norm


NUMBERS_OF_CHANNELS = {
    "batch norm": lambda: _shifting(nn.BatchNorm2d(8)),
    "group norm": lambda: _shifting(nn.GroupNorm(2, 8)),
    "product": lambda: Call(lambda x: x * torch.linspace(-1, 2, 8).reshape(8, 1, 1)),
}
MOVED = {
    "patches": lambda x: F.unfold(x, 2),
    "windows": lambda x: x.unfold(3, 2, 2),
    "rows": lambda x: x.reshape(x.shape[0], -1, 2),
    "picked": lambda x: x[:, [3, 1, 0]],
    "first": lambda x: x[..., 0],
    "rolled": lambda x: x.roll(1, 3),
    "smaller": lambda x: F.pixel_unshuffle(x, 2),
}


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("numbers", NUMBERS_OF_CHANNELS.values(), ids=NUMBERS_OF_CHANNELS)
@pytest.mark.parametrize("move", MOVED.values(), ids=MOVED)
def test_numbers_of_channels_in_front_of_what_makes_others_of_them(move, numbers, smoothed):
    x, model = torch.randn(4, 3, 8, 8), Moved(numbers(), move)
    model(x)
    if smoothed:
        agree(fxcompress.compile(model.eval(), data=[x]), x)
    else:
        agree(compile_here(model, x), x)


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("window", [(2, 1, 1), (2, 3, 1), (3, 2, 1), (4, 3, 2)], ids=str)
def test_averages_of_free_sizes_that_are_rounded_up(window, size):
    model = Call(lambda x: F.avg_pool1d(x, *window, ceil_mode=True).tanh())
    compiled = fxcompress.compile(model, [], data=[(torch.randn(2, 3, 12),)])
    agree(compiled, torch.randn(2, 3, size))


COMPUTED = {
    "gathered": lambda t, w: t.gather(0, torch.arange(12).reshape(6, 2) % 6),
    "gathered, a product": lambda t, w: t.gather(0, torch.arange(12).reshape(6, 2) % 6) @ w,
    "of sines": lambda t, w: torch.cat([(torch.arange(6)[:, None] * t).sin(), t.cos()])[2:8],
    "taken along": lambda t, w: torch.take_along_dim(t, t.argsort(0), 0),
    "sorted": lambda t, w: t.sort(0)[0],
    "scattered": lambda t, w: t.scatter(0, torch.arange(12).reshape(6, 2) % 6, t.cumsum(0)),
    "rolled": lambda t, w: t.roll((1, 2), (0, 1)) + torch.eye(6)[:, :2],
}


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
@pytest.mark.parametrize("equation", ["binh,tnh->bnit", "bijh,tih->bijt", "bijh,tih->btij"])
def test_a_product_with_what_is_computed_from_constants(computed, equation):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("table", torch.randn(6, 2, generator=generator))
            self.register_buffer("weight", torch.randn(2, 2, generator=generator))

        def forward(self, x):
            found = computed(self.table, self.weight)
            return torch.einsum(equation, x, found.reshape(3, 2, 2).repeat(1, 1, 4))

    x = torch.randn(4, 2, 2, 8)
    agree(fxcompress.compile(Positions(), [], data=[(x,)]), x)


MEANS = {
    "mean": lambda x: x.mean(-1),
    "kept": lambda x: x.mean(-1, keepdim=True).squeeze(-1),
    "of one": lambda x: x[..., :1].mean(-1),
    "moved": lambda x: x.flip(-1).reshape(-1, 2, 4).mean(-1),
    "step": lambda x: x.mean(-1).relu(),
    "function": lambda x: x.mean(-1).sigmoid(),
    "scaled": lambda x: x.mean(-1) * 2 + 1,
    "pool": lambda x: F.adaptive_avg_pool1d(x, 1).flatten(1),
    "read twice": lambda x: x.mean(-1) + x.mean(-1).tanh(),
    "of columns": lambda x: x.mean(1)[:, :2],
    "of all": lambda x: x.mean((1, 2))[:, None].repeat(1, 2),
    "sum": lambda x: x.flip(-1).sum(-1),
}


@pytest.mark.parametrize("mean", MEANS.values(), ids=MEANS)
@pytest.mark.parametrize("before", [nn.Identity(), nn.Linear(4, 4)], ids=["input", "layer"])
def test_a_mean_of_rows_in_more_samples_than_rows(mean, before):
    x = torch.randn(9, 2, 4)
    agree(compile_here(Between(mean, before, nn.Linear(2, 3)), x), x)


NORMED = {"mean": lambda x: x.mean(-1, keepdim=True), "sum": lambda x: x.sum(-1, keepdim=True)}
NORMED |= {"pool": lambda x: F.adaptive_avg_pool1d(x, 1), "largest": lambda x: x.amax(-1, keepdim=True)}
NORMED |= {"largest, put back": lambda x: x.amax(-1).unsqueeze(-1), "sum, put back": lambda x: x.sum(-1).unsqueeze(-1)}


@pytest.mark.parametrize("reduced", NORMED.values(), ids=NORMED)
@pytest.mark.parametrize("source", [lambda x: F.one_hot((9 * x[..., 0].sigmoid()).long(), 20).float(), lambda x: x.tanh()])
def test_a_norm_behind_a_reduction_that_keeps_its_dimension(source, reduced):
    norm, x = nn.BatchNorm1d(2), torch.randn(9, 2, 4)
    nn.init.uniform_(norm.running_mean, 0.5, 1), nn.init.uniform_(norm.running_var, 0.5, 2)
    agree(fxcompress.compile(nn.Sequential(Call(lambda x: reduced(source(x))), norm).eval(), data=[(x,)]), x)


@pytest.mark.parametrize("stack", [None, []], ids=["default", "float"])
@pytest.mark.parametrize("reduced", NORMED.values(), ids=NORMED)
@pytest.mark.parametrize("between", [F.hardsigmoid, lambda y: (2 * y).tanh() + 1], ids=["step", "steps"])
def test_a_norm_behind_steps_behind_a_reduction(between, reduced, stack):
    norm, x = nn.BatchNorm1d(2), torch.randn(9, 2, 4)
    nn.init.uniform_(norm.running_mean, 0.5, 1), nn.init.uniform_(norm.running_var, 0.5, 2)
    agree(fxcompress.compile(nn.Sequential(Call(lambda x: between(reduced(x))), norm).eval(), stack, data=[(x,)]), x)


IN_BYTES = {
    "product": lambda x: x[:, None] * x[..., None],
    "sum": lambda x: x[:, None] + x.tanh()[..., None],
    "joined": lambda x: torch.cat([x, x.flip(0)], 1)[:, None],
    "leaky ReLU": lambda x: F.leaky_relu(x + x.flip(0))[:, None],
    "mean": lambda x: F.avg_pool1d(x[:, None], 2),
    "mean of all": lambda x: (x[:, None, None] * x[:, :, None, None]).mean((2, 3), keepdim=True).flatten(2),
    "chosen": lambda x: torch.where(x > 0, x, x.flip(0))[:, None],
}


@pytest.mark.parametrize("operation", IN_BYTES.values(), ids=IN_BYTES)
def test_what_is_computed_in_signed_bytes_beside_a_layer_of_4_bits(operation):
    x = torch.randn(6, 6)
    layer = nn.Linear(operation(x).shape[-1], 3)
    signed, four = QuantizationSpec(signed=True), QuantizationSpec(bits=4, symmetric=False)
    agree(compile_here(nn.Sequential(Call(operation), layer), x, weights=four, activations=signed), x)


@pytest.mark.parametrize("stack", [None, []], ids=["default", "float"])
@pytest.mark.parametrize("reduced", NORMED.values(), ids=NORMED)
def test_a_norm_behind_a_reduction_of_what_a_transposed_convolution_computes(reduced, stack):
    norm, x = nn.BatchNorm1d(3), torch.randn(4, 1, 7)
    nn.init.uniform_(norm.running_mean, 0.5, 1), nn.init.uniform_(norm.running_var, 0.5, 2)
    model = nn.Sequential(nn.ConvTranspose1d(1, 3, 2), Call(reduced), norm).eval()
    agree(fxcompress.compile(model, stack, data=[(x,)]), x)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 6])
def test_an_attention_over_rows_of_a_table_with_activations_of_few_bits(bits, symmetric, tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.attention = nn.Embedding(20, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            v = self.rows(x)
            return self.attention(v, v, v)[0]

    torch.manual_seed(0)
    options = {"activations": QuantizationSpec(bits=bits, symmetric=symmetric), "embeddings": False}
    compiled = compile_here(Attention(), torch.randint(0, 20, (5, 2)), **options)
    compiled.to_onnx(tmp_path / "model.onnx", verify="strict")


class Counts(nn.Module):
    """A layer, and beside it arithmetic of whole numbers."""

    def __init__(self, operation):
        super().__init__()
        self.layer, self.operation = nn.Linear(4, 3), operation

    def forward(self, x, ids):
        return self.layer(x), self.operation(ids)


WHOLE = {
    "places": lambda ids: (ids != 0).int().cumsum(1) * 2 + 1,
    "greater": lambda ids: -(ids[:, None] > ids[:, :, None]).long().sum(1),
    "kept": lambda ids: (ids[:, None] * ids[:, :, None]).amax((1, 2), keepdim=True).squeeze(1) - 4,
    "expanded": lambda ids: (ids * 3).clamp(0, 20)[:, None].expand(-1, 2, -1).sum(1) // 5,
    "a chain": lambda ids: reduce(lambda n, step: (n * 3 + step).abs() % 100, range(12), ids),
}


@pytest.mark.parametrize("stages", [[], [passes.Quantize(), passes.Calibrate()]])
@pytest.mark.parametrize("operation", WHOLE)
def test_arithmetic_of_whole_numbers_is_exact_beside_layers(operation, stages):
    inputs = torch.randn(3, 4), torch.randint(9, (3, 6))
    compiled = fxcompress.compile(Counts(WHOLE[operation]).eval(), stages, data=[inputs])
    agree(compiled, *inputs)


FACTORS = torch.tensor([-0.1, 0.3, -0.02, 0.05, 0.2, -0.3])[:, None, None]
SIGNED = {
    "alone": lambda x: FACTORS * x,
    "divided": lambda x: x / FACTORS.clamp(max=-0.02),
    "shifted": lambda x: (x * FACTORS + 1).relu(),
    "pooled": lambda x: F.max_pool2d(x, 2, 1) * FACTORS,
    "normed": lambda x: F.rms_norm(x, x.shape[-1:]) * FACTORS.flatten(),
    "one value": lambda x: x + FACTORS * x.amax(),
    "rows": lambda x: F.linear(x.flatten(2).transpose(1, 2), torch.eye(6)).transpose(1, 2).unflatten(2, (6, 6)) * FACTORS,
}


@pytest.mark.parametrize(
    "after", [nn.Conv2d(6, 4, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 4, 1))]
)
@pytest.mark.parametrize("operation", SIGNED)
def test_factors_of_both_signs_before_a_quantizer(operation, after):
    x = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    agree(compile_here(Between(SIGNED[operation], nn.Identity(), after), x), x)


POSITIVE = FACTORS.abs()[None]
FIRST = {
    "added": lambda x: POSITIVE + x,
    "multiplied": lambda x: POSITIVE * x,
    "both": lambda x: POSITIVE + POSITIVE * x.sin(),
    "behind a layer": lambda x: POSITIVE + F.gelu(F.conv2d(x, torch.eye(6)[:, :, None, None])),
    "three dimensions": lambda x: (POSITIVE.flatten(2) + x.flatten(2)).unflatten(2, (6, 6)),
    "five dimensions": lambda x: (POSITIVE[..., None] * x.unsqueeze(4)).squeeze(4),
}


@pytest.mark.parametrize("operation", FIRST)
def test_numbers_of_channels_that_stand_first(operation):
    x = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    agree(compile_here(Between(FIRST[operation], nn.Identity(), nn.Conv2d(6, 4, 1)), x), x)


FACTORS_OF_PLANES = torch.linspace(0.5, 1.5, 3).view(3, 1, 1)
CONVERTED = {
    "booleans, softmax": ((1 - torch.eye(8)).bool(), lambda x: ((1 - x.float()) * -1e4).softmax(-1)),
    "booleans, padding": (torch.eye(8).bool(), lambda x: F.pad(x.float() * 0.7, (1, 0), value=0.5)),
    "bytes, negative factors": (torch.arange(8, dtype=torch.uint8) * 30, lambda x: x.float() * -FACTORS_OF_PLANES / 100),
}


@pytest.mark.parametrize("what", CONVERTED)
def test_floats_made_of_bytes_and_booleans(what):
    held, operation = CONVERTED[what]
    x = held.expand(2, 3, 8, 8).contiguous()
    agree(compile_here(Between(operation, nn.Identity(), nn.Conv2d(3, 4, 3)), x), x)


@pytest.mark.parametrize("operation", [operator.add, operator.mul])
def test_numbers_of_what_is_cut_from_a_free_length(operation):
    x = torch.randn(5, 4)
    model = Between(lambda x: operation(x[:, :2], torch.tensor([0.5, 1.5])), nn.Identity(), nn.Linear(2, 3))
    agree(compile_here(model, x), x)


class TwoReaders(nn.Module):
    """A layer whose outputs are read as they are, and times factors of both signs."""

    def __init__(self):
        super().__init__()
        self.layer, self.a, self.b = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.layer(x)
        return self.a(x * FACTORS) + self.b(x)


@pytest.mark.parametrize("ignored", [(), ("layer",)])
def test_factors_of_both_signs_behind_a_layer_that_others_read(ignored):
    x = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    agree(compile_here(TwoReaders(), x, ignored=ignored), x)
