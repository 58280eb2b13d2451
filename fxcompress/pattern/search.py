"""The search for one match: a pattern compiled into matchers, and goals to meet.

A goal is a matcher and the value that it has to match. The search branches only where more than one alternative or
operand order passes a constant-time test of its head, so most patterns match without any backtracking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from torch import fx

from fxcompress.errors import MatchBudgetError, PatternError, describe
from fxcompress.ir.dialect import COMMUTATIVE
from fxcompress.ir.signature import names_dimensions, same_dimensions, same_value, signature
from fxcompress.pattern.language import Alternatives, Call, Items, Literal, Pattern, Variable
from fxcompress.pattern.structure import literal, names

# A linked list of goals: () or (matcher, value, the rest). A step returns the goals left to solve, or the outcome.
Goals = tuple
Outcome = Goals | bool


class Trace(Protocol):
    """Watches a search; see `explain`."""

    def failed(self, search: Search, pattern: Pattern, value: Any, argument: tuple[fx.Node, str] | None) -> None: ...

    def escaped(self, search: Search, node: fx.Node, user: fx.Node) -> None: ...


class Search:
    """The state of one search: what is bound and matched so far, and the steps taken."""

    __slots__ = ("bindings", "bound", "budget", "exposed", "nodes", "pattern", "root", "steps", "trace")

    def __init__(self, pattern: Pattern, root: fx.Node, budget: int, trace: Trace | None = None):
        self.pattern, self.root, self.budget, self.trace = pattern, root, budget, trace
        self.bindings: dict[str, Any] = {}
        self.bound: list[str] = []
        self.nodes: list[fx.Node] = []
        self.exposed: list[fx.Node] = []  # matched, with several users: all of them must turn out to be in the match
        self.steps = 0

    def run(self) -> bool:
        """Whether the pattern holds at the root."""
        return self.solve((compiled(self.pattern).matcher, self.root, ()))

    def solve(self, goals: Any) -> bool:
        """Whether all `goals` can be met at once. After success the state is the solution; after failure, arbitrary."""
        while goals:
            if goals is True:
                return True
            self.steps += 1
            if self.steps > self.budget:
                raise MatchBudgetError(
                    f"matching {self.pattern} at {describe(self.root)} took more than {self.budget} steps; "
                    "give the pattern fewer alternatives, put the more specific ones first, or raise the budget"
                )
            matcher, value, rest = goals
            goals = matcher.step(self, value, rest)
        return goals is not False and self._closed()

    def branch(self, branches: list[Goals]) -> Outcome:
        """The first of `branches` that can be solved. The last one is left to the caller to solve."""
        for goals in branches[:-1]:
            bound, nodes, exposed = len(self.bound), len(self.nodes), len(self.exposed)
            if self.solve(goals):
                return True
            for name in self.bound[bound:]:
                del self.bindings[name]
            del self.bound[bound:], self.nodes[nodes:], self.exposed[exposed:]
        return branches[-1] if branches else False

    def bind(self, name: str, value: Any) -> bool:
        """Give `name` the `value`; False where it has another already."""
        if name in self.bindings:
            return same_value(self.bindings[name], value)
        self.bindings[name] = value
        self.bound.append(name)
        return True

    def fail(self, pattern: Pattern, value: Any, argument: tuple[fx.Node, str] | None = None) -> bool:
        """False, told to the trace if there is one."""
        if self.trace is not None:
            self.trace.failed(self, pattern, value, argument)
        return False

    def _closed(self) -> bool:
        for node in self.exposed:
            for user in node.users:
                if user not in self.nodes:
                    if self.trace is not None:
                        self.trace.escaped(self, node, user)
                    return False
        return True


class _Matcher:
    """A compiled pattern. `heads` are the call targets it can match, or None where it can match other values."""

    leaf = False
    heads: frozenset[Callable] | None = None

    def __init__(self, pattern: Pattern):
        self.pattern, self.name, self.tests = pattern, pattern.name, pattern.tests

    def head(self, search: Search, value: Any) -> bool:
        """A necessary condition on `value`, in constant time."""
        return isinstance(value, fx.Node) and value.target in self.heads  # type: ignore[operator]

    def admits(self, search: Search, value: Any) -> bool:
        """Bind the name and run the tests."""
        if self.name is not None and not search.bind(self.name, value):
            return False
        for test in self.tests:
            try:
                if not test(value):
                    return False
            except Exception as error:
                error.add_note(f"in the .where test of {self.pattern}, given {value}")
                raise
        return True

    def step(self, search: Search, value: Any, rest: Goals) -> Outcome:
        """Match as much of `value` as needs no search; return the goals that remain, before `rest`."""
        return rest if self.admits(search, value) else search.fail(self.pattern, value)


class _Variable(_Matcher):
    leaf = True

    def head(self, search: Search, value: Any) -> bool:
        return self.name not in search.bindings or same_value(search.bindings[self.name], value)


class _Literal(_Matcher):
    leaf = True

    def __init__(self, pattern: Literal):
        super().__init__(pattern)
        self.value = pattern.value

    def head(self, search: Search, value: Any) -> bool:
        return same_value(self.value, value)

    def admits(self, search: Search, value: Any) -> bool:
        return same_value(self.value, value) and super().admits(search, value)


class _Items(_Matcher):
    def __init__(self, pattern: Items, items: list[_Matcher]):
        super().__init__(pattern)
        self.items = items

    def head(self, search: Search, value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) == len(self.items)

    def step(self, search: Search, value: Any, rest: Goals) -> Outcome:
        if not self.head(search, value) or not self.admits(search, value):
            return search.fail(self.pattern, value)
        for matcher, item in zip(reversed(self.items), reversed(value)):
            rest = (matcher, item, rest)
        return rest


class _Alternatives(_Matcher):
    def __init__(self, pattern: Alternatives, options: list[_Matcher]):
        super().__init__(pattern)
        heads = [option.heads for option in options if option.heads is not None]
        if len(heads) == len(options):
            self.heads = frozenset().union(*heads)
        # the options worth trying on a call of each target, and on everything else
        self.others = [option for option in options if option.heads is None]
        self.options_for = {
            target: [option for option in options if option.heads is None or target in option.heads]
            for target in frozenset().union(*heads)
        }

    def options(self, value: Any) -> list[_Matcher]:
        return self.options_for.get(value.target, self.others) if isinstance(value, fx.Node) else self.others

    def head(self, search: Search, value: Any) -> bool:
        if self.heads is not None:
            return super().head(search, value)
        return any(option.head(search, value) for option in self.options(value))

    def step(self, search: Search, value: Any, rest: Goals) -> Outcome:
        branches = [(option, value, rest) for option in self.options(value) if option.head(search, value)]
        if not branches or not self.admits(search, value):
            return search.fail(self.pattern, value)
        return search.branch(branches)


class _Call(_Matcher):
    def __init__(self, pattern: Call, operands: dict[str, _Matcher]):
        super().__init__(pattern)
        self.target, self.heads, self.escapes = pattern.target, frozenset({pattern.target}), pattern.escapes
        declared = signature(pattern.target)
        self.commutes = pattern.target in COMMUTATIVE
        operands_in_order = []  # (position, name, default, matcher) of each argument that is not waived
        for position, (name, default) in enumerate(zip(declared.names, declared.defaults)):
            if name in operands:
                matcher = operands[name]
            elif name not in pattern.waived:
                matcher = _Literal(Literal(default))
            elif self.commutes and position < 2:
                matcher = _Variable(Variable())
            else:
                continue
            operands_in_order.append((position, name, default, matcher))
        self.pair = operands_in_order[:2] if self.commutes else []
        others = operands_in_order[len(self.pair) :]
        self.dimensions = [o for o in others if names_dimensions(self.target, o[1]) and literal(o[3].pattern) is not None]
        others = [operand for operand in others if operand not in self.dimensions]
        self.leaves = [operand for operand in others if operand[3].leaf]
        self.inner = [operand for operand in reversed(others) if not operand[3].leaf]

    def step(self, search: Search, node: Any, rest: Goals) -> Outcome:
        if not isinstance(node, fx.Node) or node.target is not self.target or not self.admits(search, node):
            return search.fail(self.pattern, node)
        if len(node.users) > 1 and not self.escapes and node is not search.root:
            search.exposed.append(node)
        search.nodes.append(node)
        args, kwargs = node.args, node.kwargs
        for index, name, default, matcher in self.leaves:
            value = args[index] if index < len(args) else kwargs.get(name, default)
            if not matcher.admits(search, value):
                return search.fail(matcher.pattern, value, (node, name))
        for index, name, default, matcher in self.dimensions:
            value = args[index] if index < len(args) else kwargs.get(name, default)
            if not same_dimensions(node, literal(matcher.pattern), value):
                return search.fail(matcher.pattern, value, (node, name))
        for index, name, default, matcher in self.inner:
            value = args[index] if index < len(args) else kwargs.get(name, default)
            rest = (matcher, value, rest)
        return self._either_order(search, node, rest) if self.commutes else rest

    def _either_order(self, search: Search, node: fx.Node, rest: Goals) -> Outcome:
        (_, first_name, _, first), (_, second_name, _, second) = self.pair
        args, kwargs = node.args, node.kwargs
        left = args[0] if args else kwargs.get(first_name)
        right = args[1] if len(args) > 1 else kwargs.get(second_name)
        branches = []
        if first.head(search, left) and second.head(search, right):
            branches.append((first, left, (second, right, rest)))
        # a + alpha * b commutes only while alpha is 1
        swaps = left is not right and same_value(kwargs.get("alpha", 1), 1)
        if swaps and first.head(search, right) and second.head(search, left):
            branches.append((first, right, (second, left, rest)))
        return search.branch(branches) if branches else search.fail(self.pattern, (left, right), (node, "operands"))


@dataclass(frozen=True)
class Compiled:
    """A pattern ready for searching: its matcher, the call targets its root can have, and its names."""

    matcher: _Matcher
    heads: frozenset[Callable]
    names: tuple[str, ...]


@lru_cache(maxsize=4096)
def compiled(pattern: Pattern) -> Compiled:
    """`pattern` compiled, once.

    Raises:
        PatternError: the whole pattern may match something that is not a call.
    """
    matcher = _compile(pattern, {})
    if matcher.heads is None:
        raise PatternError(f"{pattern} may match a value that is not a call; its outermost part must be one, as op.relu(x)")
    return Compiled(matcher, matcher.heads, names(pattern))


def _compile(pattern: Pattern, made: dict[int, _Matcher]) -> _Matcher:
    if id(pattern) not in made:
        made[id(pattern)] = _matcher(pattern, made)
    return made[id(pattern)]


def _matcher(pattern: Pattern, made: dict[int, _Matcher]) -> _Matcher:
    match pattern:
        case Variable():
            return _Variable(pattern)
        case Literal():
            return _Literal(pattern)
        case Items():
            return _Items(pattern, [_compile(item, made) for item in pattern.items])
        case Alternatives():
            return _Alternatives(pattern, [_compile(option, made) for option in pattern.options])
        case Call():
            return _Call(pattern, {name: _compile(operand, made) for name, operand in pattern.operands.items()})
    raise PatternError(f"{pattern!r} is not a pattern; build one from op, var and literals")
