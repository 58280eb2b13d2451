"""Every operation in every spelling, through every entry, gives the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipes import ACTIVATIONS, ADDITIONS, FLATTENINGS, PRODUCTS
from torch import nn
from torch.export import Dim, export

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir import dialect

SHAPES = {
    "image": (2, 4, 6, 6),
    "rows": (2, 8),
    "others": (2, 8),
    "tokens": (2, 5, 8),
    "spot": (2, 4, 1, 1),
    "left": (2, 3, 4),
    "right": (2, 4, 5),
}


class State(nn.Module):
    """The parameters and statistics that the spellings of one operation share."""

    def __init__(self, **tensors: torch.Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            if name.startswith("running"):
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))


def functions(table: dict[str, Callable[..., Any]]) -> list[Callable[..., Any]]:
    return list(table.values())


NORM = {"weight": torch.rand(4) + 0.5, "bias": torch.randn(4)}
STATISTICS = {"running_mean": torch.randn(4), "running_var": torch.rand(4) + 0.5}
CONV = {"weight": torch.randn(6, 4, 3, 3), "bias": torch.randn(6)}
LINEAR = {"weight": torch.randn(3, 8), "bias": torch.randn(3)}

# name: (inputs, parameters, spellings). A spelling is a function of its inputs, of the state and its inputs where there
# are parameters, or makes a module.
SPELLINGS: dict[str, tuple[tuple[str, ...], dict[str, torch.Tensor], list[Callable[..., Any]]]] = {
    **{name: (("image",), {}, functions(table)) for name, table in ACTIVATIONS.items()},
    "add": (("rows", "others"), {}, functions(ADDITIONS)),
    "mul": (("rows", "others"), {}, functions(PRODUCTS)),
    "add number": (("rows",), {}, [lambda x, f=f: f(x, 2) for f in ADDITIONS.values()] + [lambda x: 2 + x]),
    "mul number": (("rows",), {}, [lambda x, f=f: f(x, 2.0) for f in PRODUCTS.values()] + [lambda x: 2 * x]),
    "sub": (
        ("rows", "others"),
        {},
        [
            lambda x, y: x - y,
            torch.sub,
            torch.subtract,
            lambda x, y: x.sub(y),
            lambda x, y: x.sub_(y),
            lambda x, y: torch.rsub(y, x),
        ],
    ),
    "div": (
        ("rows", "others"),
        {},
        [
            lambda x, y: x / y,
            torch.div,
            torch.true_divide,
            torch.divide,
            lambda x, y: x.div_(y),
            lambda x, y: torch.div(x, y, rounding_mode=None),
        ],
    ),
    "square": (("rows",), {}, [torch.square, lambda x: x**2, lambda x: x.pow(2), lambda x: x.square_(), lambda x: x.pow_(2)]),
    "neg": (("rows",), {}, [torch.neg, torch.negative, lambda x: -x, lambda x: x.neg_()]),
    "abs": (("rows",), {}, [torch.abs, torch.absolute, abs, lambda x: x.abs_()]),
    "ge": (("rows",), {}, [lambda x: (x >= 1.5) * x, lambda x: torch.ge(x, 1.5) * x, lambda x: x.greater_equal(1.5) * x]),
    "softmax": (
        ("tokens",),
        {},
        [
            lambda: nn.Softmax(-1),
            lambda x: F.softmax(x, 2),
            lambda x: torch.softmax(x, -1),
            lambda x: x.softmax(dim=-1),
            lambda x: torch.special.softmax(x, 2),
        ],
    ),
    "flatten": (("image",), {}, [*functions(FLATTENINGS), lambda x: x.reshape(-1, 144), lambda x: x.flatten(-3)]),
    "reshape": (
        ("tokens",),
        {},
        [
            lambda x: x.view(x.shape[0], 5, 2, 4),
            lambda x: x.reshape(-1, 5, 2, 4),
            lambda x: x.unflatten(2, (2, 4)),
            lambda x: x.view(x.size(0), x.size(1), -1, 4),
        ],
    ),
    "swap": (
        ("tokens",),
        {},
        [
            lambda x: x.transpose(1, 2),
            lambda x: x.transpose(-1, -2),
            lambda x: torch.swapaxes(x, 1, 2),
            lambda x: x.permute(0, 2, 1),
            lambda x: x.mT,
            lambda x: torch.movedim(x, 1, 2),
            lambda x: x.transpose_(1, 2),
            lambda x: x.transpose(1, 2).contiguous(),
        ],
    ),
    "permute": (
        ("image",),
        {},
        [lambda x: x.permute(0, 2, 3, 1), lambda x: x.movedim(1, -1), lambda x: torch.permute(x, (0, 2, 3, -3))],
    ),
    "squeeze": (
        ("spot",),
        {},
        [lambda x: x.squeeze((2, 3)), lambda x: x.squeeze((-1, -2)), lambda x: torch.squeeze(x, (3, 2)), lambda x: x.squeeze()],
    ),
    "unsqueeze": (("rows",), {}, [lambda x: x.unsqueeze(1), lambda x: x[:, None], lambda x: torch.unsqueeze(x, -2)]),
    "slice": (("tokens",), {}, [lambda x: x[:, 1:], lambda x: x[:, 1:5], lambda x: x.narrow(1, 1, 4), lambda x: x[:, -4:, :]]),
    "select": (("tokens",), {}, [lambda x: x[:, -1], lambda x: x.select(1, 4), lambda x: x[:, 4, ...]]),
    "split": (
        ("rows",),
        {},
        [
            lambda x: x.chunk(2, 1)[0],
            lambda x: torch.split(x, 4, dim=-1)[0],
            lambda x: x.split([4, 4], 1)[0],
            lambda x: torch.tensor_split(x, 2, 1)[0],
        ],
    ),
    "cat": (
        ("rows", "others"),
        {},
        [lambda x, y: torch.cat([x, y], 1), lambda x, y: torch.concat((x, y), -1), lambda x, y: torch.hstack([x, y])],
    ),
    "mean": (
        ("image",),
        {},
        [lambda x: x.mean((2, 3)), lambda x: torch.mean(x, [-1, -2]), lambda x: x.mean(dim=[3, 2], keepdim=False)],
    ),
    "mean of all": (("rows",), {}, [lambda x: x.mean(), lambda x: torch.mean(x, [0, 1]), lambda x: x.mean((-2, -1))]),
    "global pool": (
        ("image",),
        {},
        [
            lambda: nn.AdaptiveAvgPool2d(1),
            lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
            lambda x: x.mean((2, 3), keepdim=True),
            lambda x: x.mean([-1, -2], True),
        ],
    ),
    "max pool": (
        ("image",),
        {},
        [
            lambda: nn.MaxPool2d(2),
            lambda x: F.max_pool2d(x, 2),
            lambda x: torch.max_pool2d(x, [2, 2], [2, 2]),
            lambda x: F.max_pool2d(x, 2, 2),
        ],
    ),
    "avg pool": (("image",), {}, [lambda: nn.AvgPool2d(3, 1, 1), lambda x: F.avg_pool2d(x, (3, 3), 1, (1, 1))]),
    "pad": (("image",), {}, [lambda: nn.ZeroPad2d(1), lambda x: F.pad(x, (1, 1, 1, 1)), lambda: nn.ConstantPad2d(1, 0.0)]),
    "dropout": (
        ("rows",),
        {},
        [
            lambda: nn.Dropout(0.3),
            lambda: nn.Dropout(0.3, inplace=True),
            lambda x: F.dropout(x, 0.3, False),
            lambda x: torch.dropout(x, 0.3, False),
        ],
    ),
    "convert": (
        ("rows",),
        {},
        [lambda x: x.half() + 0, lambda x: x.to(torch.float16) + 0, lambda x: x.type(torch.float16) + 0],
    ),
    "nothing": (
        ("rows",),
        {},
        [
            lambda: nn.Identity(),
            lambda x: x.contiguous(),
            lambda x: x.clone(),
            lambda x: x.float(),
            lambda x: x.detach(),
            lambda x: x.view(-1, 8),
            lambda x: x[:, :],
            lambda x: x.expand(-1, 8),
        ],
    ),
    "conv": (
        ("image",),
        CONV,
        [
            lambda m, x: F.conv2d(x, m.weight, m.bias, padding=1),
            lambda m, x: F.conv2d(x, m.weight, m.bias, padding="same"),
            lambda m, x: torch.conv2d(x, m.weight, m.bias, 1, (1, 1)),
            lambda m, x: torch.convolution(x, m.weight, m.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        ],
    ),
    "linear": (
        ("rows",),
        LINEAR,
        [
            lambda m, x: F.linear(x, m.weight, m.bias),
            lambda m, x: torch.addmm(m.bias, x, m.weight.t()),
            lambda m, x: torch.addmm(m.bias, x, m.weight.transpose(0, 1)),
        ],
    ),
    "linear on tokens": (
        ("tokens",),
        LINEAR,
        [
            lambda m, x: F.linear(x, m.weight, m.bias),
            lambda m, x: torch.addmm(m.bias, x.view(-1, 8), m.weight.t()).view(x.size(0), 5, 3),
        ],
    ),
    "linear without bias": (
        ("rows",),
        {"weight": LINEAR["weight"]},
        [
            lambda m, x: F.linear(x, m.weight),
            lambda m, x: x @ m.weight.t(),
            lambda m, x: torch.mm(x, m.weight.T),
            lambda m, x: x.matmul(m.weight.mT),
        ],
    ),
    "matmul": (
        ("left", "right"),
        {},
        [lambda x, y: x @ y, torch.matmul, torch.bmm, lambda x, y: x.bmm(y), lambda x, y: torch.linalg.matmul(x, y)],
    ),
    "batch norm": (
        ("image",),
        {**NORM, **STATISTICS},
        [
            lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias),
            lambda m, x: torch.batch_norm(x, m.weight, m.bias, m.running_mean, m.running_var, False, 0.1, 1e-5, False),
            lambda m, x: torch.native_batch_norm(x, m.weight, m.bias, m.running_mean, m.running_var, False, 0.1, 1e-5)[0],
        ],
    ),
    "layer norm": (
        ("tokens",),
        {"weight": torch.rand(8), "bias": torch.rand(8)},
        [
            lambda m, x: F.layer_norm(x, (8,), m.weight, m.bias),
            lambda m, x: torch.layer_norm(x, [8], m.weight, m.bias, 1e-5, False),
            lambda m, x: torch.native_layer_norm(x, [8], m.weight, m.bias, 1e-5)[0],
        ],
    ),
    "group norm": (
        ("image",),
        NORM,
        [
            lambda m, x: F.group_norm(x, 2, m.weight, m.bias),
            lambda m, x: torch.group_norm(x, 2, m.weight, m.bias, 1e-5),
        ],
    ),
}
CASES = [(name, position) for name, (_, _, rows) in SPELLINGS.items() for position in range(len(rows))]

# torch's decompositions break these up into several operations; they are patterns then, not spellings.
COMPOSED = {"hardswish", "hardsigmoid", "silu", "mish", "dropout", "split", "convert", "gelu tanh"}
THRESHOLDS = {("relu", list(ACTIVATIONS["relu"]).index(name)) for name in ("threshold", "threshold module")}
WHOLE = [case for case in CASES if case[0] not in COMPOSED and case not in THRESHOLDS]


class AllSpellings(nn.Module):
    """Every spelling of every operation, each between two exponentials, out of reach of the others' in-place operations."""

    def __init__(self, cases: list[tuple[str, int]] = CASES):
        super().__init__()
        self.cases = cases
        self.states = nn.ModuleDict({name: State(**state) for name, (_, state, _) in SPELLINGS.items() if state})
        self.made = nn.ModuleDict()
        for name, position in self.cases:
            spelling = SPELLINGS[name][2][position]
            if hasattr(spelling, "__code__") and spelling.__code__.co_argcount == 0:
                self.made[f"{name} {position}"] = spelling()

    def forward(self, image, rows, others, tokens, spot, left, right):
        inputs = dict(zip(SHAPES, (image, rows, others, tokens, spot, left, right)))
        return tuple(self.run(*case, inputs) for case in self.cases)

    def run(self, name: str, position: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        chosen, state, rows = SPELLINGS[name]
        values = [torch.exp(inputs[key]) for key in chosen]
        spelling = self.made[f"{name} {position}"] if f"{name} {position}" in self.made else rows[position]
        return torch.exp(spelling(self.states[name], *values) if state else spelling(*values))


def example() -> ExampleInputs:
    generator = torch.Generator().manual_seed(0)
    return ExampleInputs(tuple(torch.randn(shape, generator=generator) for shape in SHAPES.values()))


def texts(graph_module: torch.fx.GraphModule, cases: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """For each output, the expression that computes it."""
    output = next(iter(graph_module.graph.find_nodes(op="output")))
    return {case: expression(node) for case, node in zip(cases, output.args[0])}


def expression(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(expression, value))}]"
    if not isinstance(value, torch.fx.Node):
        return repr(value)
    arguments = [*map(expression, value.args), *(f"{name}={expression(v)}" for name, v in value.kwargs.items())]
    return f"{value.target}({', '.join(arguments)})"


