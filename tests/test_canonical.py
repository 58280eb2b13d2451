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

from fxcompress import dialect
from fxcompress.capture import capture
from fxcompress.inputs import ExampleInputs

IMAGE, ROWS, TOKENS = (2, 4, 6, 6), (2, 8), (2, 5, 8)
W, B = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3.0)


class Host(nn.Module):
    """Runs one spelling between two exponentials, which keep input and output out of reach of in-place operations.

    A spelling is a function of its inputs, of the host and its inputs where there are parameters, or makes a module.
    """

    def __init__(self, spelling: Callable[..., Any], state: dict[str, torch.Tensor]):
        super().__init__()
        for name, tensor in state.items():
            if name.startswith("running"):
                self.register_buffer(name, tensor.clone())
            else:
                self.register_parameter(name, nn.Parameter(tensor.clone()))
        makes_module = hasattr(spelling, "__code__") and spelling.__code__.co_argcount == 0
        self.spelling = spelling() if makes_module else spelling

    def run(self, *inputs: torch.Tensor) -> torch.Tensor:
        values = [torch.exp(x) for x in inputs]
        return torch.exp(self.spelling(self, *values) if self._parameters else self.spelling(*values))


class OneInput(Host):
    def forward(self, x):
        return self.run(x)


class TwoInputs(Host):
    def forward(self, x, y):
        return self.run(x, y)


def host(spelling: Callable[..., Any], state: dict[str, torch.Tensor], inputs: int) -> nn.Module:
    return (OneInput if inputs == 1 else TwoInputs)(spelling, state).eval()


def functions(table: dict[str, Callable[..., Any]]) -> list[Callable[..., Any]]:
    return list(table.values())


NORM = {
    "weight": torch.rand(4) + 0.5,
    "bias": torch.randn(4),
    "running_mean": torch.randn(4),
    "running_var": torch.rand(4) + 0.5,
}
CONV = {"weight": torch.randn(6, 4, 3, 3), "bias": torch.randn(6)}
LINEAR = {"weight": W, "bias": B}

