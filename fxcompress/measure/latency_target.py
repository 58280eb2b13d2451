"""How much to prune for the file to run in a share of the time, by measuring it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import fx

from fxcompress.errors import InputError, apart, shown
from fxcompress.measure import latency
from fxcompress.training.controller import CompositeController
from fxcompress.training.level_controller import LevelController


class Measurable(Protocol):
    """What is asked of a compiled model: a `fxcompress.Compiled`."""

    @property
    def compilation(self) -> Any: ...

    @property
    def controller(self) -> CompositeController: ...

    def lower(self) -> fx.GraphModule: ...


@dataclass(frozen=True)
class LatencyResult:
    """What `level_for_latency` found.

    Attributes:
        level: the lowest one that was fast enough.
        share: of the time that the file takes without compression, at that level.
        measured: the share at each level that was tried.
    """

    level: float
    share: float
    measured: dict[float, float]


def level_for_latency(
    model: Measurable, share: float, *, controller: str = "PruneFilters", highest: float = 0.9, trials: int = 6
) -> LatencyResult:
    """The level at which the file of `model` runs in `share` of the time that it takes at level 0, in OpenVINO on this machine.

    By bisection; at each level the two files are measured side by side. Give the level to the pass, as its amount. Nothing
    else should run on the machine.

    Args:
        model: compiled with the whole stack, since quantized layers take other times than layers in float. It is left as it is.
        share: between 0 and 1.
        controller: the name of the pass's controller.
        highest: the highest level to try.
        trials: levels that are tried.

    Raises:
        InputError: OpenVINO is not installed, the model is for another runtime, an option cannot be used, or even at the
            highest level the file is not as fast as that.
    """
    if not 0 < share < 1:
        raise InputError(f"level_for_latency needs a share of the time between 0 and 1, got {shown(share)}")
    if trials < 1:
        raise InputError(f"level_for_latency needs trials of 1 or more, got {shown(trials)}")
    if model.compilation.target.name != "openvino":
        raise InputError(f"latencies are measured in OpenVINO, and the model is for {model.compilation.target.name}")
    measured = {highest: _share(model, controller, highest)}
    if measured[highest] > share:
        taken, asked = apart(measured[highest], share, ".0%")
        raise InputError(
            f"at a level of {highest:g} the file still takes {taken} of the time, not {asked}; "
            "have fewer layers ignored, or ask for less"
        )
    low, high = 0.0, highest
    for _ in range(trials - 1):
        middle = (low + high) / 2
        measured[middle] = _share(model, controller, middle)
        low, high = (low, middle) if measured[middle] <= share else (middle, high)
    return LatencyResult(high, measured[high], measured)


def _share(model: Measurable, controller: str, level: float) -> float:
    """The time of the file at `level` as a share of that at level 0: the median of runs in pairs."""
    variants = {}
    for name, wanted in (("whole", 0.0), ("compressed", level)):
        variants[name] = copy.deepcopy(model)
        found = variants[name].controller[controller]
        if not isinstance(found, LevelController):
            raise InputError(f"the controller {shown(controller)} has no level; name that of PruneFilters")
        found.set_level(wanted)
    example = model.compilation.example
    taken = latency.measure_latencies(variants, example, lambda variant: variant.lower())
    return float(np.median(taken["compressed"] / taken["whole"]))
