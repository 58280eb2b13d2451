"""Passes, and the driver that plans, runs and verifies them.

A pass declares what it promises about the function computed (`Effect`) and which facts it needs, gives and breaks.
The driver refuses an impossible order before any work, checks each promise on real inputs after each pass, and records
one row a pass.
"""

from __future__ import annotations

import copy
import enum
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import fx

from fxcompress import dialect, verify
from fxcompress.builder import attribute
from fxcompress.errors import FxCompressError, PlanError, VerificationError
from fxcompress.inputs import ExampleInputs
from fxcompress.report import Report, Row
from fxcompress.rewrite import Replacement, Rule, apply
from fxcompress.targets import Target


class Effect(enum.Enum):
    """What a pass promises about the outputs."""

    EXACT = "exact"
    """The same bits."""
    ROUNDING = "rounding"
    """The same function over the reals: outputs within 80 dB."""
    LOSSY = "lossy"
    """Compression happens here; the loss is reported, not judged."""


@dataclass
class Context:
    """What a pass may look at beside the graph.

    Attributes:
        example: inputs that the graph accepts; verification runs on them.
        target: the runtime that the result is meant for.
        data: calibration batches, or None.
        progress: called as ``progress(description, done, total)``; `total` is None where unknown.
    """

    example: ExampleInputs
    target: Target
    data: Iterable[Any] | None = None
    progress: Callable[[str, int, int | None], None] = lambda description, done, total: None
    notes: list[str] = field(default_factory=list)
    limit: int | None = None
    """At most so many rewrites by `apply`; the driver searches with it for the one that breaks a promise."""
    _pass_name: str = ""

    def apply(
        self, rules: Sequence[Rule], graph_module: fx.GraphModule, where: Callable[[fx.Node], bool] | None = None
    ) -> list[Replacement]:
        """Apply `rules` to `graph_module` until none matches, and return what was rewritten."""
        return apply(rules, graph_module, created_by=self._pass_name, where=where, limit=self.limit).replacements


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

    def __str__(self) -> str:
        options = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}({', '.join(options)})"


def plan(passes: Sequence[Pass], facts: frozenset[str] = frozenset()) -> None:
    """Check that every pass finds what it needs when its turn comes, starting from `facts`.

    Raises:
        PlanError: names the pass, the unmet need, and the passes that provide it.
    """
    for position, one in enumerate(passes):
        if not isinstance(one, Pass):
            hint = f"; write {one.__name__}()" if isinstance(one, type) and issubclass(one, Pass) else ""
            raise PlanError(f"passes[{position}] is {one!r}, which is not a Pass{hint}")
        if not isinstance(getattr(one, "effect", None), Effect):
            raise PlanError(f"{one.name} declares no effect; set `effect = Effect.EXACT`, ROUNDING or LOSSY on the class")
        for need in sorted(one.needs - facts):
            raise PlanError(_unmet(one, need, passes[position + 1 :]))
        facts = (facts | one.gives) - one.breaks


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
    outputs = verify.outputs(graph_module, context.example) if check else None
    if watch:
        watch(0, None, graph_module)
    for position, one in enumerate(passes, 1):
        before = copy.deepcopy(graph_module.graph) if check and one.effect is not Effect.LOSSY else None
        size_before = len(graph_module.graph.nodes)
        started = time.perf_counter()
        context._pass_name, context.notes = one.name, []
        rewritten = one.run(graph_module, context)
        tidy(graph_module, one)
        seconds = time.perf_counter() - started
        decibels = None
        if outputs is not None:
            new_outputs = verify.outputs(graph_module, context.example)
            decibels = verify.agreement(outputs, new_outputs)
            if not _kept(one.effect, decibels):
                raise _broken_promise(graph_module, one, before, context, outputs, decibels, rewritten)
            outputs = new_outputs
        report.rows.append(
            Row(
                name=str(one),
                effect=one.effect.value,
                nodes_before=size_before,
                nodes_after=len(graph_module.graph.nodes),
                rewrites=len(rewritten),
                bytes=weight_bytes(graph_module),
                decibels=decibels,
                milliseconds=seconds * 1e3,
                notes=tuple(context.notes),
            )
        )
        if watch:
            watch(position, one, graph_module)
    return report


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
    """Bytes of the tensors that the graph reads, each at the width that it will have in a file."""
    seen: dict[int, int] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            tensor = attribute(graph_module, node.target)
            if isinstance(tensor, torch.Tensor):
                width = next((m.bytes_per_weight for m in _modules_after(graph_module, node)), tensor.element_size())
                seen[id(tensor)] = int(tensor.numel() * width)
    return sum(seen.values())


def _modules_after(graph_module: fx.GraphModule, node: fx.Node):
    for user in node.users:
        module = graph_module.get_submodule(user.target) if user.op == "call_module" else None
        if hasattr(module, "bytes_per_weight"):
            yield module


def _kept(effect: Effect, decibels: float) -> bool:
    if effect is Effect.EXACT:
        return decibels == float("inf")
    return effect is Effect.LOSSY or decibels >= verify.ROUNDING_DECIBELS


def _broken_promise(graph_module, one, before, context, outputs, decibels, rewritten) -> VerificationError:
    found = f"the outputs agree to {decibels:.1f} dB only"
    promise = "the same bits" if one.effect is Effect.EXACT else f"at least {verify.ROUNDING_DECIBELS:.0f} dB"
    culprit = _culprit(graph_module, one, before, context, outputs, rewritten)
    blame = (
        f"; rule {culprit.rule!r} is wrong where it replaced {culprit.root!r} ({culprit.source}). Correct the rule, or declare the pass's effect as it is"
        if culprit
        else f". Correct {one.name}.run, or declare its effect as it is"
    )
    return VerificationError(f"{one.name} promised {promise}, but {found}{blame}")


def _culprit(graph_module, one, before, context, outputs, rewritten) -> Replacement | None:
    """The first rewrite after which the promise is broken, by bisection over how many are allowed."""
    if not any(r.rule for r in rewritten):
        return None
    low, high = 0, len(rewritten)  # with `low` rewrites the promise holds, with `high` it does not
    culprit = None
    while high - low > 1:
        middle = (low + high) // 2
        context.limit = middle
        trial = fx.GraphModule(graph_module, copy.deepcopy(before))
        done = one.run(trial, context)
        trial.recompile()
        if _kept(one.effect, verify.agreement(outputs, verify.outputs(trial, context.example))):
            low = middle
        else:
            high, culprit = middle, done[-1]
    context.limit = None
    return culprit or rewritten[high - 1]


def write_dump(folder: Path) -> Callable[[int, Pass | None, fx.GraphModule], None]:
    """A watcher for `run` that writes the graph after every pass to `folder`, as text, DOT, GraphML and a picture."""
    from fxcompress.graph.dump import dump

    def watch(position: int, one: Pass | None, graph_module: fx.GraphModule) -> None:
        name = one.name if one else "Capture"
        dump(graph_module, folder, f"{position:02d}-{name}", highlight=name if one else None, title=str(one or "captured"))

    return watch
