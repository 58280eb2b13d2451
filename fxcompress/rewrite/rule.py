"""Rules, a pattern and a builder each, and applying them to a graph until nothing matches."""

from __future__ import annotations

import heapq
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from fxcompress.errors import PatternError, RuleError, describe, did_you_mean, source_line
from fxcompress.pattern import Pattern
from fxcompress.pattern.matcher import Match, match_at, root_targets
from fxcompress.pattern.opnames import target_name
from fxcompress.pattern.structure import depth, names
from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example


@dataclass(frozen=True, eq=False)
class Rule:
    """Where `pattern` holds, put what `builder` builds. Make one with `rewrite`.

    `accept` are examples that the rule changes without changing their outputs, `reject` ones that it leaves alone.
    """

    name: str
    pattern: Pattern
    builder: Callable[..., fx.Node | None]
    accept: tuple[Example, ...] = ()
    reject: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(self.builder).parameters.values())
        if not parameters or parameters[0].name in names(self.pattern):
            raise PatternError(f"rule {self.name}: the builder's first parameter must be `new`, what it builds with")
        for parameter in parameters[1:]:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise PatternError(f"rule {self.name}: name the builder's parameters one by one, not {parameter}")
            if parameter.name not in names(self.pattern):
                hint = did_you_mean(parameter.name, names(self.pattern))
                known = ", ".join(names(self.pattern))
                raise PatternError(f"rule {self.name}: its pattern binds no {parameter.name!r}{hint}; the names are: {known}")
        root_targets(self.pattern)

    @property
    def wants(self) -> tuple[str, ...]:
        """The pattern's names that the builder takes."""
        return tuple(inspect.signature(self.builder).parameters)[1:]


def rewrite(pattern: Pattern, *, accept: Iterable[Example] = (), reject: Iterable[Example] = ()) -> Callable[..., Rule]:
    """Make the decorated builder a `Rule`, under its own name.

    The builder takes `new` (a `Builder`) and any of the pattern's names, and returns the node that replaces the root of
    the match, a new or an existing one of the same shape and dtype; or None where the rule does not apply after all.

    Raises:
        PatternError: the builder has a parameter that the pattern does not name.
    """
    return lambda builder: Rule(builder.__name__, pattern, builder, tuple(accept), tuple(reject))


@dataclass(frozen=True)
class Replacement:
    """One rewrite: the rule, the name of the root it replaced, the node in its place, and the user's source line."""

    rule: str
    root: str
    node: str
    source: str

    @classmethod
    def at(cls, node: fx.Node) -> Replacement:
        """What a pass did to `node`, or put there, without a rule."""
        return cls("", node.name, node.name, source_line(node))


@dataclass
class RewriteResult:
    """What `apply` did, in order."""

    replacements: list[Replacement] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """How many times each rule was applied."""
        return Counter(replacement.rule for replacement in self.replacements)

    def __len__(self) -> int:
        return len(self.replacements)


def apply(
    rules: Rule | Iterable[Rule],
    graph_module: fx.GraphModule,
    *,
    created_by: str,
    where: Callable[[fx.Node], bool] | None = None,
    limit: int | None = None,
) -> RewriteResult:
    """Rewrite `graph_module` in place with `rules` until none matches: in the order of the graph, the first rule first.

    `created_by` is the name of the pass, recorded on each new node. `where` limits the rules to the roots for which it
    is true; `limit` stops after so many rewrites. Calls that nothing uses any more are erased; parameters and buffers
    stay, used or not.

    Raises:
        RuleError: a builder failed, built something of another shape or dtype, or the rules go on for ever.
        MatchBudgetError: as `find`.
    """
    rewriting = _Rewriting([rules] if isinstance(rules, Rule) else list(rules), graph_module, created_by)
    rewriting.run(where or (lambda node: True), limit)
    if rewriting.result.replacements:
        graph_module.recompile()
    return rewriting.result


