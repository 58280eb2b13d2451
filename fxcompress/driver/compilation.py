"""The record of a compilation: what ran, on what, and the graph after every pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.interface import Pass
from fxcompress.driver.state import Earlier, is_let_go
from fxcompress.errors import apart
from fxcompress.quantization.quantized import quantizer_calls
from fxcompress.report.rows import Report
from fxcompress.targets import Target


@dataclass
class Compilation:
    """How a compiled model came about.

    Attributes:
        report: one row a pass.
        passes: what was run.
        example: the inputs that it was traced and verified with.
        target: the runtime that it is meant for.
        steps: the graph after capture and after every pass, by name.
        earlier: what they read that the compiled model has no more.
    """

    report: Report
    passes: tuple[Pass, ...]
    example: ExampleInputs
    target: Target
    steps: list[tuple[str, fx.Graph]] = field(default_factory=list)
    earlier: Earlier = field(default_factory=Earlier)

    @property
    def steered(self) -> bool:
        """Whether a training loop has a hold on any of the passes."""
        return any(type(one).controller is not Pass.controller for one in self.passes)

    def beyond_limit(self, written: int, why: Sequence[str]) -> str | None:
        """What to tell of a file whose weights take `written` bytes, where passes were told to keep them to fewer.

        A model without weights has no size that a file's constants could be a share of.
        """
        before = self.report.rows[0].bytes
        limit = min((one.size_limit for one in self.passes if one.size_limit is not None), default=None)
        if limit is None or before == 0 or written <= limit * before:
            return None
        taken, asked = apart(written / before, limit, ".4g")
        told = f"holds weights of {taken} of the original model's size, which is more than max_size={asked}"
        return f"{told}: {'; '.join(why)}" if why else told

    def before_quantizers(self, compiled: fx.GraphModule) -> fx.GraphModule | None:
        """The `compiled` model as it was before a pass inserted quantizers.

        None where it held some from the start, or where a pass let go of what it was.
        """
        stages = (self.earlier.step(compiled, graph) for _, graph in self.steps)
        float_stages = list(itertools.takewhile(lambda stage: not quantizer_calls(stage), stages))
        if not float_stages or any(map(is_let_go, float_stages[-1].state_dict().values())):
            return None
        return float_stages[-1]
