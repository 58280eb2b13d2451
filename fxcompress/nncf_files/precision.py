"""Bit widths in NNCF's files: given by hand, or chosen."""

from __future__ import annotations

import re
from dataclasses import replace

from fxcompress.driver.interface import Pass
from fxcompress.nncf_files.section import Section, is_number
from fxcompress.passes import ChooseBits
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.spec import QuantizationSpec

EXAMPLE = '[4, "Net/NNCFConv2d[conv]/conv2d_0|WEIGHT"]'
TYPES = ("hawq", "autoq", "manual")
OF_AUTOQ = ("eval_subset_ratio", "warmup_iter_number")
OF_HAWQ = (
    "bits",
    "num_data_points",
    "compression_ratio",
    "iter_number",
    "tolerance",
    "bitwidth_assignment_mode",
    "traces_per_layer_path",
    "dump_init_precision_data",
)
_PLACE = re.compile(r"(.*?)\|(WEIGHT|OUTPUT|INPUT\d*)")
_OLD_PLACE = re.compile(r"TargetType\.(OPERATION_WITH_WEIGHTS|OPERATOR_POST_HOOK|OPERATOR_PRE_HOOK) (?:\d+ )?(.*)")
_OLD = {"OPERATION_WITH_WEIGHTS": "WEIGHT", "OPERATOR_POST_HOOK": "OUTPUT", "OPERATOR_PRE_HOOK": "INPUT"}


def bits_of_scopes(
    section: Section, weights: QuantizationSpec, activations: QuantizationSpec
) -> dict[str, QuantizationOptions]:
    """The grids of the places that ``bitwidth_per_scope`` names."""
    listed = section.given["bitwidth_per_scope"] if "bitwidth_per_scope" in section else []
    if not isinstance(listed, list):
        section.fail("bitwidth_per_scope", "this is a list of pairs of a bit width and a scope")
    found: dict[str, QuantizationOptions] = {}
    for position, pair in enumerate(listed):
        key = (*section.key, "bitwidth_per_scope", position)
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str):
            section.document.fail(key, f"this is a pair of a bit width and a scope, such as {EXAMPLE}")
        bits, (scope, place) = pair[0], _place(pair[1])
        if not is_number(bits) or bits != int(bits) or not 2 <= bits <= 8:
            section.document.fail(key, f"bits are 2 to 8, not {bits!r}")
        if place == "WEIGHT":
            narrow = weights.narrow and bits == 8
            options = QuantizationOptions(weights=replace(weights, bits=int(bits), narrow=narrow))
        else:
            options = QuantizationOptions(activations=replace(activations, bits=int(bits)))
            scope = f"{scope}|OUTPUT" if place == "OUTPUT" else scope
        found[scope] = options.over(found.get(scope, QuantizationOptions()))
    return found


def _place(text: str) -> tuple[str, str]:
    """The scope, and which quantizer at it is meant: WEIGHT, OUTPUT, or INPUT, without the number of the input."""
    if old := _OLD_PLACE.fullmatch(text):
        return old[2], _OLD[old[1]]
    if new := _PLACE.fullmatch(text):
        return new[1], "INPUT" if new[2].startswith("INPUT") else new[2]
    return text, "OUTPUT" if text.startswith("/nncf_model_input") else "WEIGHT"


def choose_bits(section: Section) -> list[Pass]:
    """The pass that chooses bit widths, where the file asks for that."""
    usual = "manual" if "bitwidth_per_scope" in section else "hawq"
    kind = section.text("type", usual, of=TYPES)
    bits = section.numbers("bits", [2, 4, 8])
    samples, ratio = section.whole("num_data_points", 100), section.number("compression_ratio", 1.5)
    for name in ("iter_number", "tolerance", *OF_AUTOQ):
        section.number(name)
    mode = section.text("bitwidth_assignment_mode", "liberal", of=("liberal", "strict"))
    section.text("traces_per_layer_path")
    section.flag("dump_init_precision_data", False)
    if kind == "autoq":
        section.fail(
            "type",
            "AutoQ is not here. Take 'hawq', which needs no reinforcement learning; or in a configuration of fxcompress "
            "RestorePrecision(bits=8, max_size=...), which needs no loss either",
        )
    if kind == "manual":
        for name in (*OF_HAWQ, *OF_AUTOQ):
            section.ignore(name, "bit widths are given by hand")
        return []
    for name in OF_AUTOQ:
        section.ignore(name, "it is of AutoQ")
    section.note("type", "HAWQ-V2 needs the training loss: config.given(loss=function), called with the model and a batch")
    section.note("compression_ratio", "of the bytes of weights, where NNCF counts bit operations; activations keep their bits")
    for name in ("iter_number", "tolerance"):
        section.ignore(name, "traces take a fixed number of random vectors: ChooseBits(draws=...)")
    section.ignore("traces_per_layer_path", "traces are computed anew")
    section.ignore("dump_init_precision_data", "the report has what was chosen")
    if mode == "strict":
        section.note("bitwidth_assignment_mode", "ignored: activations keep their bits")
    if not bits or any(one != int(one) or not 2 <= one <= 8 for one in bits):
        section.fail("bits", f"bits are 2 to 8, not {bits!r:.60}")
    if ratio is None or ratio < 1:
        section.fail("compression_ratio", f"this is 1 or more for 'hawq', not {ratio!r}")
    return [ChooseBits(ratio=ratio, bits=tuple(int(one) for one in bits), samples=samples or 1)]
