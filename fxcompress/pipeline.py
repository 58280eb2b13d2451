"""Passes, and the driver that plans, runs and verifies them.

A pass declares what it promises about the function computed (`Effect`) and which facts it needs, gives and breaks.
The driver refuses an impossible order before any work, checks each promise on real inputs after each pass, and records
one row a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import fx

from fxcompress import dialect
from fxcompress.builder import attribute
from fxcompress.effect import Effect
from fxcompress.errors import FxCompressError, PlanError, VerificationError, did_you_mean
from fxcompress.inputs import ExampleInputs
from fxcompress.report import Report, Row
from fxcompress.rewrite import Replacement, Rule, apply
from fxcompress.short_repr import short_repr
from fxcompress.targets import Target
from fxcompress.training import Controller
from fxcompress.verify import Verifier


@dataclass
class Context:
    """What a pass may look at beside the graph.

    Attributes:
        example: inputs that the graph accepts; verification runs on them.
        target: the runtime that the result is meant for.
        data: calibration batches, which can be read several times, or None.
        original: the graph as it was before the first pass; its constants are those of the graph module, which passes
            replace and never change.
        reference: the float model as it was before quantizers were inserted, once they are.
        progress: called as ``progress(description, done, total)``; `total` is None where unknown.
        lower: from a graph with quantizers to the one of its file, for passes that measure files.
        notes: what the running pass tells the reader of the report.
        limit: at most so many rewrites by `apply`; the driver searches with it for the one that breaks a promise.
        pass_name: the running pass.
    """

    example: ExampleInputs
    target: Target
    data: Iterable[Any] | None = None
    original: fx.Graph | None = None
    reference: fx.GraphModule | None = None
    progress: Callable[[str, int, int | None], None] = lambda description, done, total: None
    lower: Callable[[fx.GraphModule], fx.GraphModule] = lambda graph_module: graph_module
    notes: list[str] = field(default_factory=list)
    limit: int | None = None
    pass_name: str = ""

    def apply(
        self, rules: Sequence[Rule], graph_module: fx.GraphModule, where: Callable[[fx.Node], bool] | None = None
    ) -> list[Replacement]:
        """Apply `rules` to `graph_module` until none matches, and return what was rewritten."""
        return apply(rules, graph_module, created_by=self.pass_name, where=where, limit=self.limit).replacements


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One rewrite of the whole graph. Subclasses are frozen dataclasses: their fields are the pass's options.

    `run` edits the graph module in place and returns what it rewrote. Nodes that it creates carry
    ``meta["created_by"] = self.name``, which `Context.apply` sees to.
    """

    effect: ClassVar[Effect]
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    breaks: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        return type(self).__name__

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        raise TypeError(f"{self.name} does not define run(graph_module, context)")

    def controller(self, graph_module: fx.GraphModule) -> Controller | None:
        """What a training loop steers of this pass's work in the compiled `graph_module`; None where there is nothing."""
        return None

    def __str__(self) -> str:
        return short_repr(self)


def plan(passes: Sequence[Pass], facts: frozenset[str] = frozenset()) -> None:
    """Check that every pass finds what it needs when its turn comes, starting from `facts`.

    Raises:
        PlanError: names the pass, the unmet need, and the passes that provide it.
    """
    if not isinstance(passes, Sequence) or isinstance(passes, str):
        raise PlanError(f"passes come in a list, such as [Quantize(), Calibrate()], not as {passes!s:.60}")
    for position, one in enumerate(passes):
        if not isinstance(one, Pass):
            raise PlanError(f"passes[{position}] is {one!r}, which is not a Pass{_meant(one)}")
        if not isinstance(getattr(one, "effect", None), Effect):
            raise PlanError(f"{one.name} declares no effect; set `effect = Effect.EXACT`, ROUNDING or LOSSY on the class")
        for need in sorted(one.needs - facts):
            raise PlanError(_unmet(one, need, passes[position + 1 :]))
        facts = (facts | one.gives) - one.breaks