def decomposed(table: dict | None) -> torch.export.ExportedProgram:
    shapes = [{0: Dim.AUTO}] * len(SHAPES)
    model = AllSpellings(WHOLE).eval()
    return export(model, example().args, dynamic_shapes=tuple(shapes), strict=False).run_decompositions(table)


ENTRIES: dict[str, Callable[[], Any]] = {
    "symbolic trace": lambda: torch.fx.symbolic_trace(AllSpellings().eval()),
    "core ATen program": lambda: decomposed(None),
    "functional program": lambda: decomposed({}),
}


@pytest.fixture(scope="module", params=ENTRIES)
def captured(request):
    """All the texts through one entry."""
    cases = WHOLE if "program" in request.param else CASES
    return texts(capture(ENTRIES[request.param](), example()), cases)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gives_one_text(name, graph_module, canonical):
    spelled = {position: text for (other, position), text in texts(graph_module, CASES).items() if other == name}
    assert spelled == dict.fromkeys(spelled, canonical[name])


@pytest.fixture(scope="module")
def graph_module():
    return capture(AllSpellings().eval(), example())


@pytest.fixture(scope="module")
def canonical(graph_module):
    """The text of the first spelling of each operation, as a module."""
    dialect.check(graph_module)
    found = texts(graph_module, CASES)
    return {name: found[name, 0] for name in SPELLINGS}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_other_entry_gives_the_same_text(name, captured, canonical):
    spelled = {position: text for (other, position), text in captured.items() if other == name}
    assert spelled == dict.fromkeys(spelled, canonical[name])


