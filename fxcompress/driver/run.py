"""The driver: runs passes, checks each promise on real inputs, and records one row a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from torch import fx

from fxcompress.driver.interface import Context, Pass
from fxcompress.driver.sizes import weight_bytes
from fxcompress.driver.state import let_go, tensors
from fxcompress.driver.verify import Verifier
from fxcompress.errors import FxCompressError, PassError, VerificationError
from fxcompress.ir import dialect
from fxcompress.ir.copies import in_several, join_copies
from fxcompress.report.rows import Report, Row
from fxcompress.report.units import listed
from fxcompress.rewrite.rule import Replacement
from fxcompress.storage.memory import give_back


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
    verifier = Verifier(graph_module, context.example) if check and passes else None
    captured = list(tensors(graph_module))
    if watch:
        watch(0, None, graph_module)
    for position, one in enumerate(passes, 1):
        before = dialect.copy_graph(graph_module.graph)
        context.original, context.coming = context.original or before, passes[position:]
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
                ranges=tuple(context.ranges),
            )
        )
        if watch:
            watch(position, one, graph_module)
        del before
        if let_go(graph_module, captured, context.kept) and verifier:
            verifier.look_again()
        give_back()
    return report


def _run_one(one: Pass, graph_module: fx.GraphModule, context: Context, limit: int | None = None) -> list[Replacement]:
    """Run `one`, with at most `limit` applications of rules, and tidy up behind it."""
    context.pass_name, context.notes, context.ranges, context.limit = one.name, [], [], limit
    in_several_before = in_several(graph_module)
    with context.nonfinite.explaining():
        rewritten = one.run(graph_module, context)
    if not isinstance(rewritten, list) or not all(isinstance(done, Replacement) for done in rewritten):
        raise PassError(
            f"{one.name}.run returned {rewritten!r:.60}, not a list of what it rewrote; end it with "
            "`return context.apply(rules, graph_module)`, or return a list of Replacement.at(node)"
        )
    tidy(graph_module, one)
    if parted := sorted(in_several(graph_module) - in_several_before):
        context.note(
            f"calls that read one tensor need it changed in different ways, so there are several of {listed(parted)}, each of "
            "them in the file, and trained by itself"
        )
    return rewritten


def tidy(graph_module: fx.GraphModule, one: Pass) -> None:
    """Remove dead nodes, join equal copies, lint, and check the dialect; an offence is `one`'s fault."""
    try:
        graph_module.graph.eliminate_dead_code()
        join_copies(graph_module)
        graph_module.graph.lint()
        dialect.check(graph_module)
    except (RuntimeError, FxCompressError) as problem:
        raise VerificationError(f"{one.name} left an invalid graph behind: {problem}") from problem
    graph_module.recompile()
