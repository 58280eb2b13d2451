"""What a pass is, and what it is given: the contract between the driver and every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.nonfinite import NonFinite
from fxcompress.driver.effect import Effect
from fxcompress.driver.state import targets
from fxcompress.options import Declared
from fxcompress.report.ranges import RangeChoice
from fxcompress.report.short_repr import short_repr
from fxcompress.rewrite.rule import Replacement, Rule, apply
from fxcompress.targets import Target
from fxcompress.training.controller import Controller


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
        ranges: those that the running pass has chosen by their cost, for the report.
        coming: the passes that run after the running one, in their order.
        limit: at most so many rewrites by `apply`; the driver searches with it for the one that breaks a promise.
        pass_name: the running pass.
        nonfinite: where the data that passes have read is NaN or infinite; told in the notes of the first that met it.
        let_go: names of tensors of which the graphs of earlier steps are to keep the shape alone.
    """

    example: ExampleInputs
    target: Target
    data: Iterable[Any] | None = None
    original: fx.Graph | None = None
    reference: fx.GraphModule | None = None
    progress: Callable[[str, int, int | None], None] = lambda description, done, total: None
    lower: Callable[[fx.GraphModule], fx.GraphModule] = lambda graph_module: graph_module
    notes: list[str] = field(default_factory=list)
    ranges: list[RangeChoice] = field(default_factory=list)
    coming: Sequence[Pass] = ()
    limit: int | None = None
    pass_name: str = ""
    nonfinite: NonFinite = field(default_factory=NonFinite)
    let_go: set[str] = field(default_factory=set)

    @property
    def kept(self) -> set[str]:
        """The names of the tensors that `reference` reads and no pass has let go of."""
        read = () if self.reference is None else targets(self.reference.graph)
        return {*read} - self.let_go

    def note(self, text: str) -> None:
        """Tell the reader of the report `text`, once."""
        if text not in self.notes:
            self.notes.append(text)

    def apply(
        self, rules: Sequence[Rule], graph_module: fx.GraphModule, where: Callable[[fx.Node], bool] | None = None
    ) -> list[Replacement]:
        """Apply `rules` to `graph_module` until none matches, and return what was rewritten."""
        return apply(rules, graph_module, created_by=self.pass_name, where=where, limit=self.limit).replacements


@dataclass(frozen=True, kw_only=True)
class Pass(Declared):
    """One rewrite of the whole graph. Subclasses are frozen dataclasses: their fields are the pass's options.

    `run` edits the graph module in place and returns what it rewrote. Nodes that it creates carry
    ``meta["created_by"] = self.name``, which `Context.apply` sees to. Fields declare types and ranges, as
    ``samples: Annotated[int, Ge(1)] = 32``, and are checked against them; `__post_init__` is for what concerns several.

    Attributes:
        reads_data: whether it cannot run without calibration data, which is then asked for before any work.
        frees_floats: whether it puts something smaller in the place of weights, so that those of half precision are not made
            float32 before.
    """

    effect: ClassVar[Effect]
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    breaks: ClassVar[frozenset[str]] = frozenset()
    reads_data: ClassVar[bool] = False
    frees_floats: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def size_limit(self) -> float | None:
        """The share of the original model's bytes that it was told to keep the weights to; None for any."""
        return None

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        raise TypeError(f"{self.name} does not define run(graph_module, context)")

    def controller(self, graph_module: fx.GraphModule) -> Controller | None:
        """What a training loop steers of this pass's work in the compiled `graph_module`; None where there is nothing."""
        return None

    def __str__(self) -> str:
        return short_repr(self)
