"""Rules and their application: what they build, where they stop, and what they say when they are wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import PatternError, RuleError
from fxcompress.pattern import op, var
from fxcompress.rewrite.rule import RewriteResult, Rule, apply, rewrite

x, y, c, w = var("x y c w")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x)))) * 2


class _Activation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) + 1


def graph_of(program, *shapes: tuple[int, ...]) -> fx.GraphModule:
    """The captured graph of a function or module. Inputs are 3 x 4 unless told otherwise."""
    if not isinstance(program, nn.Module):
        module = nn.Module()
        module.forward = program  # type: ignore[method-assign]
        program = module
    inputs = tuple(torch.randn(shape) for shape in shapes or [(3, 4)])
    return capture(program.eval(), ExampleInputs(inputs, {}))


def calls(graph_module: fx.GraphModule) -> list[str]:
    return [node.target._schema.name.split("::")[1] for node in graph_module.graph.nodes if node.op == "call_function"]


def run(rules: Rule | list[Rule], graph_module: fx.GraphModule, **options) -> RewriteResult:
    result = apply(rules, graph_module, created_by="TestPass", **options)
    graph_module.graph.lint()
    return result


@rewrite(op.relu(x))
def put_gelu(new, x):
    return new.gelu(x, approximate="tanh")


@rewrite(op.mul(op.mul(x, c), y))
def merge_factors(new, x, c, y):
    return new.mul(x, c * y) if isinstance(c, float) and isinstance(y, float) else None


def test_a_rewrite_replaces_the_root_and_says_so() -> None:
    graph_module = graph_of(_Net())
    result = run(put_gelu, graph_module)
    assert calls(graph_module) == ["linear", "gelu", "linear", "gelu", "mul"]
    assert result.counts == {"put_gelu": 2}
    assert [r.rule for r in result.replacements] == ["put_gelu"] * 2
    assert result.replacements[0].root.endswith("relu") and result.replacements[0].node.endswith("gelu")
    assert "self.second(torch.relu(self.first(x)))" in result.replacements[0].source
    inputs = torch.randn(5, 4)
    assert graph_module(inputs).shape == (5, 4)


def test_a_new_node_tells_where_it_comes_from() -> None:
    graph_module = graph_of(_Net())
    (old, *_) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    scope, trace, shape = old.meta["scope"], old.meta["stack_trace"], old.meta["val"].shape
    run(put_gelu, graph_module)
    new = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.gelu.default)[0]
    assert new.meta["created_by"] == "TestPass" and new.meta["rule"] == "put_gelu"
    assert new.meta["scope"] == scope and new.meta["stack_trace"] == trace
    assert isinstance(new.meta["val"], torch._subclasses.FakeTensor) and new.meta["val"].shape == shape
    assert isinstance(new.meta["val"].shape[0], torch.SymInt), "the batch stays symbolic"


def test_where_limits_the_scopes() -> None:
    graph_module = graph_of(nn.Sequential(nn.ReLU(), nn.ReLU()))
    run(put_gelu, graph_module, where=lambda node: node.meta["scope"] == "1")
    assert calls(graph_module) == ["relu", "gelu"]


def test_limit_stops_early() -> None:
    graph_module = graph_of(_Net())
    assert len(run(put_gelu, graph_module, limit=1)) == 1
    assert calls(graph_module) == ["linear", "gelu", "linear", "relu", "mul"]


def test_the_first_rule_listed_goes_first() -> None:
    @rewrite(op.relu(x))
    def put_sigmoid(new, x):
        return new.sigmoid(x)

    graph_module = graph_of(nn.ReLU())
    assert run([put_sigmoid, put_gelu], graph_module).counts == {"put_sigmoid": 1}


def test_a_rewrite_can_make_way_for_another() -> None:
    graph_module = graph_of(lambda x: x * 2.0 * 0.5 * 4.0 * 0.25)
    assert run(merge_factors, graph_module).counts == {"merge_factors": 3}
    assert calls(graph_module) == ["mul"]
    torch.testing.assert_close(graph_module(torch.ones(1, 4)), torch.ones(1, 4))


@given(st.lists(st.sampled_from([0.5, 2.0, 3.0]), min_size=2, max_size=6))
def test_rewriting_goes_on_until_nothing_matches(factors: list[float]) -> None:
    def product(x: torch.Tensor) -> torch.Tensor:
        for factor in factors:
            x = torch.relu(x * factor)
        return x

    @rewrite(op.relu(op.mul(op.relu(x), c)))
    def drop_inner_relu(new, x, c):
        return new.relu(new.mul(x, c))

    graph_module = graph_of(product)
    run([drop_inner_relu, merge_factors], graph_module)
    assert calls(graph_module) == ["mul", "relu"]
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(graph_module(inputs), product(inputs))


def test_a_builder_may_return_a_value_that_is_there() -> None:
    @rewrite(op.relu(op.relu(x).named("inner").shared()))
    def drop_outer(new, inner):
        return inner

    graph_module = graph_of(lambda x: torch.relu(torch.relu(torch.relu(x))))
    assert run(drop_outer, graph_module).counts == {"drop_outer": 2}
    assert calls(graph_module) == ["relu"]


def test_none_means_not_here_and_leaves_no_trace() -> None:
    @rewrite(op.relu(x))
    def hesitate(new, x):
        new.add(x, new.constant(torch.ones(4), name="ones"))
        return None

    graph_module = graph_of(_Net())
    before, state = str(graph_module.graph), set(graph_module.state_dict())
    assert not run(hesitate, graph_module)
    assert str(graph_module.graph) == before and set(graph_module.state_dict()) == state


def test_constants_become_buffers_with_readable_unique_names() -> None:
    @rewrite(op.linear(x, w, ...).named("layer"))
    def shift(new, layer, x, w):
        bias = new.parameter(new.tensor(w).sum(1), name=f"{w.target}_sums")
        offset = new.constant(torch.zeros(4), name="offset")
        return new.like(layer, bias=new.add(bias, offset)) if layer.kwargs.get("bias") or len(layer.args) == 2 else None

    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    graph_module = graph_of(net)
    assert run(shift, graph_module).counts == {"shift": 2}
    assert set(graph_module.state_dict()) == {
        *("0.weight", "0.weight_sums", "1.weight", "1.weight_sums"),
        *("offset", "offset_1"),
    }
    assert {name for name, _ in graph_module.named_parameters()} == {
        "0.weight",
        "0.weight_sums",
        "1.weight",
        "1.weight_sums",
    }
    inputs = torch.randn(2, 4)
    inner = inputs @ net[0].weight.T + net[0].weight.sum(1)
    torch.testing.assert_close(graph_module(inputs), inner @ net[1].weight.T + net[1].weight.sum(1))


def test_only_what_nothing_uses_is_erased() -> None:
    @rewrite(op.add(op.sigmoid(x).shared().named("gate"), y))
    def forget_gate(new, x, y):
        return new.add(x, y)

    graph_module = graph_of(lambda x: [torch.sigmoid(x) + 1, torch.sigmoid(x + 1)])
    run(forget_gate, graph_module)
    assert calls(graph_module).count("sigmoid") == 1
    graph_module = graph_of(lambda x: [(s := torch.sigmoid(x)) + 1, s * 2])
    run(forget_gate, graph_module)
    assert calls(graph_module).count("sigmoid") == 1


def test_a_layers_name_goes_to_what_replaces_it() -> None:
    @rewrite(op.relu(op.linear(x, w, ...).named("layer")))
    def drop_relu(new, layer, x, w):
        return new.linear(x, w)

    graph_module = graph_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    layer = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)[0].name
    assert run(drop_relu, graph_module).replacements[0].node == layer


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda new, x: new.mean(x, [1]), r"is torch.float32 \[s\d+\], but relu is torch.float32 \[s\d+, 4\]"),
        (lambda new, x: new["gt.Scalar"](x, 0), r"the replacement is torch.bool"),
        (lambda new, x: 3, r"the builder returned 3; it must return a node"),
        (lambda new, x: new.match.root, r"the very node it replaces"),
        (lambda new, x: new.gelu(new.match.root), r"the very node it replaces"),
        (lambda new, x: new.matmul(x, x), r"matmul.default\(x, x\) cannot be computed"),
        (lambda new, x: new.rellu(x), r"new.rellu: there is no ATen operation"),
        (lambda new, x: new.like(new.match.root, other=1), r"relu.* has no argument 'other'"),
        (lambda new, x: new.tensor(x), r"is no constant; let the builder return None"),
        (lambda new, x: [][0], r"list index out of range"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_an_error_that_names_rule_node_and_source(build, message: str) -> None:
    build.__name__ = "build"
    graph_module = graph_of(_Activation())
    before, attributes = str(graph_module.graph), set(graph_module.state_dict())
    with pytest.raises(RuleError, match=message) as caught:
        run(rewrite(op.relu(x))(build), graph_module)
    assert str(caught.value).startswith("rule build failed at relu ") and "return F.relu(x) + 1" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert str(graph_module.graph) == before and set(graph_module.state_dict()) == attributes, "and nothing is changed"


def test_rules_that_never_end_are_an_error() -> None:
    @rewrite(op.relu(x))
    def again(new, x):
        return new.relu(x)

    with pytest.raises(RuleError, match=r"rule again still matches after \d+ rewrites, now at relu"):
        run(again, graph_of(nn.ReLU()))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda new, conw: None, r"rule <lambda>: its pattern binds no 'conw' \(did you mean 'conv'"),
        (lambda: None, r"first parameter must be `new`"),
        (lambda x, w: None, r"first parameter must be `new`"),
        (lambda new, *rest: None, r"name the builder's parameters one by one, not \*rest"),
    ],
)
def test_a_builder_that_does_not_fit_its_pattern_is_an_error_where_it_is_defined(build, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        rewrite(op.relu(op.conv2d(x, w, ...).named("conv")))(build)


def test_a_rules_pattern_must_be_rooted_in_a_call() -> None:
    with pytest.raises(PatternError, match="may match a value that is not a call"):
        rewrite(op.relu(x) | x)(lambda new, x: x)


def test_a_graph_without_values_is_an_error_that_says_to_capture() -> None:
    graph_module = fx.symbolic_trace(nn.Identity())
    graph = fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("x"),)))
    graph_module = fx.GraphModule(nn.Module(), graph)
    with pytest.raises(RuleError, match="carries no meta\\['val'\\]; capture the model"):
        run(put_gelu, graph_module)
