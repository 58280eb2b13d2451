"""A file of NNCF's as passes."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fxcompress.documents import Document
from fxcompress.driver.interface import Pass
from fxcompress.errors import ConfigError, FxCompressError, did_you_mean
from fxcompress.nncf_files.accuracy import check_accuracy_aware
from fxcompress.nncf_files.quantization import quantization, start_epochs
from fxcompress.nncf_files.section import Scopes, Section
from fxcompress.nncf_files.sparsity import BY_HAND, const_sparsity, filter_pruning, magnitude_sparsity, rb_sparsity
from fxcompress.passes import Binarize, Distill

DEVICES = ("ANY", "CPU", "GPU", "VPU", "NPU", "TRIAL", "CPU_SPR")
ROOT = ("compression", "input_info", "target_device", "hw_config_type", "accuracy_aware_training", "compression_lr_multiplier")
SAMPLES = ("model", "dataset", "optimizer", "batch_size", "epochs", "preprocessing")
"""Keys of NNCF's sample scripts, by which files without compression are known."""

MISSPELT = 0.85
"""How alike a key of the root is to one of NNCF's, by `difflib`, that is told: scripts have keys of their own beside these."""

REFUSED = {
    "movement_sparsity": "movement sparsity is not here; take rb_sparsity, which learns its masks too, or magnitude_sparsity",
    "fracbits_quantization": "FracBits is not here; take quantization, with 'hawq' as the type of its 'precision'",
    "bootstrapNAS": "searching for architectures is not here; take filter_pruning, with pruning_flops_target",
}
ORDER = ("filter_pruning", "magnitude_sparsity", "rb_sparsity", "const_sparsity", "binarization", "quantization")
"""Masks are put in before quantizers, whatever the order in the file is, as in NNCF."""

ALGORITHMS = (*ORDER, "knowledge_distillation")
_DTYPES = {"float": "float32", "long": "int64", "int": "int32", "half": "float16", "double": "float64", "bool": "bool"}
TYPES = (*_DTYPES, "float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8")
"""Of inputs: NNCF's names, and torch's."""


@dataclass(frozen=True)
class NncfFile:
    """What a file asks for.

    Attributes:
        inputs: the options of each input of the model.
        extra: what is for other programs.
        notes: what was ignored, key by key, and why.
    """

    passes: tuple[Pass, ...]
    inputs: tuple[dict[str, Any], ...]
    extra: dict[str, Any]
    notes: tuple[str, ...]


def is_nncf_file(value: Any) -> bool:
    """Whether the plain data `value` is a file of NNCF's, of its sample scripts, or of its algorithms alone."""
    if _is_bare(value):
        return True
    if not isinstance(value, dict) or "passes" in value:
        return False
    return any(name in value for name in ROOT) or sum(name in value for name in SAMPLES) >= 2


def _is_bare(value: Any) -> bool:
    """Whether `value` is what stands below ``compression``: an algorithm or a list of them, as files of Optimum are."""
    listed = value if isinstance(value, list) else [value]
    return any(isinstance(one, dict) and "algorithm" in one and "passes" not in one for one in listed)


def read_nncf_file(document: Document) -> NncfFile:
    """The file `document` as passes, with NNCF's defaults (`docs/migration.md` has a table).

    Raises:
        ConfigError: a key is unknown, of a wrong type or out of its range, or asks for what cannot be had.
    """
    notes: list[str] = []
    root = Section(document, (), {} if _is_bare(document.value) else document.value, notes)
    device, scopes, inputs = _device(root), Scopes(root), _inputs(root)
    multiplier = root.number("compression_lr_multiplier", 1.0)
    assert multiplier is not None
    root.ignore("disable_shape_matching", "NNCF has it no more")
    found: list[tuple[int, list[Pass]]] = []
    for position, (key, value) in enumerate(_algorithms(root, document.value)):
        section = Section(document, key, value, notes)
        name = section.text("algorithm")
        if name == "experimental_quantization":
            section.note("algorithm", "read as 'quantization'")
            name = "quantization"
        if name in REFUSED:
            section.fail("algorithm", REFUSED[name])
        if name not in ALGORITHMS:
            hint = did_you_mean(name, ALGORITHMS) if name else ""
            section.fail("algorithm", f"there is no {name!r}{hint}; there are {', '.join(ALGORITHMS)}")
        passes = _passes(section, name, scopes, device, multiplier)
        section.done()
        found.append((ALGORITHMS.index(name) * 100 + position, passes))
    check_accuracy_aware(root)
    if "bootstrapNAS" in root:
        root.fail("bootstrapNAS", REFUSED["bootstrapNAS"])
    listed = [one for _, passes in sorted(found, key=lambda entry: entry[0]) for one in passes]
    extra = {
        name: value for name, value in root.given.items() if name not in root.known or name in ("accuracy_aware_training",)
    }
    for name in extra:
        if name not in root.known and (meant := get_close_matches(name, root.known, n=1, cutoff=MISSPELT)):
            root.note(name, f"ignored, and kept in config.extra: NNCF has no such key (did you mean {meant[0]!r}?)")
    return NncfFile(_teacher_first(listed), inputs, extra, tuple(notes))


