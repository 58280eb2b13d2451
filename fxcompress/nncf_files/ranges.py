"""How NNCF's files have ranges initialised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fxcompress.nncf_files.section import Scopes, Section
from fxcompress.pattern.scopes import OPTIONAL
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.ranges import Estimator, MeanMinMax, MeanPercentile, MinMax, Percentile, ThreeSigma

TYPES = ("mixed_min_max", "min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile")
SAMPLES = 256


@dataclass
class Ranges:
    """The estimators of weights and of activations, and those of scopes."""

    weights: Estimator = field(default_factory=MinMax)
    activations: Estimator = field(default_factory=MeanMinMax)
    overrides: dict[str, QuantizationOptions] = field(default_factory=dict)


def read_ranges(initializer: Section, section: Section) -> tuple[Ranges, int]:
    """What ``initializer.range`` asks for, and on how many samples."""
    if "range" not in initializer:
        return Ranges(), SAMPLES
    given = initializer.given["range"]
    if not isinstance(given, list):
        one = initializer.inner("range", given)
        found, samples = _one(one)
        one.done()
        return found, samples
    found, most, asked = Ranges(), 0, set[int]()
    for position, item in enumerate(given):
        one = initializer.inner("range", item, position)
        estimators, samples = _one(one)
        most = max(most, samples)
        asked.add(samples)
        group = one.text("target_quantizer_group", of=("activations", "weights"))
        scopes = Scopes(one, of_part=True)
        one.done()
        options = QuantizationOptions(
            weight_estimator=estimators.weights if group != "activations" else None,
            activation_estimator=estimators.activations if group != "weights" else None,
        )
        if scopes.targets is None and not scopes.ignored:
            found.weights = options.weight_estimator or found.weights  # type: ignore[assignment]
            found.activations = options.activation_estimator or found.activations  # type: ignore[assignment]
            continue
        for scope in scopes.targets if scopes.targets is not None else (all_but(scopes.ignored),):
            found.overrides[scope] = options.over(found.overrides.get(scope, QuantizationOptions()))
    if len(asked) > 1:
        initializer.note("range", f"all ranges take the same samples, the most that are asked for: {most}")
    return found, most or SAMPLES


def _one(section: Section) -> tuple[Ranges, int]:
    kind = section.text("type", "mixed_min_max", of=TYPES)
    samples = section.whole("num_init_samples", SAMPLES)
    if section.whole("num_init_steps") is not None:
        section.note("num_init_steps", f"ignored: NNCF 2 counts samples; {samples} are taken")
    if not samples:
        section.note("num_init_samples", "ranges need a sample, so that 1 is taken")
    params = section.section("params")
    low, high = (0.1, 99.9) if params is None else (params.number("min_percentile", 0.1), params.number("max_percentile", 99.9))
    assert samples is not None and low is not None and high is not None
    if samples < 0:
        section.fail("num_init_samples", f"samples are 0 or more, not {samples}")
    if kind in ("percentile", "mean_percentile") and not 0 <= low < high <= 100:
        section.fail("params", f"percentiles are from 0 to 100, the low one below the high one, not {low:g} and {high:g}")
    if params is not None:
        if kind not in ("percentile", "mean_percentile"):
            section.note("params", f"ignored: {kind} has none")
        params.done()
    if kind == "threesigma":
        section.note(
            "type", "three standard deviations around the mean, not three median deviations, which are 0 behind a ReLU"
        )
    estimators: dict[str, tuple[Estimator, Estimator]] = {
        "mixed_min_max": (MinMax(), MeanMinMax()),
        "min_max": (MinMax(), MinMax()),
        "mean_min_max": (MeanMinMax(), MeanMinMax()),
        "threesigma": (ThreeSigma(), ThreeSigma()),
    }
    if kind in estimators:
        weights, activations = estimators[kind]
    else:
        weights = activations = (Percentile if kind == "percentile" else MeanPercentile)(low=low, high=high)
    return Ranges(weights, activations), max(samples, 1)


def all_but(scopes: Sequence[str]) -> str:
    """An expression for every operation that none of `scopes` names."""
    named = [one.removeprefix(OPTIONAL) for one in scopes]
    inner = [one.replace("{re}", "").join(("(?:.*(?:", "))")) if "{re}" in one else f"{re.escape(one)}$" for one in named]
    return f"{{re}}^(?!{'|'.join(inner)})"
