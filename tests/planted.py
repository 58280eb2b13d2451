"""Hypothesis strategies for planted patterns: one recipe makes a pattern, a place where it holds, and near misses.

A recipe is a tree of `Term`s over variables. `as_pattern` spells it in the pattern language; `Planting` writes it into
a graph, in a spelling of its own choice (operand order, keywords, repeated or shared values), among unrelated calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import add, matmul, mul, sub, truediv
from typing import Any

from hypothesis import strategies as st
from torch import fx

from fxcompress.ir.dialect import resolve
from fxcompress.pattern import Pattern, maybe, op, var

VARIABLES = ("a", "b", "c")
UNARY = ("relu", "sigmoid", "tanh")
COMMUTATIVE = ("add", "mul")
ORDERED = ("sub", "div", "matmul")
EITHER_ORDER = 4
OPERATORS = dict(zip(("add", "mul", "sub", "div", "matmul"), (add, mul, sub, truediv, matmul)))


@dataclass(frozen=True)
class Term:
    """A call of `name` on `inputs` (terms, or names of variables) and `literals` (by parameter name)."""

    name: str
    inputs: tuple[Term | str, ...]
    literals: tuple[tuple[str, float | int], ...] = ()
    spelling: int = 0  # chooses between ways to write the same pattern

    def terms(self) -> Iterator[Term]:
        """This term and those inside it, the root first."""
        yield self
        for value in self.inputs:
            if isinstance(value, Term):
                yield from value.terms()


def _extended(inner: st.SearchStrategy) -> st.SearchStrategy[Term]:
    numbers = st.floats(0.25, 8).map(lambda value: round(value, 3))
    spelling = st.integers(0, 5)
    one, two = st.tuples(inner), st.tuples(inner, inner)
    return st.one_of(
        st.builds(Term, st.sampled_from(UNARY), one, spelling=spelling),
        st.builds(Term, st.sampled_from(COMMUTATIVE), two, spelling=spelling),
        st.builds(Term, st.sampled_from(ORDERED), two, spelling=spelling),
        st.builds(Term, st.just("mul"), one, numbers.map(lambda n: (("other", n),)), spelling=spelling),
        st.builds(Term, st.just("clamp"), one, numbers.map(lambda n: (("min", -n), ("max", n))), spelling=spelling),
        st.builds(Term, st.just("softmax"), one, st.integers(-2, 1).map(lambda n: (("dim", n),)), spelling=spelling),
    )


terms: st.SearchStrategy[Term] = _extended(
    st.recursive(st.sampled_from(VARIABLES), _extended, max_leaves=5),
)


def as_pattern(term: Term | str) -> Pattern:
    """The pattern of `term`, in the spelling that each part asks for."""
    if isinstance(term, str):
        return var(term)
    inputs = [as_pattern(value) for value in term.inputs]
    make = getattr(op, term.name)
    if term.spelling == 1 and len(inputs) == 2:
        call = OPERATORS[term.name](*inputs)
    elif term.spelling == 2:
        call = make(*inputs, *(value for _, value in term.literals))
    else:
        call = make(*inputs, **dict(term.literals))
    if term.spelling == 3:
        return op.erf(inputs[0]) | call
    if term.spelling == EITHER_ORDER and len(inputs) == 2:
        return make(*reversed(inputs)) | call  # fails late, after it has bound variables
    return maybe(op.erf(call)) if term.spelling == 5 else call


class Planting:
    """A graph with unrelated calls, into which `plant` writes terms. `choices` is hypothesis's source of decisions."""

    def __init__(self, choices: st.DataObject):
        self.choices, self.graph = choices, fx.Graph()
        self.leaves = {name: self.graph.placeholder(name) for name in (*VARIABLES, "stranger")}
        self.nodes: dict[Term, fx.Node] = {}

    def choose(self, *options: Any) -> Any:
        return self.choices.draw(st.sampled_from(options))

    def call(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(resolve(name), args, kwargs)

    def plant(self, term: Term | str) -> fx.Node:
        """Write `term` into the graph; a term that occurs twice may be one node or two."""
        if isinstance(term, str):
            return self.leaves[term]
        if term in self.nodes and self.choose(False, True):
            return self.nodes[term]
        inputs = [self.plant(value) for value in term.inputs]
        if self.choose(False, True):
            self.call("abs", self.choose(*self.leaves.values()))
        given = dict(term.literals)
        keywords = {name: given.pop(name) for name in ("alpha", "dtype") if name in given}
        if term.name in COMMUTATIVE and self.choose(False, True):
            node = self.call(term.name, *reversed([*inputs, *given.values()]), **keywords)
        elif self.choose(False, True):
            node = self.call(term.name, *inputs, **given, **keywords)
        else:
            node = self.call(term.name, *inputs, *given.values(), **keywords)
        self.nodes[term] = node
        return node

    def finish(self, *outputs: fx.Node) -> fx.Graph:
        users = [self.call("neg", output) for output in outputs]
        self.graph.output(tuple(users))
        self.graph.lint()
        return self.graph


def near_misses(term: Term) -> list[tuple[str, Term]]:
    """Terms that differ from `term` in one thing that matters, each with what was changed."""
    changed = []
    occurrences = [value for part in term.terms() for value in part.inputs if isinstance(value, str)]
    for index, part in enumerate(term.terms()):
        for name, _ in part.literals:
            other = tuple((n, v + 1 if n == name else v) for n, v in part.literals)
            changed.append(("literal", _with(term, index, replace(part, literals=other))))
        if part.name in UNARY:
            other_name = UNARY[UNARY.index(part.name) - 1]
            changed.append(("operation", _with(term, index, replace(part, name=other_name))))
        if part.name == "softmax":
            dtype = (*part.literals, ("dtype", 6))
            changed.append(("an argument not mentioned", _with(term, index, replace(part, literals=dtype))))
        if part.name in ("add", "sub") and not part.literals:
            alpha = (*part.literals, ("alpha", 2))
            changed.append(("an argument not mentioned", _with(term, index, replace(part, literals=alpha))))
        heads = {value.name if isinstance(value, Term) else "variable" for value in part.inputs}
        if part.name in ORDERED and part.spelling != EITHER_ORDER and len(heads) == 2:
            swapped = replace(part, inputs=part.inputs[::-1])
            changed.append(("operands", _with(term, index, swapped)))
        for place, value in enumerate(part.inputs):
            if isinstance(value, str) and occurrences.count(value) > 1:
                inputs = (*part.inputs[:place], "stranger", *part.inputs[place + 1 :])
                changed.append(("variable", _with(term, index, replace(part, inputs=inputs))))
    return changed


def _with(term: Term, index: int, new: Term) -> Term:
    """`term` with the part at `index`, in the order of `Term.terms`, replaced by `new`."""
    if index == 0:
        return new
    inputs, seen = [], 1
    for value in term.inputs:
        size = len(list(value.terms())) if isinstance(value, Term) else 0
        inputs.append(_with(value, index - seen, new) if seen <= index < seen + size else value)
        seen += size
    return replace(term, inputs=tuple(inputs))