def _meant(one: Any) -> str:
    """What to write in place of `one`, a class or a name, where that is a pass."""
    if isinstance(one, str):
        return did_you_mean(one, [f"{known.__name__}()" for known in _all_passes(Pass)])
    return f"; write {one.__name__}()" if isinstance(one, type) and issubclass(one, Pass) else ""


def _unmet(one: Pass, need: str, later: Sequence[Pass]) -> str:
    message = f"{one.name} needs {need!r}, which nothing before it provides"
    misplaced = [p.name for p in later if need in p.gives]
    if misplaced:
        return f"{message}; list {misplaced[0]} before {one.name}"
    providers = sorted(p.__name__ for p in _all_passes(Pass) if need in p.gives)
    return f"{message}; add {' or '.join(providers)} before it" if providers else message


def _all_passes(root: type[Pass]) -> list[type[Pass]]:
    return [p for child in root.__subclasses__() for p in (child, *_all_passes(child))]


def run(
    graph_module: fx.GraphModule,
    passes: Sequence[Pass],
    context: Context,
    *,
    check: bool = True,
    watch: Callable[[int, Pass | None, fx.GraphModule], None] | None = None,
) -> Report:
    """Run `passes` over `graph_module` in place.

    Args:
        check: compare the outputs on the example inputs before and after each pass.
        watch: called with (position, pass, graph) before the first pass, as (0, None, graph), and after each one.

    Raises:
        VerificationError: a pass broke its promise; names the pass, the rule, the node and the source line.
    """
    report = Report()
    verifier = Verifier(graph_module, context.example) if check else None
    if watch:
        watch(0, None, graph_module)
    for position, one in enumerate(passes, 1):
        before = dialect.copy_graph(graph_module.graph)
        context.original = context.original or before
        context.progress(str(one), position - 1, len(passes))
        started = time.perf_counter()
        rewritten = _run_one(one, graph_module, context)
        milliseconds = (time.perf_counter() - started) * 1e3
        decibels = None
        if verifier:
            retry = partial(_run_one, one, context=context)
            decibels = verifier.check(one.name, one.effect, before, rewritten, retry)
        report.rows.append(
            Row(
                name=str(one),
                effect=one.effect.value,
                nodes_before=len(before.nodes),
                nodes_after=len(graph_module.graph.nodes),
                rewrites=len(rewritten),
                bytes=weight_bytes(graph_module),
                decibels=decibels,
                milliseconds=milliseconds,
                notes=tuple(context.notes),
            )
        )
        if watch:
            watch(position, one, graph_module)
    return report


def _run_one(one: Pass, graph_module: fx.GraphModule, context: Context, limit: int | None = None) -> list[Replacement]:
    """Run `one`, with at most `limit` applications of rules, and tidy up behind it."""
    context.pass_name, context.notes, context.limit = one.name, [], limit
    rewritten = one.run(graph_module, context)
    tidy(graph_module, one)
    return rewritten


def tidy(graph_module: fx.GraphModule, one: Pass) -> None:
    """Remove dead nodes, lint, and check the dialect; an offence is `one`'s fault."""
    try:
        graph_module.graph.eliminate_dead_code()
        graph_module.graph.lint()
        dialect.check(graph_module)
    except (RuntimeError, FxCompressError) as problem:
        raise VerificationError(f"{one.name} left an invalid graph behind: {problem}") from problem
    graph_module.recompile()


def weight_bytes(graph_module: fx.GraphModule) -> int:
    """Bytes of the tensors that the graph reads, each as it will be in a file: integers with their scales and zero points."""
    seen: dict[int, int] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            tensor = attribute(graph_module, node.target)
            if isinstance(tensor, torch.Tensor):
                written = next(_modules_after(graph_module, node), None)
                seen[id(tensor)] = written.bytes_in_file(tensor.numel()) if written else tensor.nbytes
    return sum(seen.values())


def _modules_after(graph_module: fx.GraphModule, node: fx.Node):
    """The modules behind a constant, one after the other, that say how it is stored."""
    for user in node.users:
        if user.op == "call_module":
            module = graph_module.get_submodule(user.target)
            if hasattr(module, "bytes_in_file"):
                yield module
            yield from _modules_after(graph_module, user)
