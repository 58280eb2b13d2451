"""What a drawing writes in a box: an operation's settings in a few characters, as an engineer would jot them down."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import fx

from fxcompress.views.notation import Notation, arguments, literal, operation_name

LONGEST = 26
"""Characters that a detail may have; a longer one is cut, its node's tooltip has it all."""


def detail(node: fx.Node, notation: Notation) -> str:
    """The settings of `node`: ``"3×3/2 64"`` for a convolution, ``"512→1000"`` for a linear layer, ``""`` for none."""
    if node.op == "placeholder":
        return node.name
    if node.op != "call_function":
        return _short(notation.state(node), LONGEST)
    write = _WRITERS.get(operation_name(node.target).removesuffix(".padding"), _others)
    return _short(write(arguments(node), notation), LONGEST)


def mark_label(node: fx.Node, notation: Notation) -> str:
    """What a pill says of an inserted module, a quantize or a dequantize: the type, "Q" where that is unknown."""
    if node.op == "call_module":
        kind = notation.state(node).partition(",")[0]
        if share := re.fullmatch(r"(\d+) of (\d+) masked", kind):
            return f"{int(share[1]) / max(int(share[2]), 1):.0%} masked"
        return _short(kind or ("Q" if node.name.endswith("_quantizer") else notation.operation(node)), 12)
    name = operation_name(node.target)
    return str(arguments(node).get("dtype", name)) if name in ("quantize", "dequantize") else name


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _convolution(settings: dict[str, Any], notation: Notation) -> str:
    """Kernel, stride, output channels; "dw" for a depthwise one, "g32" for groups, "d2" for dilation."""
    weight = notation.shape(settings["weight"])
    if weight is None:
        return ""
    groups = settings.get("groups", 1)
    depthwise = groups > 1 and weight[1] == 1
    channels = weight[0] if "transposed" not in settings else weight[1] * groups
    extra = ["dw" if depthwise else f"g{groups}" if groups != 1 else ""]
    extra += [f"d{_times(settings['dilation'])}"] if "dilation" in settings else []
    stride = f"/{_times(settings['stride'])}" if "stride" in settings else ""
    return " ".join(filter(None, [f"{_times(weight[2:])}{stride}", str(channels), *extra]))


def _transposed(settings: dict[str, Any], notation: Notation) -> str:
    return _convolution(settings | {"transposed": True}, notation)


def _linear(settings: dict[str, Any], notation: Notation) -> str:
    weight = notation.shape(settings["weight"])
    return f"{weight[-1]}→{weight[0]}" if weight else ""


def _embedding(settings: dict[str, Any], notation: Notation) -> str:
    weight = notation.shape(settings["weight"])
    return _times(weight) if weight else ""


def _pool(settings: dict[str, Any], notation: Notation) -> str:
    stride = settings.get("stride", settings["kernel_size"])
    return f"{_times(settings['kernel_size'])}/{_times(stride)}"


def _to_size(settings: dict[str, Any], notation: Notation) -> str:
    return f"to {_times(settings['output_size'], pair=True)}"


def _elementwise(settings: dict[str, Any], notation: Notation) -> str:
    other = settings.get("other")
    scale = f" α={settings['alpha']}" if "alpha" in settings else ""
    return ("" if other is None or isinstance(other, fx.Node) else f"{other:.5g}") + scale


def _clamp(settings: dict[str, Any], notation: Notation) -> str:
    low, high = (settings.get(end) for end in ("min", "max"))
    return f"{'' if low is None else f'{low:g}'}…{'' if high is None else f'{high:g}'}"


def _swap(settings: dict[str, Any], notation: Notation) -> str:
    return f"{settings['dim0']}↔{settings['dim1']}"


def _resize(settings: dict[str, Any], notation: Notation) -> str:
    """The factor, or the size."""
    factors = settings.get("scale_factors")
    if factors is None:
        return _others(settings, notation)
    factors = factors if isinstance(factors, (list, tuple)) else [factors]
    return f"by {'×'.join(f'{factor:g}' for factor in dict.fromkeys(factors))}"


def _silent(settings: dict[str, Any], notation: Notation) -> str:
    return ""


def _others(settings: dict[str, Any], notation: Notation) -> str:
    """Whatever is neither computed nor a default, by name."""
    told = {k: v for k, v in settings.items() if v is not None and not isinstance(v, fx.Node) and not _nodes(v)}
    return " ".join(f"{name}={literal(value).replace(' ', '')}" for name, value in told.items() if not name.isdigit())


def _nodes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, fx.Node) for item in value)


def _times(sizes: Any, pair: bool = False) -> str:
    """``3×3``; equal sizes of a stride once, so that ``/2`` is short."""
    sizes = sizes if isinstance(sizes, (list, tuple)) else (sizes, sizes) if pair else (sizes,)
    return "×".join(map(str, sizes))


_Writer = Callable[[dict[str, Any], Notation], str]
_WRITERS: dict[str, _Writer] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_max_pool2d"), _to_size),
    **dict.fromkeys(("add", "sub", "mul", "div", "rsub", "pow", "eq", "ne", "lt", "le", "gt", "ge"), _elementwise),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm", "reshape", "view", "flatten", "expand", "slice"), _silent),
    **dict.fromkeys(("dropout", "drop_path", "stop_gradient", "scaled_dot_product_attention", "gelu"), _silent),
    **dict.fromkeys(("quantize", "dequantize"), _silent),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"), _resize),
    "linear": _linear,
    "embedding": _embedding,
    "clamp": _clamp,
    "transpose": _swap,
}
