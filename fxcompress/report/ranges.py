"""Which ranges were chosen for activations, and what others would have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from fxcompress.report.tables import titled
from fxcompress.report.units import readable_decibels


@dataclass(frozen=True)
class RangeChoice:
    """The range of one quantizer.

    Attributes:
        quantizer: its name.
        seen: the lowest and highest value that it was shown.
        chosen: the lowest and highest value of its range; of all channels, where each has its own.
        decibels: by estimator, the chosen one first: an estimate of the outputs' SQNR if this quantizer alone rounded,
            with that estimator's range.
    """

    quantizer: str
    seen: tuple[float, float]
    chosen: tuple[float, float]
    decibels: Mapping[str, float]

    @property
    def is_narrowed(self) -> bool:
        """Whether values were seen beyond the range."""
        return self.chosen[0] > min(self.seen[0], 0.0) or self.chosen[1] < max(self.seen[1], 0.0)


def ranges_table(choices: Sequence[RangeChoice]) -> Table:
    """A row a quantizer: what it saw, what was chosen, and the decibels of each estimator."""
    estimators = list(choices[0].decibels) if choices else []
    table = titled("Ranges", "quantizer", "seen", "chosen", *estimators, numbers=estimators)
    for choice in choices:
        spans = [f"{low:.4g} to {high:.4g}" for low, high in (choice.seen, choice.chosen)]
        table.add_row(choice.quantizer, *spans, *(readable_decibels(choice.decibels[name]) for name in estimators))
    return table