def test_every_spelling_computes_the_same(graph_module):
    model, inputs = AllSpellings().eval(), example().args
    for batch in (2, 5):
        few = [torch.cat([x, x, x])[:batch] for x in inputs]
        with torch.no_grad():
            for case, got, expected in zip(CASES, graph_module(*few), model(*few)):
                near = {"rtol": 2**-9, "atol": 1e-5} if case[0] == "convert" else {}  # float16 is computed in float32
                torch.testing.assert_close(got, expected, msg=lambda m, case=case: f"{case}: {m}", **near)


NEAR_MISSES: dict[str, tuple[str, Callable[..., Any], Any]] = {
    "clamp from 1 is no relu": ("rows", lambda x: x.clamp(min=1), torch.ops.aten.relu.default),
    "threshold of 1 is no relu": ("rows", lambda x: F.threshold(x, 1, 0), torch.ops.aten.relu.default),
    "floor division is no division": ("rows", lambda x: torch.div(x, 2, rounding_mode="floor"), torch.ops.aten.div.Tensor),
    "a reshape of the batch is no flatten": ("image", lambda x: x.reshape(-1, 12), torch.ops.aten.flatten.using_ints),
    "a reflecting pad is no constant pad": (
        "image",
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        torch.ops.aten.constant_pad_nd.default,
    ),
    "a cyclic permutation is no transpose": ("tokens", lambda x: x.permute(1, 2, 0), torch.ops.aten.transpose.int),
    "a mean of one dimension is no pool": (
        "image",
        lambda x: x.mean(2, keepdim=True),
        torch.ops.aten.adaptive_avg_pool2d.default,
    ),
}


