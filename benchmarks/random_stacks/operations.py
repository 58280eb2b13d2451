"""The operations that random networks are made of: text of a layer, text of a call, and what may be chosen in them.

In both texts ``{x}``, ``{y}`` and ``{z}`` are values, ``{m}`` the layer, ``{shape}`` the sizes of x without the batch, ``{c}``
its size along dimension 1, ``{d}`` along the last one; any other name is a choice of the operation.
Which choices fit is not described: a call that PyTorch refuses, or that loses the batch, is drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ANY = (2, 3, 4, 5)


@dataclass(frozen=True)
class Operation:
    """One kind of step. `layer` is empty where the call has no parameters; `ranks` are those that x may have."""

    call: str
    layer: str = ""
    ranks: Sequence[int] = ANY
    choices: dict[str, Sequence[Any]] = field(default_factory=dict)
    reads_integers: bool = False

    @property
    def values(self) -> int:
        """How many values the call reads."""
        return 1 + ("{y}" in self.call) + ("{z}" in self.call)


def _layer(text: str, *ranks: int, call: str = "{m}({x})", **choices: Sequence[Any]) -> Operation:
    return Operation(call, text, ranks or ANY, choices)


def _call(text: str, *ranks: int, **choices: Sequence[Any]) -> Operation:
    return Operation(text, "", ranks or ANY, choices)


_OUT = (3, 4, 8, 13, 16, 17)
_KERNEL, _SMALL = (1, 2, 3), (1, 2)
_BIAS = (True, False)
_DIM = (1, -1)


def _convolution(rank: int) -> Operation:
    options = "{out}, {kernel}, stride={stride}, padding={padding}, dilation={dilation}, bias={bias}"
    text = f"nn.Conv{rank - 2}d({{c}}, {options})"
    padding = (0, 1, "'same'") if rank < 5 else (0, 1)
    return _layer(text, rank, out=_OUT, kernel=_KERNEL, stride=(1, 1, 2), padding=padding, dilation=(1, 1, 2), bias=_BIAS)


def _transposed(rank: int) -> Operation:
    text = f"nn.ConvTranspose{rank - 2}d({{c}}, {{out}}, {{kernel}}, stride={{stride}}, padding={{padding}}, bias={{bias}})"
    return _layer(text, rank, out=_OUT, kernel=(2, 3), stride=_SMALL, padding=(0, 1), bias=_BIAS)


LAYERS: dict[str, Operation] = {
    **{f"conv{rank - 2}d": _convolution(rank) for rank in (3, 4, 5)},
    **{f"conv_transpose{rank - 2}d": _transposed(rank) for rank in (3, 4, 5)},
    "conv_padding_mode": _layer(
        "nn.Conv2d({c}, {out}, 3, padding=1, padding_mode={mode})", 4, out=_OUT, mode=("'reflect'", "'replicate'", "'circular'")
    ),
    "conv_oblong": _layer(
        "nn.Conv2d({c}, {out}, ({kernel}, 1), padding=(0, 1), bias={bias})", 4, out=_OUT, kernel=_KERNEL, bias=_BIAS
    ),
    "conv_depthwise": _layer(
        "nn.Conv2d({c}, {c} * {times}, 3, padding=1, groups={c}, bias={bias})", 4, times=(1, 1, 2), bias=_BIAS
    ),
    "conv_groups": _layer(
        "nn.Conv2d({c}, {out}, 3, padding=1, groups={groups}, bias={bias})", 4, out=(4, 6, 12), groups=(2, 3, 4), bias=_BIAS
    ),
    "conv_depthwise1d": _layer("nn.Conv1d({c}, {c}, 3, padding=1, groups={c}, bias={bias})", 3, bias=_BIAS),
    "linear": _layer("nn.Linear({d}, {out}, bias={bias})", out=_OUT, bias=_BIAS),
    "linear_one": _layer("nn.Linear({d}, 1, bias={bias})", bias=_BIAS),
    "linear_own_weight": _layer("nn.Parameter(torch.randn({out}, {d}) / 4)", call="{x} @ {m}.t()", out=_OUT),
    "bilinear": _layer("nn.Bilinear({d}, {d}, {out})", 2, 3, call="{m}({x}, {y})", out=_OUT),
    "batch_norm1d": _layer("nn.BatchNorm1d({c})", 2, 3),
    "batch_norm2d": _layer("nn.BatchNorm2d({c}, affine={affine})", 4, affine=_BIAS),
    "batch_norm3d": _layer("nn.BatchNorm3d({c})", 5),
    "layer_norm": _layer("nn.LayerNorm({d}, elementwise_affine={affine})", affine=(True, True, False)),
    "layer_norm_all": _layer("nn.LayerNorm({shape})"),
    "rms_norm": _layer("nn.RMSNorm({d})"),
    "group_norm": _layer(  # of groups of one value it makes nothing but rounding, 316 times as large
        "nn.GroupNorm({groups}, {c})", call="{m}({x}) if {x}[0].numel() > {groups} else {x}", groups=(1, 2, 3, 4)
    ),
    "instance_norm1d": _layer("nn.InstanceNorm1d({c}, affine={affine})", 3, affine=_BIAS),
    "instance_norm2d": _layer("nn.InstanceNorm2d({c}, affine={affine})", 4, affine=_BIAS),
    "local_response_norm": _layer("nn.LocalResponseNorm(3)", 3, 4, 5),
    "prelu": _layer("nn.PReLU({count})", count=("{c}", 1)),
    "dropout": _layer("nn.Dropout(0.3)"),
    "dropout2d": _layer("nn.Dropout2d(0.3)", 4),
    "attention": _layer(
        "nn.MultiheadAttention({d}, {heads}, batch_first=True)", 3, call="{m}({x}, {y}, {z})[0]", heads=(1, 2, 4)
    ),
    "encoder_layer": _layer(
        "nn.TransformerEncoderLayer({d}, {heads}, 11, batch_first=True, norm_first={first})", 3, heads=_SMALL, first=_BIAS
    ),
    "parameter_add": _layer("nn.Parameter(torch.randn({shape}))", call="{sum}", sum=("{x} + {m}", "{m} + {x}")),
    "parameter_scale": _layer("nn.Parameter(torch.rand({d}) + 0.5)", call="{times}", times=("{x} * {m}", "{m} * {x}")),
    "parameter_channels": _layer(
        "nn.Parameter(torch.rand({c}) + 0.5)",
        call="{m}.view(1, -1, *[1] * ({x}.dim() - 2)) {operator} {x}",
        operator=("+", "*", "-"),
    ),
    "parameter_join": _layer(
        "nn.Parameter(torch.randn(1, *{shape}))", call="torch.cat([{x}, {m}.expand({x}.shape[0], *{shape})], {dim})", dim=_DIM
    ),
    "weight_norm": _layer("nn.utils.parametrizations.weight_norm(nn.Linear({d}, {out}))", out=_OUT),
    "spectral_norm": _layer("nn.utils.parametrizations.spectral_norm(nn.Linear({d}, {out}))", out=_OUT),
}

INTEGERS: dict[str, Operation] = {
    "embedding": Operation(
        "{m}({x})", "nn.Embedding(20, {out}, padding_idx={pad})", (2, 3), {"out": _OUT, "pad": (None, 0)}, True
    ),
    "embedding_bag": Operation(
        "{m}({x})", "nn.EmbeddingBag(20, {out}, mode={mode})", (2,), {"out": _OUT, "mode": ("'mean'", "'sum'")}, True
    ),
    "one_hot": Operation("F.one_hot({x}, 20).float()", "", (2, 3), {}, True),
    "float": Operation("{x}.float() * 0.1", "", (2, 3), {}, True),
    "masked": Operation("({x} > 3).float()", "", (2, 3), {}, True),
}

ACTIVATIONS: dict[str, Operation] = {
    **{
        name: _call(f"F.{name}({{x}})")
        for name in [
            "relu",
            "relu6",
            "hardswish",
            "hardsigmoid",
            "silu",
            "gelu",
            "sigmoid",
            "tanh",
            "leaky_relu",
            "elu",
            "mish",
            "celu",
            "selu",
            "softplus",
            "softsign",
            "hardtanh",
            "logsigmoid",
            "tanhshrink",
            "softshrink",
            "hardshrink",
        ]
    },
    "gelu_tanh": _call("F.gelu({x}, approximate='tanh')"),
    "clamp": _call("{x}.clamp({low}, {high})", low=(-0.5, 0.0), high=(0.25, 3.0, 6.0)),
    "clamp_min": _call("{x}.clamp(min={low})", low=(-0.5, 0.0, 0.1)),
    "threshold": _call("F.threshold({x}, 0.1, {value})", value=(0.0, 0.5)),
    "glu": _call("F.glu({x}, {dim})", dim=_DIM),
    "softmax": _call("{x}.softmax({dim})", dim=(1, -1, 2)),
    "log_softmax": _call("{x}.log_softmax({dim})", dim=_DIM),
    "swish": _call("{x} * {x}.sigmoid()"),
    "hardswish_spelled": _call("{x} * F.relu6({x} + 3) / 6"),
    "normalize": _call("F.normalize({x}, dim={dim})", dim=_DIM),
}

ELEMENTWISE: dict[str, Operation] = {
    **{f"{name}_binary": _call(f"{{x}} {sign} {{y}}") for name, sign in [("add", "+"), ("sub", "-"), ("mul", "*")]},
    "div": _call("{x} / ({y}.abs() + 0.5)"),
    "add_alpha": _call("torch.add({x}, {y}, alpha={alpha})", alpha=(2, 0.5, -1)),
    "maximum": _call("torch.maximum({x}, {y})"),
    "minimum": _call("torch.minimum({x}, {y})"),
    "where": _call("torch.where({x} > {y}, {x}, {y} * 0.5)"),
    "lerp": _call("torch.lerp({x}, {y}, 0.3)"),
    "addcmul": _call("torch.addcmul({x}, {y}, {z}, value=0.5)"),
    "addcdiv": _call("torch.addcdiv({x}, {y}, {z}.abs() + 1)"),
    "add_number": _call("{x} + {value}", value=(1, 0.5, -2)),
    "mul_number": _call("{x} * {value}", value=(2, 0.5, -1.5, 0)),
    "rsub": _call("1 - {x}"),
    "reciprocal": _call("1 / ({x}.abs() + 0.5)"),
    "pow": _call("{x} ** {power}", power=(2, 3)),
    "pow_tensor": _call("({x}.abs() + 0.1) ** {y}.sigmoid()"),
    "masked_fill": _call("{x}.masked_fill({x} < {value}, {fill})", value=(0, 0.3), fill=(0.0, -1.0)),
    "gate_mean": _call("{x} * {x}.mean({dim}, keepdim=True).sigmoid()", dim=_DIM),
    **{
        name: _call(f"{{x}}.{name}()")
        for name in [
            "abs",
            "neg",
            "square",
            "sin",
            "cos",
            "tan",
            "atan",
            "sinh",
            "cosh",
            "asinh",
            "erf",
            "floor",
            "ceil",
            "round",
            "sign",
            "trunc",
            "frac",
            "exp",
            "expm1",
        ]
    },
    **{
        name: _call(f"({{x}}.abs() + 0.1).{name}()")
        for name in ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"]
    },
    **{name: _call(f"({{x}}.tanh() * 0.9).{name}()") for name in ("acos", "asin", "atanh")},
    "acosh": _call("({x}.abs() + 1.5).acosh()"),
    "fmod": _call("torch.fmod({x}, {value})", value=(0.7, 2)),
    "remainder": _call("torch.remainder({x}, {value})", value=(0.7, 2)),
    "nan_to_num": _call("{x}.nan_to_num()"),
    "atan2": _call("torch.atan2({x}, {y}.abs() + 0.5)"),
    "hypot": _call("torch.hypot({x}, {y}.abs() + 0.5)"),  # its gradient at (0, 0) is NaN in torch
}

SHAPES: dict[str, Operation] = {
    "cat": _call("torch.cat([{x}, {y}], {dim})", dim=(1, -1, 2)),
    "cat_same": _call("torch.cat([{x}, {x}], {dim})", dim=(1, -1, 2)),
    "stack": _call("torch.stack([{x}, {y}], {dim})", 2, 3, 4, dim=(1, -1)),
    "flatten": _call("{x}.flatten({start})", 3, 4, 5, start=(1, 2)),
    "flatten_front": _call("{x}.flatten(1, 2)", 3, 4, 5),
    "unflatten": _call("{x}.unflatten({dim}, ({parts}, -1))", 2, 3, 4, dim=_DIM, parts=(2, 3, 4)),
    "view": _call("{x}.reshape({x}.shape[0], {parts})", parts=("-1, 2", "-1, 3", "-1, 4", "-1, 1", "1, -1", "2, -1")),
    "reshape_same": _call("{x}.reshape({x}.size(0), {d}, -1)", 3, 4, 5),
    "transpose": _call("{x}.transpose(1, {dim})", 3, 4, 5, dim=(2, -1)),
    "permute_last": _call("{x}.movedim(1, -1)", 3, 4, 5),
    "permute_first": _call("{x}.movedim(-1, 1)", 3, 4, 5),
    "mt": _call("{x}.mT", 3, 4, 5),
    "unsqueeze": _call("{x}.unsqueeze({dim})", 2, 3, 4, dim=_DIM),
    "squeeze": _call("{x}.squeeze({dim})", 3, 4, 5, dim=_DIM),
    "slice": _call("{x}[:, {start}:{stop}]", start=(0, 1), stop=(3, -1, "")),
    "slice_last": _call("{x}[..., {start}::{step}]", start=(0, 1), step=(1, 2)),
    "select": _call("{x}[:, {index}]", 3, 4, 5, index=(0, -1)),
    "select_last": _call("{x}[..., {index}]", 3, 4, 5, index=(0, -1)),
    "chunk": _call("{x}.chunk(2, {dim})[{index}]", dim=_DIM, index=(0, 1)),
    "split_sum": _call("sum(t.mean({dim}, keepdim=True) for t in {x}.split(2, {dim}))", dim=_DIM),
    "hsplit": _call("torch.hsplit({x}, 2)[1]", 2, 3, 4),
    "flip": _call("{x}.flip({dim})", dim=_DIM),
    "roll": _call("{x}.roll({shift}, {dim})", shift=(1, -2), dim=_DIM),
    "repeat": _call("{x}.repeat(1, {times}{ones})", times=(2, 3), ones=("", ", 1", ", 1, 1")),
    "repeat_interleave": _call("{x}.repeat_interleave(2, {dim})", dim=_DIM),
    "expand": _call("{x}[:, :1].expand(-1, {times}{rest})", times=(2, 3), rest=("", ", -1", ", -1, -1")),
    "tile": _call("{x}.tile(({times},))", times=(2,)),
    "pad": _call("F.pad({x}, {pad}, value={value})", pad=((1, 0), (0, 2), (1, 1, 0, 1)), value=(0.0, 0.5)),
    "pad_reflect": _call("F.pad({x}, (1, 1), mode={mode})", 3, mode=("'reflect'", "'replicate'", "'circular'")),
    "pad_reflect2d": _call("F.pad({x}, (1, 1, 1, 0), mode={mode})", 4, mode=("'reflect'", "'replicate'", "'circular'")),
    "pixel_shuffle": _call("F.pixel_shuffle({x}, 2)", 4),
    "pixel_unshuffle": _call("F.pixel_unshuffle({x}, 2)", 4),
    "channel_shuffle": _call("F.channel_shuffle({x}, {groups})", 3, 4, groups=(2, 3)),
    "unfold": _call("F.unfold({x}, 2)", 4),
    "index": _call("{x}[:, [{a}, {b}]]", a=(0, 1), b=(0, -1)),
    "gather": _call("{x}.gather({dim}, {x}.argsort({dim}))", dim=_DIM),
    "zeros_join": _call("torch.cat([{x}, {x}.new_zeros({x}.shape[0], *{shape})], {dim})", dim=_DIM),
    "ones_add": _call("{x} + torch.ones({x}.shape[0], *{shape})"),
    "arange_add": _call("{x} + torch.arange({d}) * 0.1"),
    "slice_write": _call("torch.slice_scatter({x}, {x}[:, 1:] * 2, 1, 0, {x}.shape[1] - 1)", 2, 3, 4),
    "tril": _call("{x}.tril({diagonal})", 3, 4, 5, diagonal=(0, -1, 1)),
    "triu": _call("{x}.triu()", 3, 4, 5),
    "diff": _call("{x}.diff(dim={dim})", dim=_DIM),
    "unbind": _call("{x}.unbind({dim})[0]", 3, 4, 5, dim=_DIM),
}

REDUCTIONS: dict[str, Operation] = {
    **{
        name: _call(f"{{x}}.{name}({{dim}}, keepdim={{keep}})", dim=(1, -1, 2), keep=_BIAS)
        for name in ("mean", "sum", "amax", "amin", "prod", "var", "std", "logsumexp")
    },
    "max_dim": _call("{x}.max({dim}, keepdim={keep}).values", dim=_DIM, keep=_BIAS),
    "mean_rest": _call("{x}.mean({dims}, keepdim={keep})", 4, 5, dims=((2, 3), (-2, -1), (1, 2)), keep=_BIAS),
    "argmax": _call("{x}.argmax({dim}, keepdim=True).float()", dim=_DIM),
    "topk": _call("{x}.topk({k}, {dim}).values", k=(1, 2), dim=_DIM),
    "sort": _call("{x}.sort({dim}, descending={descending}).values", dim=_DIM, descending=_BIAS),
    "cumsum": _call("{x}.cumsum({dim})", dim=_DIM),
    "norm": _call("{x}.norm(dim={dim}, keepdim=True)", dim=_DIM),
    "any": _call("({x} > 0.5).any({dim}, keepdim=True).float()", dim=_DIM),
    "all": _call("({x} > -0.5).all({dim}, keepdim=True).float()", dim=_DIM),
    "std_mean": _call("sum(torch.std_mean({x}, {dim}, keepdim=True))", dim=_DIM),
}

POOLS: dict[str, Operation] = {
    **{
        f"max_pool{rank - 2}d": _call(
            f"F.max_pool{rank - 2}d({{x}}, {{kernel}}, {{stride}}, {{padding}}, ceil_mode={{ceil}})",
            rank,
            kernel=(2, 3),
            stride=_SMALL,
            padding=(0, 1),
            ceil=(False, False, True),
        )
        for rank in (3, 4, 5)
    },
    **{
        f"avg_pool{rank - 2}d": _call(
            f"F.avg_pool{rank - 2}d({{x}}, {{kernel}}, {{stride}}, {{padding}}, {{ceil}}, count_include_pad={{count}})",
            rank,
            kernel=(2, 3),
            stride=_SMALL,
            padding=(0, 1),
            ceil=(False, False, True),
            count=_BIAS,
        )
        for rank in (3, 4, 5)
    },
    **{
        f"adaptive_avg_pool{rank - 2}d": _call(f"F.adaptive_avg_pool{rank - 2}d({{x}}, {{size}})", rank, size=(1, 2, 3))
        for rank in (3, 4, 5)
    },
    **{
        f"adaptive_max_pool{rank - 2}d": _call(f"F.adaptive_max_pool{rank - 2}d({{x}}, {{size}})", rank, size=(1, 2))
        for rank in (3, 4, 5)
    },
    "lp_pool2d": _call("F.lp_pool2d({x}, 2, 2)", 4),
    "upsample1d": _call("F.interpolate({x}, scale_factor=2, mode={mode})", 3, mode=("'nearest'", "'linear'")),
    "upsample2d": _call(
        "F.interpolate({x}, scale_factor=2, mode={mode})", 4, mode=("'nearest'", "'bilinear'", "'nearest-exact'")
    ),
    "upsample_size": _call(
        "F.interpolate({x}, size=({h}, {w}), mode={mode}, align_corners={align})",
        4,
        h=(4, 7),
        w=(5, 6),
        mode=("'bilinear'", "'bicubic'"),
        align=_BIAS,
    ),
    "upsample3d": _call("F.interpolate({x}, scale_factor=2, mode={mode})", 5, mode=("'nearest'", "'trilinear'")),
    "grid_sample": _call("F.grid_sample({x}, {y}[:, :2].movedim(1, -1).tanh(), align_corners=False)", 4),
}

PRODUCTS: dict[str, Operation] = {
    "matmul_transposed": _call("{x} @ {y}.transpose(-1, -2)", 3, 4, 5),
    "matmul": _call("{x} @ {y}", 3, 4, 5),
    "matmul_transposed_first": _call("{x}.transpose(-1, -2) @ {y}", 3, 4, 5),
    "bmm": _call("torch.bmm({x}, {y}.mT)", 3),
    "einsum": _call("torch.einsum({equation}, {x}, {y})", 3, equation=("'bij,bkj->bik'", "'bij,bij->bi'", "'bij,bik->bjk'")),
    "sdpa": _call("F.scaled_dot_product_attention({x}, {y}, {z}, is_causal={causal})", 3, 4, causal=(False, True)),
    "outer": _call("{x}.unsqueeze(-1) * {y}.unsqueeze(1)", 2),
    "cdist": _call("torch.cdist({x}, {y})", 3),
}

OPERATIONS = {**LAYERS, **INTEGERS, **ACTIVATIONS, **ELEMENTWISE, **SHAPES, **REDUCTIONS, **POOLS, **PRODUCTS}
FAMILIES = [(8, LAYERS), (3, ACTIVATIONS), (3, ELEMENTWISE), (3, SHAPES), (1, REDUCTIONS), (2, POOLS), (2, PRODUCTS)]
"""How often a step comes from which family, beside the layers that integer layers are."""