class _Rewriting:
    """One run of `apply`: the roots still to look at, as a heap in the order of the graph."""

    def __init__(self, rules: list[Rule], graph_module: fx.GraphModule, created_by: str):
        self.graph_module, self.graph, self.created_by = graph_module, graph_module.graph, created_by
        self.rules_at: dict[Any, list[Rule]] = {}
        for rule in rules:
            for target in root_targets(rule.pattern):
                self.rules_at.setdefault(target, []).append(rule)
        self.reach = max((depth(rule.pattern) for rule in rules), default=0)
        self.endless = 100 + 10 * len(self.graph.nodes)  # more rewrites than that will never end
        self.heap: list[fx.Node] = []
        self.pending: set[fx.Node] = set()
        self.result = RewriteResult()

    def run(self, where: Callable[[fx.Node], bool], limit: int | None) -> None:
        for target in self.rules_at:
            for node in self.graph.find_nodes(op="call_function", target=target, sort=False):
                self.push(node)
        while self.heap and (limit is None or len(self.result) < limit):
            node = heapq.heappop(self.heap)
            self.pending.discard(node)
            if node._erased or not where(node):
                continue
            for rule in self.rules_at[node.target]:
                match = match_at(rule.pattern, node)
                if match is not None and self.rewrite(rule, match):
                    break

    def push(self, node: fx.Node) -> None:
        if node not in self.pending and not node._erased and node.target in self.rules_at:
            self.pending.add(node)
            heapq.heappush(self.heap, node)

    def rewrite(self, rule: Rule, match: Match) -> bool:
        new = Builder(self.graph_module, match, rule=rule.name, created_by=self.created_by)
        try:
            replacement = rule.builder(new, **{name: match[name] for name in rule.wants})
            if replacement is not None:
                _check(new, match.root, replacement)
        except Exception as error:
            new.undo()
            raise RuleError(f"rule {rule.name} failed at {describe(match.root)}: {error}") from error
        if replacement is None:
            new.undo()
            return False
        if len(self.result) >= self.endless:
            new.undo()
            raise RuleError(
                f"rule {rule.name} still matches after {self.endless} rewrites, now at {describe(match.root)}; "
                "let its builder return None where it has been applied, or tighten its pattern"
            )
        root_name, source = match.root.name, source_line(match.root)
        self.replace(match, replacement, new)
        self.result.replacements.append(Replacement(rule.name, root_name, replacement.name, source))
        return True

    def replace(self, match: Match, replacement: fx.Node, new: Builder) -> None:
        match.root.replace_all_uses_with(replacement)
        gone, border = self.erase_dead([match.root, *new.created])
        if replacement in new.created:
            _take_name(replacement, match.root, [node for node in match.nodes if node in gone])
        for node in (*new.created, replacement, *border):
            self.push_downstream(node)

    def erase_dead(self, nodes: list[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
        """Erase those of `nodes` that nothing uses, and what only they used; also the nodes that lost a user."""
        gone, border, waiting = set(), set(), list(nodes)
        while waiting:
            node = waiting.pop()
            if node in gone or node.users or node.op in ("placeholder", "output"):
                continue
            waiting += node.all_input_nodes
            border.update(node.all_input_nodes)
            self.graph.erase_node(node)
            gone.add(node)
        return gone, border - gone

    def push_downstream(self, node: fx.Node) -> None:
        """Look again at every root whose match could now include `node`."""
        level = {node}
        for _ in range(self.reach + 1):
            for reached in level:
                self.push(reached)
            level = {user for reached in level for user in reached.users}


def _check(new: Builder, root: fx.Node, replacement: Any) -> None:
    if not isinstance(replacement, fx.Node):
        raise RuleError(f"the builder returned {replacement!r}; it must return a node, or None for 'not here'")
    if replacement is root or any(root in node.all_input_nodes for node in new.created):
        raise RuleError(f"the replacement uses {root.name}, the very node it replaces; build it from the root's inputs")
    expected, found = new.value(root), new.value(replacement)
    if not _same_kind(expected, found):
        raise RuleError(f"the replacement is {_kind(found)}, but {root.name} is {_kind(expected)}")


def _same_kind(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same_rank = left.dtype == right.dtype and left.dim() == right.dim()
        # symbolic sizes differ only where that is certain: comparing them outright would specialise the graph
        return same_rank and not any(statically_known_true(a != b) for a, b in zip(left.shape, right.shape))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same_kind, left, right))
    return type(left) is type(right)


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _take_name(node: fx.Node, root: fx.Node, gone: list[fx.Node]) -> None:
    """Give `node` the name a reader expects: that of the erased call of the same kind, or the root's."""
    if root not in gone:
        return
    same = [other.name for other in gone if other.target is node.target]
    old, new = target_name(root.target).partition(".")[0], target_name(node.target).partition(".")[0]
    spelled = re.sub(rf"(^|_){re.escape(old)}(_\d+)?$", rf"\g<1>{new}", root.name)
    wanted = same[0] if same else spelled
    if wanted in {other.name for other in gone}:
        node.name = wanted  # free again, though the graph's namespace still lists it
    else:
        node._rename(wanted)