class Program(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_keep_their_own_spelling(name):
    key, spelling, wrong = NEAR_MISSES[name]
    x = torch.randn(SHAPES[key])
    graph_module = capture(Program(spelling), ExampleInputs((x,)))
    assert not graph_module.graph.find_nodes(op="call_function", target=wrong)
    torch.testing.assert_close(graph_module(x), spelling(x))


def test_uneven_same_padding_becomes_a_pad_of_its_own():
    conv = nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(1, 3))
    graph_module = capture(conv, ExampleInputs((torch.randn(2, 3, 8, 8),)))
    assert [n.target for n in graph_module.graph.nodes if n.op == "call_function"] == [
        torch.ops.aten.constant_pad_nd.default,
        torch.ops.aten.conv2d.default,
    ]
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(graph_module(x), conv(x))


def test_alpha_survives():
    x = torch.ones(2, 8)
    graph_module = capture(Program(lambda x: torch.add(x, x, alpha=2)), ExampleInputs((x,)))
    (call,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    assert call.kwargs == {"alpha": 2}


def test_capture_is_a_fixed_point():
    model_ = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
    inputs = ExampleInputs((torch.randn(2, 3, 8, 8),))
    once = capture(model_, inputs)
    assert str(capture(once, inputs).graph) == str(once.graph)
