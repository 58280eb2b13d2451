"""The pattern language and the search: what matches, what does not, and what is said about it."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import VARIABLES, Planting, Term, as_pattern, near_misses, terms
from torch import fx

from fxcompress.errors import MatchBudgetError, PatternError
from fxcompress.ir.dialect import COMMUTATIVE, resolve
from fxcompress.ir.signature import arguments, same_value
from fxcompress.pattern.explain import explain
from fxcompress.pattern.language import Alternatives, Call, Items, Literal, Pattern, Variable, maybe, op, var
from fxcompress.pattern.matcher import Match, find, match_at

x, y, w, b = var("x y w b")


def graph_of(make) -> fx.Graph:
    """The graph of `make`, called with a function that makes calls and with three placeholders."""
    graph = fx.Graph()
    placeholders = [graph.placeholder(name) for name in ("p", "q", "r")]

    def call(name: str, *args: object, **kwargs: object) -> fx.Node:
        return graph.create_node("call_function", resolve(name), args, kwargs, name=name.partition(".")[0])

    graph.output(make(call, *placeholders))
    return graph


def only(pattern: Pattern, make) -> Match:
    (match,) = find(pattern, graph_of(make))
    return match


def matches(pattern: Pattern, make) -> bool:
    return bool(find(pattern, graph_of(make)))


# Laws


@given(terms, st.data())
def test_a_planted_pattern_is_found(term: Term, data: st.DataObject) -> None:
    planting = Planting(data)
    root = planting.plant(term)
    graph = planting.finish(root)
    assert root in [match.root for match in find(as_pattern(term), graph)]


@settings(max_examples=150)
@given(terms, st.data())
def test_a_near_miss_is_not_found(term: Term, data: st.DataObject) -> None:
    misses = near_misses(term)
    if misses:
        kind = data.draw(st.sampled_from(sorted({kind for kind, _ in misses})))
        changed = data.draw(st.sampled_from([miss for of_kind, miss in misses if of_kind == kind]))
        planting = Planting(data)
        root = planting.plant(changed)
        planting.finish(root)
        assert match_at(as_pattern(term), root) is None


@given(terms.filter(lambda term: len(list(term.terms())) > 1), st.data())
def test_an_escaping_inner_value_is_not_matched(term: Term, data: st.DataObject) -> None:
    planting = Planting(data)
    root = planting.plant(term)
    inner = data.draw(st.sampled_from([node for node in _inside(root) if node is not root]))
    planting.finish(root, inner)
    assert match_at(as_pattern(term), root) is None


@settings(max_examples=200)
@given(terms, terms, st.data())
def test_the_search_agrees_with_trying_everything(wanted: Term, present: Term, data: st.DataObject) -> None:
    planting = Planting(data)
    nodes = [planting.plant(data.draw(st.sampled_from([wanted, present])))]
    nodes += [planting.call("add", nodes[0], data.draw(st.sampled_from(list(planting.leaves.values()))))]
    nodes += [planting.plant(data.draw(st.sampled_from([wanted, present])))]
    graph = planting.finish(*data.draw(st.lists(st.sampled_from(nodes), unique=True)))
    pattern = as_pattern(wanted)
    for node in graph.nodes:
        expected = list(_everything(pattern, node))
        found = match_at(pattern, node)
        assert bool(expected) == (found is not None)
        if found:
            named = {name: value for name, value in found.bindings.items() if value is not None}
            assert (named, set(found.nodes)) in expected


def _inside(node: fx.Node) -> list[fx.Node]:
    inputs = [inner for value in node.all_input_nodes for inner in _inside(value) if value.op == "call_function"]
    return [node, *inputs]


def _everything(pattern: Pattern, root: fx.Node) -> Iterator[tuple[dict, set]]:
    """Every way in which `pattern` holds at `root`, found without any cleverness."""
    for bindings, nodes in _ways(pattern, root, {}, frozenset()):
        if root in nodes and all(set(node.users) <= nodes for node in nodes - {root}):
            yield bindings, set(nodes)


def _ways(pattern: Pattern, value: object, bindings: dict, nodes: frozenset) -> Iterator[tuple[dict, frozenset]]:
    if isinstance(pattern, Alternatives):
        for option in pattern.options:
            yield from _ways(option, value, bindings, nodes)
    elif isinstance(pattern, Variable):
        if bindings.get(pattern.name, value) is value:
            yield {**bindings, pattern.name: value}, nodes
    elif isinstance(pattern, Literal):
        if same_value(pattern.value, value):
            yield bindings, nodes
    elif isinstance(pattern, Call) and isinstance(value, fx.Node) and value.target is pattern.target:
        held = arguments(value)
        defaults = arguments(fx.Graph().call_function(pattern.target))
        names = [name for name in held if name not in pattern.waived]
        wanted = [pattern.operands.get(name, Literal(defaults[name])) for name in names]
        orders = [names]
        if pattern.target in COMMUTATIVE and held.get("alpha", 1) == 1:
            orders.append([names[1], names[0], *names[2:]])
        for order in orders:
            ways = [(bindings, nodes | {value})]
            for part, name in zip(wanted, order):
                ways = [way for known, seen in ways for way in _ways(part, held[name], known, seen)]
            yield from ways


# What matches


@pytest.mark.parametrize(
    "pattern, make",
    [
        (op.relu(x), lambda call, p, q, r: call("relu", self=p)),
        (op.gelu(x), lambda call, p, q, r: call("gelu", p, approximate="none")),
        (op.relu(op.add(x, y).named("sum")), lambda call, p, q, r: call("relu", call("add", p, q))),
        (op.conv2d(x, w, None), lambda call, p, q, r: call("conv2d", p, q, None, [1, 1], [0, 0])),
        (op.conv2d(x, w, b, ...), lambda call, p, q, r: call("conv2d", p, q, None, [2, 2], groups=3)),
        (op.conv2d(x, w, stride=2, padding=...), lambda call, p, q, r: call("conv2d", p, q, None, [2, 2], [1, 1])),
        (op.mul(x, 1 / 6), lambda call, p, q, r: call("mul", p, 0.16666667)),
        (op.clamp(x + 3, 0, 6), lambda call, p, q, r: call("clamp", call("add", 3.0, p), 0.0, 6.0)),
        (op.cat([x, y], 1), lambda call, p, q, r: call("cat", [p, q], dim=1)),
        (1 / x, lambda call, p, q, r: call("mul", call("reciprocal", p), 1)),
        (3 - x, lambda call, p, q, r: call("rsub", p, 3)),
        (-(x**2) @ y, lambda call, p, q, r: call("matmul", call("neg", call("pow", p, 2)), q)),
        (
            op["div.Tensor_mode"](x, y, rounding_mode="floor"),
            lambda call, p, q, r: call("div.Tensor_mode", p, q, rounding_mode="floor"),
        ),
        (op.relu(x) | op.gelu(x), lambda call, p, q, r: call("gelu", p)),
        (op.relu(maybe(op.dropout(x, ...))), lambda call, p, q, r: call("relu", call("dropout", p, 0.1, False))),
        (op.relu(maybe(op.dropout(x, ...))), lambda call, p, q, r: call("relu", p)),
        (op.mul(x, x), lambda call, p, q, r: call("mul", p, p)),
        (op.add(x, op.relu(x)), lambda call, p, q, r: call("add", call("relu", p), p)),
        (op.add(var("_"), var("_")), lambda call, p, q, r: call("add", p, q)),
        (op.add(op.relu(x), ..., alpha=1), lambda call, p, q, r: call("add", p, call("relu", q))),
        (op.mul(x, y.where(lambda v: v == 2)), lambda call, p, q, r: call("mul", p, 2)),
    ],
)
def test_matches(pattern, make) -> None:
    assert matches(pattern, make)


@pytest.mark.parametrize(
    "pattern, make",
    [
        (op.gelu(x), lambda call, p, q, r: call("gelu", p, approximate="tanh")),
        (op.add(x, y), lambda call, p, q, r: call("add", p, q, alpha=2)),
        (op.add(op.relu(x), y, ...), lambda call, p, q, r: call("add", p, call("relu", q), alpha=2)),
        (op.conv2d(x, w, b), lambda call, p, q, r: call("conv2d", p, q, None, [2, 2])),
        (op.conv2d(x, w, None, ...), lambda call, p, q, r: call("conv2d", p, q, r)),
        (op.mul(x, 1 / 6), lambda call, p, q, r: call("mul", p, 0.16667)),
        (op.sub(op.relu(x), y), lambda call, p, q, r: call("sub", p, call("relu", q))),
        (op.mul(x, x), lambda call, p, q, r: call("mul", p, q)),
        (op.mul(x, 1), lambda call, p, q, r: call("mul", p, True)),
        (op.cat([x, y]), lambda call, p, q, r: call("cat", [p, q, r])),
        (
            op.mul(op.relu(x).named("v"), op.relu(x).named("v")),
            lambda call, p, q, r: call("mul", call("relu", p), call("relu", p)),
        ),
        (op.mul(x, y.where(lambda v: v == 2)), lambda call, p, q, r: call("mul", p, 3)),
        (op.softmax(x, -1), lambda call, p, q, r: call("softmax", p, -1, torch.float32)),
    ],
)
def test_does_not_match(pattern, make) -> None:
    assert not matches(pattern, make)


def test_a_match_names_its_values() -> None:
    conv = op.conv2d(x, w, b, ..., groups=var("groups")).named("conv")
    match = only(op.relu(conv).named("out"), lambda call, p, q, r: call("relu", call("conv2d", p, q)))
    assert match.bindings == {
        "out": match.root,
        "conv": match.root.args[0],
        "x": match["conv"].args[0],
        "w": match["conv"].args[1],
        "b": None,
        "groups": 1,
    }
    assert match.nodes == (match.root, match["conv"])


def test_names_of_alternatives_not_taken_are_none() -> None:
    match = only(op.relu(op.add(x, y) | x), lambda call, p, q, r: call("relu", p))
    assert match["y"] is None and match["x"].name == "p"


def test_an_inner_value_may_escape_where_the_pattern_says_so() -> None:
    def make(call, p, q, r):
        inner = call("sigmoid", p)
        return [call("relu", inner), inner]

    assert not matches(op.relu(op.sigmoid(x)), make)
    assert matches(op.relu(op.sigmoid(x).shared()), make)
    assert matches(op.relu((op.sigmoid(x) | op.tanh(x)).shared()), make)
    assert matches(op.relu(op.sigmoid(x) | y), make), "an alternative that leaves the value outside still holds"


def test_an_inner_value_used_twice_inside_the_match_does_not_escape() -> None:
    def make(call, p, q, r):
        inner = call("sigmoid", p)
        return call("mul", inner, call("relu", inner))

    assert matches(op.sigmoid(x) * op.relu(op.sigmoid(x)), make)


def test_backtracking_goes_back_over_operand_orders() -> None:
    pattern = op.mul(x + y, op.relu(y))
    match = only(pattern, lambda call, p, q, r: call("mul", call("add", p, q), call("relu", p)))
    assert (match["x"].name, match["y"].name) == ("q", "p")


def test_matches_come_in_the_order_of_the_graph() -> None:
    graph = graph_of(lambda call, p, q, r: call("gelu", call("relu", call("gelu", call("relu", p)))))
    assert [m.root.name for m in find(op.relu(x) | op.gelu(x), graph)] == [n.name for n in graph.nodes][3:-1]


def test_indexing_a_pattern_is_a_getitem() -> None:
    graph = fx.Graph()
    parts = graph.call_function(resolve("split"), (graph.placeholder("p"), 2, 1))
    graph.output([graph.call_function(operator.getitem, (parts, i)) for i in (0, 1)])
    (match,) = find(op.split(x, 2, 1).shared()[1], graph)
    assert match.root.args == (parts, 1)


def test_a_search_over_budget_is_an_error_that_names_pattern_and_node() -> None:
    def make(call, p, q, r):
        for _ in range(20):
            p = call("relu", p)
        return call("sigmoid", p)

    pattern = op.tanh(x)
    for _ in range(20):
        pattern = op.relu(pattern) | op.relu(pattern).named("twice")
    with pytest.raises(MatchBudgetError, match=r"matching sigmoid\(.*… at sigmoid .* more than 300 steps") as caught:
        find(op.sigmoid(pattern), graph_of(make), budget=300)
    assert "budget" in str(caught.value)


# Malformed patterns


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: op.rellu(x), r"no ATen operation called 'rellu'.*did you mean 'relu'"),
        (lambda: op["div.Sensor"](x), r"no operation 'div.Sensor'; the overloads are .*Tensor"),
        (lambda: op.relu_(x), r"relu_.* works in place"),
        (lambda: op.relu(x, y), r"relu takes 1 positional arguments \(self\), not 2"),
        (lambda: op.conv2d(x, w, strides=2), r"conv2d has no argument 'strides' \(did you mean 'stride'\?\)"),
        (lambda: op.conv2d(x, w, weight=w), r"conv2d is given 'weight' twice"),
        (lambda: op.transpose(x), r"transpose needs dim0, dim1"),
        (lambda: op.add(..., x), r"\.\.\. may only be the last positional argument"),
        (lambda: op.mul(x, torch.ones(1)), r"Tensor tensor\(\[1\.\]\) cannot stand in a pattern"),
        (lambda: op.mul(x, fx.Graph().placeholder("p")), r"a graph's node cannot stand in a pattern"),
        (lambda: x or y, r"no truth value: write \|"),
        (lambda: x.named("z"), r"x already has the name 'x'"),
        (lambda: op.relu(x).named("not a name"), r"'not a name' cannot be a name"),
        (lambda: x.shared(), r"only a call's value can be .shared\(\)"),
        (lambda: op.relu(x).where("positive"), r"\.where takes a function"),
        (lambda: maybe(x), r"maybe takes a call"),
        (lambda: var(""), r"var needs at least one name"),
        (lambda: find(maybe(op.relu(x)), fx.Graph()), r"may match a value that is not a call"),
    ],
)
def test_a_malformed_pattern_is_an_error_where_it_is_written(make, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        make()


def test_a_failing_where_test_says_which_pattern_it_stands_in() -> None:
    with pytest.raises(KeyError) as caught:
        find(op.relu(x).where(lambda node: node.meta["val"]), graph_of(lambda call, p, q, r: call("relu", p)))
    assert "in the .where test of relu(x), given relu" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "pattern, text",
    [
        (op.relu(op.conv2d(x, w, ..., groups=2).named("conv")), "relu(conv=conv2d(x, w, ..., groups=2))"),
        (op.relu(x) | op.cat([x, y]), "(relu(x) | cat([x, y]))"),
        (op["var.correction"](x, [-1], correction=0), "var(x, [-1], correction=0)"),
        (x[0] @ y * 0.1, "mul(matmul(getitem(x, 0), y), 0.1)"),
        (op.relu(op.relu(op.relu(op.relu(op.relu(x))))), "relu(relu(relu(relu(relu(…)))))"),
    ],
)
def test_a_pattern_reads_as_it_is_written(pattern: Pattern, text: str) -> None:
    assert str(pattern) == text


# Explanations


@pytest.mark.parametrize(
    "pattern, make, explanation",
    [
        (op.gelu(x), lambda call, p, q, r: call("relu", p), "no match: the graph has no call of gelu"),
        (op.relu(x), lambda call, p, q, r: call("relu", p), "1 match at relu"),
        (
            op.relu(x + y),
            lambda call, p, q, r: call("relu", call("add", p, q, alpha=2)),
            "argument 'alpha' of add* should be 1, but it is 2",
        ),
        (
            op.relu(op.tanh(x) | op.erf(x)),
            lambda call, p, q, r: call("relu", call("sigmoid", p)),
            "argument 'self' of relu* should be a call of tanh or a call of erf, but it is sigmoid (sigmoid)",
        ),
        (
            x * op.relu(x),
            lambda call, p, q, r: call("mul", p, call("relu", q)),
            "argument 'self' of relu* is q (placeholder), but 'x' already stands for p (placeholder)",
        ),
        (
            op.tanh(x) * 2,
            lambda call, p, q, r: call("mul", p, q),
            "operands of mul* are p (placeholder) and q (placeholder), in neither order what mul(tanh(x), 2) needs",
        ),
        (
            op.relu(op.tanh(x)),
            lambda call, p, q, r: [call("relu", inner := call("tanh", p)), call("erf", inner)],
            "tanh* escapes to erf, which is outside the match; allow it with .shared()",
        ),
        (
            op.relu(x.where(bool).where(str.isdigit)),
            lambda call, p, q, r: call("relu", "12a"),
            "argument 'self' of relu* is '12a', which does not pass the .where test bool, isdigit",
        ),
    ],
)
def test_explain_says_what_failed(pattern, make, explanation: str) -> None:
    text = re.sub(r" \({1,2}no source recorded\){1,2}", "*", explain(pattern, graph_of(make)))
    assert explanation in text


def test_explain_tells_of_the_attempt_that_got_furthest() -> None:
    pattern = op.relu(op.tanh(op.sigmoid(x)))

    def make(call, p, q, r):
        return [call("relu", call("tanh", call("erf", p))), call("relu", call("erf", q)), call("relu", r)]

    lines = explain(pattern, graph_of(make)).splitlines()
    assert lines == [
        "3 candidates do not match; the closest is relu (no source recorded)",
        "  matched: relu, tanh",
        "  failed:  argument 'self' of tanh (no source recorded) should be a call of sigmoid, but it is erf (erf)",
    ]


def test_every_kind_of_pattern_is_known_to_the_reference() -> None:
    assert set(Pattern.__subclasses__()) == {Variable, Literal, Items, Call, Alternatives} and VARIABLES