# name: (shapes of the inputs, parameters, spellings)
SPELLINGS: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, torch.Tensor], list[Callable[..., Any]]]] = {
    **{name: ((IMAGE,), {}, functions(table)) for name, table in ACTIVATIONS.items()},
    "add": ((ROWS, ROWS), {}, functions(ADDITIONS)),
    "mul": ((ROWS, ROWS), {}, functions(PRODUCTS)),
    "add number": ((ROWS,), {}, [lambda x, f=f: f(x, 2) for f in ADDITIONS.values()] + [lambda x: 2 + x]),
    "mul number": ((ROWS,), {}, [lambda x, f=f: f(x, 2.0) for f in PRODUCTS.values()] + [lambda x: 2 * x]),
    "sub": (
        (ROWS, ROWS),
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
        (ROWS, ROWS),
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
    "square": ((ROWS,), {}, [torch.square, lambda x: x**2, lambda x: x.pow(2), lambda x: x.square_(), lambda x: x.pow_(2)]),
    "neg": ((ROWS,), {}, [torch.neg, torch.negative, lambda x: -x, lambda x: x.neg_()]),
    "abs": ((ROWS,), {}, [torch.abs, torch.absolute, abs, lambda x: x.abs_()]),
    "ge": ((ROWS,), {}, [lambda x: (x >= 1.5) * x, lambda x: torch.ge(x, 1.5) * x, lambda x: x.greater_equal(1.5) * x]),
    "softmax": (
        (TOKENS,),
        {},
        [
            lambda: nn.Softmax(-1),
            lambda x: F.softmax(x, 2),
            lambda x: torch.softmax(x, -1),
            lambda x: x.softmax(dim=-1),
            lambda x: torch.special.softmax(x, 2),
        ],
    ),
    "flatten": ((IMAGE,), {}, [*functions(FLATTENINGS), lambda x: x.reshape(-1, 144), lambda x: x.flatten(-3)]),
    "reshape": (
        (TOKENS,),
        {},
        [
            lambda x: x.view(x.shape[0], 5, 2, 4),
            lambda x: x.reshape(-1, 5, 2, 4),
            lambda x: x.unflatten(2, (2, 4)),
            lambda x: x.view(x.size(0), x.size(1), -1, 4),
        ],
    ),
    "swap": (
        (TOKENS,),
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
        (IMAGE,),
        {},
        [lambda x: x.permute(0, 2, 3, 1), lambda x: x.movedim(1, -1), lambda x: torch.permute(x, (0, 2, 3, -3))],
    ),
    "squeeze": (
        ((2, 4, 1, 1),),
        {},
        [lambda x: x.squeeze((2, 3)), lambda x: x.squeeze((-1, -2)), lambda x: torch.squeeze(x, (3, 2)), lambda x: x.squeeze()],
    ),
    "unsqueeze": ((ROWS,), {}, [lambda x: x.unsqueeze(1), lambda x: x[:, None], lambda x: torch.unsqueeze(x, -2)]),
    "slice": ((TOKENS,), {}, [lambda x: x[:, 1:], lambda x: x[:, 1:5], lambda x: x.narrow(1, 1, 4), lambda x: x[:, -4:, :]]),
    "select": ((TOKENS,), {}, [lambda x: x[:, -1], lambda x: x.select(1, 4), lambda x: x[:, 4, ...]]),
    "split": (
        (ROWS,),
        {},
        [
            lambda x: x.chunk(2, 1)[0],
            lambda x: torch.split(x, 4, dim=-1)[0],
            lambda x: x.split([4, 4], 1)[0],
            lambda x: torch.tensor_split(x, 2, 1)[0],
        ],
    ),
    "cat": (
        (ROWS, ROWS),
        {},
        [lambda x, y: torch.cat([x, y], 1), lambda x, y: torch.concat((x, y), -1), lambda x, y: torch.hstack([x, y])],
    ),
    "mean": (
        (IMAGE,),
        {},
        [lambda x: x.mean((2, 3)), lambda x: torch.mean(x, [-1, -2]), lambda x: x.mean(dim=[3, 2], keepdim=False)],
    ),
    "mean of all": ((ROWS,), {}, [lambda x: x.mean(), lambda x: torch.mean(x, [0, 1]), lambda x: x.mean((-2, -1))]),
    "global pool": (
        (IMAGE,),
        {},
        [
            lambda: nn.AdaptiveAvgPool2d(1),
            lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
            lambda x: x.mean((2, 3), keepdim=True),
            lambda x: x.mean([-1, -2], True),
        ],
    ),
    "max pool": (
        (IMAGE,),
        {},
        [
            lambda: nn.MaxPool2d(2),
            lambda x: F.max_pool2d(x, 2),
            lambda x: torch.max_pool2d(x, [2, 2], [2, 2]),
            lambda x: F.max_pool2d(x, 2, 2),
        ],
    ),
    "avg pool": ((IMAGE,), {}, [lambda: nn.AvgPool2d(3, 1, 1), lambda x: F.avg_pool2d(x, (3, 3), 1, (1, 1))]),
    "pad": ((IMAGE,), {}, [lambda: nn.ZeroPad2d(1), lambda x: F.pad(x, (1, 1, 1, 1)), lambda: nn.ConstantPad2d(1, 0.0)]),
    "dropout": (
        (ROWS,),
        {},
        [
            lambda: nn.Dropout(0.3),
            lambda: nn.Dropout(0.3, inplace=True),
            lambda x: F.dropout(x, 0.3, False),
            lambda x: torch.dropout(x, 0.3, False),
        ],
    ),
    "convert": ((ROWS,), {}, [lambda x: x.half() + 0, lambda x: x.to(torch.float16) + 0, lambda x: x.type(torch.float16) + 0]),
    "nothing": (
        (ROWS,),
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
        (IMAGE,),
        CONV,
        [
            lambda m, x: F.conv2d(x, m.weight, m.bias, padding=1),
            lambda m, x: F.conv2d(x, m.weight, m.bias, padding="same"),
            lambda m, x: torch.conv2d(x, m.weight, m.bias, 1, (1, 1)),
            lambda m, x: torch.convolution(x, m.weight, m.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        ],
    ),
    "linear": (
        (ROWS,),
        LINEAR,
        [
            lambda m, x: F.linear(x, m.weight, m.bias),
            lambda m, x: torch.addmm(m.bias, x, m.weight.t()),
            lambda m, x: torch.addmm(m.bias, x, m.weight.transpose(0, 1)),
        ],
    ),
    "linear on tokens": (
        (TOKENS,),
        LINEAR,
        [
            lambda m, x: F.linear(x, m.weight, m.bias),
            lambda m, x: torch.addmm(m.bias, x.view(-1, 8), m.weight.t()).view(x.size(0), 5, 3),
        ],
    ),
    "linear without bias": (
        (ROWS,),
        {"weight": W},
        [
            lambda m, x: F.linear(x, m.weight),
            lambda m, x: x @ m.weight.t(),
            lambda m, x: torch.mm(x, m.weight.T),
            lambda m, x: x.matmul(m.weight.mT),
        ],
    ),
    "matmul": (
        ((2, 3, 4), (2, 4, 5)),
        {},
        [lambda x, y: x @ y, torch.matmul, torch.bmm, lambda x, y: x.bmm(y), lambda x, y: torch.linalg.matmul(x, y)],
    ),
    "batch norm": (
        (IMAGE,),
        NORM,
        [
            lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias),
            lambda m, x: torch.batch_norm(x, m.weight, m.bias, m.running_mean, m.running_var, False, 0.1, 1e-5, False),
            lambda m, x: torch.native_batch_norm(x, m.weight, m.bias, m.running_mean, m.running_var, False, 0.1, 1e-5)[0],
        ],
    ),
    "layer norm": (
        (TOKENS,),
        {"weight": torch.rand(8), "bias": torch.rand(8)},
        [
            lambda m, x: F.layer_norm(x, (8,), m.weight, m.bias),
            lambda m, x: torch.layer_norm(x, [8], m.weight, m.bias, 1e-5, False),
            lambda m, x: torch.native_layer_norm(x, [8], m.weight, m.bias, 1e-5)[0],
        ],
    ),
    "group norm": (
        (IMAGE,),
        {"weight": torch.rand(4), "bias": torch.rand(4)},
        [
            lambda m, x: F.group_norm(x, 2, m.weight, m.bias),
            lambda m, x: torch.group_norm(x, 2, m.weight, m.bias, 1e-5),
        ],
    ),
}
ROWS_OF_THE_TABLE = [(name, position) for name, (_, _, rows) in SPELLINGS.items() for position in range(1, len(rows))]


def example(name: str) -> ExampleInputs:
    generator = torch.Generator().manual_seed(0)
    return ExampleInputs(tuple(torch.randn(shape, generator=generator) for shape in SPELLINGS[name][0]))


def model(name: str, position: int) -> nn.Module:
    shapes, state, rows = SPELLINGS[name]
    return host(rows[position], state, len(shapes))


def text(graph_module: torch.fx.GraphModule) -> str:
    """The calls of the graph, without the names that depend on whether a module made them."""
    numbers = {node: f"%{position}" for position, node in enumerate(graph_module.graph.nodes)}

    def written(arguments: Any) -> str:
        return str(torch.utils._pytree.tree_map(lambda a: numbers.get(a, a) if isinstance(a, torch.fx.Node) else a, arguments))

    lines = []
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            lines.append(f"{numbers[node]} = {node.target}{written((node.args, node.kwargs))}")
        elif node.op == "get_attr":
            lines.append(f"{numbers[node]} = {node.target}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def canonical():
    """The text of the first spelling of each operation, captured once."""
    texts: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in texts:
            texts[name] = text(capture(model(name, 0), example(name)))
        return texts[name]

    return of


@pytest.mark.parametrize(("name", "position"), ROWS_OF_THE_TABLE)
def test_every_spelling_gives_one_text(name, position, canonical):
    made, inputs = model(name, position), example(name)
    graph_module = capture(made, inputs)
    dialect.check(graph_module)
    assert text(graph_module) == canonical(name)
    torch.testing.assert_close(graph_module(*inputs.args), made(*inputs.args))


@pytest.mark.parametrize(("name", "position"), [(name, 0) for name in SPELLINGS] + ROWS_OF_THE_TABLE[::7])
def test_a_symbolically_traced_graph_gives_the_same_text(name, position, canonical):
    assert text(capture(torch.fx.symbolic_trace(model(name, position)), example(name))) == canonical(name)


# torch's decompositions break these up into several operations; they are patterns, not spellings.
_COMPOSED = {"hardswish", "hardsigmoid", "silu", "mish", "dropout", "split", "convert", "gelu tanh"}


@pytest.mark.parametrize("name", sorted(set(SPELLINGS) - _COMPOSED))
@pytest.mark.parametrize("table", [None, {}], ids=["core ATen", "functional"])
def test_a_decomposed_program_gives_the_same_text(name, table, canonical):
    made, inputs = model(name, 0), example(name)
    shapes = [{0: Dim.AUTO} for _ in inputs.args]
    program = export(made, inputs.args, dynamic_shapes=tuple(shapes), strict=False).run_decompositions(table)
    assert text(capture(program, inputs)) == canonical(name)


NEAR_MISSES: dict[str, tuple[tuple[int, ...], Callable[..., Any], Any]] = {
    "clamp from 1 is no relu": (ROWS, lambda x: x.clamp(min=1), torch.ops.aten.relu.default),
    "threshold of 1 is no relu": (ROWS, lambda x: F.threshold(x, 1, 0), torch.ops.aten.relu.default),
    "floor division is no division": (ROWS, lambda x: torch.div(x, 2, rounding_mode="floor"), torch.ops.aten.div.Tensor),
    "a reshape of the batch is no flatten": (IMAGE, lambda x: x.reshape(-1, 12), torch.ops.aten.flatten.using_ints),
    "a reflecting pad is no constant pad": (
        IMAGE,
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        torch.ops.aten.constant_pad_nd.default,
    ),
    "a cyclic permutation is no transpose": (TOKENS, lambda x: x.permute(1, 2, 0), torch.ops.aten.transpose.int),
    "a mean of one dimension is no pool": (
        IMAGE,
        lambda x: x.mean(2, keepdim=True),
        torch.ops.aten.adaptive_avg_pool2d.default,
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_keep_their_own_spelling(name):
    shape, spelling, wrong = NEAR_MISSES[name]
    x = torch.randn(shape)
    graph_module = capture(host(spelling, {}, 1), ExampleInputs((x,)))
    assert not graph_module.graph.find_nodes(op="call_function", target=wrong)
    torch.testing.assert_close(graph_module(x), torch.exp(spelling(torch.exp(x))))


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
    graph_module = capture(
        host(lambda x, y: torch.add(x, y, alpha=2), {}, 2), ExampleInputs((torch.ones(ROWS), torch.ones(ROWS)))
    )
    (call,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    assert call.kwargs == {"alpha": 2}


def test_capture_is_a_fixed_point():
    model_ = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))
    inputs = ExampleInputs((torch.randn(2, 3, 8, 8),))
    once = capture(model_, inputs)
    assert str(capture(once, inputs).graph) == str(once.graph)