def _algorithms(root: Section, value: Any) -> list[tuple[tuple[str | int, ...], Any]]:
    """The algorithms of the file with this `value`, each with its key."""
    key: tuple[str, ...] = () if _is_bare(value) else ("compression",)
    given = root.given["compression"] if "compression" in root else value if _is_bare(value) else []
    return [((*key, i), one) for i, one in enumerate(given)] if isinstance(given, list) else [(key, given)]


def _passes(section: Section, name: str, outer: Scopes, device: str, multiplier: float) -> list[Pass]:
    """The passes of one algorithm; an option that they do not take is an error at the algorithm."""
    try:
        if name == "knowledge_distillation":
            Scopes(section)
            for one in ("ignored_scopes", "target_scopes"):
                section.ignore(one, "a teacher is compared with what the whole model puts out")
            return [_distillation(section)]
        scopes = Scopes(section, outer)
        if name == "quantization":
            return quantization(section, scopes, device, multiplier)
        if name == "rb_sparsity":
            return rb_sparsity(section, scopes, multiplier)
        if name == "binarization":
            return [_binarization(section, scopes)]
        algorithms = {
            "magnitude_sparsity": magnitude_sparsity,
            "const_sparsity": const_sparsity,
            "filter_pruning": filter_pruning,
        }
        return algorithms[name](section, scopes)
    except ConfigError:
        raise
    except FxCompressError as problem:
        section.document.fail(section.key, str(problem))


def _binarization(section: Section, scopes: Scopes) -> Pass:
    mode = section.text("mode", "xnor", of=("xnor", "dorefa"))
    initializer = section.section("initializer")
    if initializer is not None:
        section.note("initializer", f"ignored: {BY_HAND}")
    if section.number("compression_lr_multiplier") is not None:
        why = "give the optimizer a group of the parameters whose names end in log_scale and threshold_logit"
        section.note("compression_lr_multiplier", f"ignored: {why}")
    params = section.section("params") or section.inner("params", {})
    starts = start_epochs(params)
    params.done()
    assert mode is not None
    targets = ("op:conv2d",) if scopes.targets is None else scopes.targets
    return Binarize(weights=mode, scopes=targets, ignored=scopes.ignored, **starts)


def _distillation(section: Section) -> Pass:
    loss = section.text("type", of=("mse", "softmax"))
    if loss is None:
        section.document.fail(section.key, "it needs the key 'type', 'mse' or 'softmax'")
    scale, temperature = section.number("scale", 1.0), section.number("temperature", 1.0)
    assert scale is not None and temperature is not None
    if loss == "mse":
        section.ignore("temperature", "it is of 'softmax'")
        return Distill(loss="mse", scale=scale)
    return Distill(loss="softmax", scale=scale, temperature=temperature)


def _teacher_first(passes: list[Pass]) -> tuple[Pass, ...]:
    """Batch norms adapt last, so that a teacher keeps the statistics of its own."""
    last = [one for one in passes if type(one).__name__ == "AdaptBatchNorm"]
    return (*(one for one in passes if one not in last), *last)


def _device(root: Section) -> str:
    if "hw_config_type" in root:
        root.note("hw_config_type", "read as target_device, as NNCF 2 calls it")
        old = root.text("hw_config_type", of=("cpu", "gpu", "vpu"))
        return (old or "").upper()
    device = root.text("target_device", "ANY", of=DEVICES)
    if device in ("GPU", "VPU", "NPU"):
        root.note("target_device", f"files are for OpenVINO's CPU plugin, checked there; bits and grids are those of {device}")
    assert device is not None
    return device


def _inputs(root: Section) -> tuple[dict[str, Any], ...]:
    if "input_info" not in root:
        return ()
    given = root.given["input_info"]
    listed = [(i,) for i in range(len(given))] if isinstance(given, list) else [()]
    found = []
    for more in listed:
        one = root.inner("input_info", given[more[0]] if more else given, *more)
        shape = one.numbers("sample_size", [])
        kind, fill, keyword = one.text("type", "float", of=TYPES), one.text("filler", "ones"), one.text("keyword")
        one.done()
        if not shape or any(size != int(size) or size < 0 for size in shape):
            one.fail("sample_size", f"this is a list of sizes, such as [1, 3, 224, 224], not {shape!r}")
        dtype = _DTYPES.get(kind or "", kind)
        if fill not in ("ones", "zeros", "random"):
            one.fail("filler", f"there is no {fill!r}; there are 'ones', 'zeros' and 'random'")
        found.append({"shape": [int(size) for size in shape], "dtype": dtype, "fill": fill, "keyword": keyword})
    return tuple(found)
