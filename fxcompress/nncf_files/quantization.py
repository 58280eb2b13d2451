"""Quantization in NNCF's files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fxcompress.driver.interface import Pass
from fxcompress.nncf_files.precision import bits_of_scopes, choose_bits
from fxcompress.nncf_files.ranges import SAMPLES, Ranges, read_ranges
from fxcompress.nncf_files.section import Scopes, Section, unchecked
from fxcompress.passes import AdaptBatchNorm, Calibrate, CanonicalizeActivations, Quantize, TrainQuantizers
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.spec import QuantizationSpec

HALVED = ("ANY", "CPU")
"""Devices whose kernels may overflow, for which weights take 7 bits."""

STAGED = {
    "batch_multiplier": "accumulate gradients in the training loop",
    "lr_poly_drop_start_epoch": "the learning rate is the training loop's",
    "lr_poly_drop_duration_epochs": "the learning rate is the training loop's",
    "disable_wd_start_epoch": "weight decay is the optimizer's",
    "base_lr": "the learning rate is the optimizer's",
    "base_wd": "weight decay is the optimizer's",
}
_MODES = ("symmetric", "asymmetric")


@dataclass
class Grid:
    """How weights, or activations, are quantized.

    Attributes:
        ignored: scopes where they are not.
        targets: the only scopes where they are; None for all.
    """

    spec: QuantizationSpec
    per_channel: bool | None = None
    ignored: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    overrides: dict[str, QuantizationOptions] = field(default_factory=dict)


def quantization(section: Section, scopes: Scopes, device: str, multiplier: float) -> list[Pass]:
    preset = section.text("preset", "performance", of=("performance", "mixed"))
    if "preset" in section and device in ("TRIAL", "VPU"):
        section.note("preset", f"ignored: NNCF takes none for {device}")
        preset = "performance"
    fix = section.text("overflow_fix", "enable", of=("enable", "disable", "first_layer_only"))
    if "disable_saturation_fix" in section:
        section.note("disable_saturation_fix", "read as overflow_fix, as NNCF 2 calls it")
        fix = "disable" if section.flag("disable_saturation_fix", False) else fix
    if fix == "first_layer_only":
        section.note(
            "overflow_fix", "ignored for the first layer; Quantize(overrides={scope: QuantizationOptions(reduce_range=True)})"
        )
    weights = _grid(section, "weights", QuantizationSpec(signed=True, narrow=True))
    halved = fix == "enable" and device in HALVED and weights.spec.bits == 8
    if halved:
        weights.spec = replace(weights.spec, narrow=False)
    activations = _grid(section, "activations", QuantizationSpec(symmetric=preset == "performance"))
    initializer = section.section("initializer") or section.inner("initializer", {})
    ranges, samples = read_ranges(initializer, section)
    precision = initializer.section("precision")
    adaptation = _batch_norm(initializer)
    overrides = _overrides(section, weights, activations, ranges)
    chosen: list[Pass] = []
    if precision is not None:
        overrides |= bits_of_scopes(precision, weights.spec, activations.spec)
        chosen = choose_bits(precision)
        precision.done()
    initializer.done()
    _interface(section)
    starts = _staged(section)
    rate = section.number("compression_lr_multiplier", multiplier)
    assert rate is not None
    for name in ("quantizable_subgraph_patterns", "linked_quantizer_scopes", "disable_function_quantization_hooks"):
        section.ignore(name, "NNCF 2 has it no more; the target says where quantizers go")
    return [
        CanonicalizeActivations(),
        Quantize(
            weights=weights.spec,
            activations=activations.spec,
            weight_estimator=ranges.weights,
            activation_estimator=ranges.activations,
            per_channel=device != "TRIAL" if weights.per_channel is None else weights.per_channel,
            reduce_range=halved,
            exact_sums=True,
            ignored=(*scopes.ignored, *weights.ignored),
            scopes=scopes.targets if weights.targets is None else weights.targets,
            overrides=dict(overrides.items()) or None,
        ),
        *chosen,
        Calibrate(samples=samples),
        TrainQuantizers(learning_rate_multiplier=rate, **starts),
        *([AdaptBatchNorm(samples=adaptation)] if adaptation else []),
    ]


def _grid(section: Section, name: str, default: QuantizationSpec) -> Grid:
    group = section.section(name)
    if group is None:
        return Grid(default)
    spec, per_channel = _spec(group, default, is_weight=name == "weights")
    own = Scopes(group, of_part=True)
    if group.flag("logarithm_scale", False):
        group.note("logarithm_scale", "ignored: the range is trained as it is")
    if name == "activations":
        groups = group.given.get("unified_scale_ops", []) if "unified_scale_ops" in group else []
        if not isinstance(groups, list) or not all(isinstance(one, list) for one in groups):
            group.fail("unified_scale_ops", "this is a list of lists of scopes")
        if groups:
            group.note("unified_scale_ops", "ignored: scales are shared where the target's kernels need it")
    elif own.ignored or own.targets is not None:
        group.note("ignored_scopes" if own.ignored else "target_scopes", "read as of the whole operations: they stay in float")
    group.done()
    return Grid(spec, per_channel, own.ignored, own.targets)


def _spec(section: Section, default: QuantizationSpec, *, is_weight: bool) -> tuple[QuantizationSpec, bool | None]:
    """The grid that the section gives, and whether it is per channel; None where it does not say so."""
    usual = "symmetric" if default.symmetric else "asymmetric"
    symmetric, bits = section.text("mode", usual, of=_MODES) == "symmetric", section.whole("bits", default.bits)
    assert bits is not None
    if not 2 <= bits <= 8:
        section.fail("bits", f"bits are 2 to 8, not {bits}")
    signed = default.signed if symmetric else None
    if "signed" in section:
        # Unsigned is asked for where the data allows it: NNCF decides otherwise where values have two signs.
        signed = True if section.flag("signed", True) else None
    per_channel = section.flag("per_channel", False) if "per_channel" in section else None
    if per_channel and not is_weight:
        section.note("per_channel", "ignored: activations have one scale for all channels, as kernels read them")
    narrow = default.narrow and symmetric and bits == 8
    return QuantizationSpec(bits=bits, symmetric=symmetric, signed=signed, narrow=narrow), per_channel


def _overrides(section: Section, weights: Grid, activations: Grid, ranges: Ranges) -> dict[str, QuantizationOptions]:
    found: dict[str, QuantizationOptions] = dict(ranges.overrides)
    for scope in activations.ignored:
        found[scope] = QuantizationOptions(weights_only=True)
    if activations.targets is not None:
        section.inner("activations", section.given["activations"]).note(
            "target_scopes", "ignored: the target's kernels read integers wherever they can"
        )
    groups = section.section("scope_overrides")
    for name, grid in (("weights", weights), ("activations", activations)):
        group = groups.section(name) if groups is not None else None
        for scope in group.given if group is not None else ():
            assert group is not None
            group.check_scope(scope, scope)
            one = group.inner(scope, group.given[scope])
            spec, per_channel = _spec(one, grid.spec, is_weight=name == "weights")
            initializer = one.section("initializer")
            own = None
            if initializer is not None:
                own, samples = read_ranges(initializer, section)
                initializer.done()
                if samples != SAMPLES:
                    one.note("initializer", f"ignored, of it, {samples} samples: all ranges take the same")
            one.done()
            options: dict[str, Any] = {name: spec}
            if name == "weights" and per_channel is not None:
                options["per_channel"] = per_channel
            if own is not None:
                key = "weight_estimator" if name == "weights" else "activation_estimator"
                options[key] = own.weights if name == "weights" else own.activations
            place = unchecked(scope)  # an operation, whose weights, or what it reads, are meant, whatever it computes
            found[place] = QuantizationOptions(**options).over(found.get(place, QuantizationOptions()))
    if groups is not None:
        groups.done()
    return found


def _batch_norm(initializer: Section) -> int:
    """The samples that batch norms adapt to; 0 for none."""
    section = initializer.section("batchnorm_adaptation")
    if section is None:
        return 2000
    samples = section.whole("num_bn_adaptation_samples", 2000)
    for name in ("num_bn_forget_samples", "num_bn_adaptation_steps", "num_bn_forget_steps"):
        section.ignore(name, "NNCF 2 has it no more")
    section.done()
    assert samples is not None
    if samples < 0:
        section.fail("num_bn_adaptation_samples", f"samples are 0 or more, not {samples}")
    return samples


def _interface(section: Section) -> None:
    if not section.flag("quantize_inputs", True):
        section.note(
            "quantize_inputs",
            "ignored: layers that read inputs read them in integers; ignored_scopes leaves such layers in float",
        )
    if section.flag("quantize_outputs", False):
        section.note("quantize_outputs", "ignored: outputs are what the last layers compute")
    if "export_to_onnx_standard_ops" in section and not section.flag("export_to_onnx_standard_ops", False):
        section.note("export_to_onnx_standard_ops", "ignored: files have standard operations always")


def _staged(section: Section) -> dict[str, Any]:
    """The epochs at which quantizers start: of staged quantization, which a file asks for by the key ``params``."""
    params = section.section("params")
    if params is None:
        return {}
    starts = start_epochs(params)
    params.done()
    return starts


def start_epochs(params: Section) -> dict[str, int]:
    """The options for staged training; what is the training loop's is noted."""
    activations, weights = params.whole("activations_quant_start_epoch", 1), params.whole("weights_quant_start_epoch", 1)
    assert activations is not None and weights is not None
    for name, why in STAGED.items():
        if params.number(name) is not None:
            params.note(name, f"ignored: {why}")
    return {"activations_start_epoch": activations, "weights_start_epoch": weights}
