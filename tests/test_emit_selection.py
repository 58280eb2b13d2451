"""Searching, picking, filling and running extremes: the files compute what torch does, in both runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from emission import Call, assert_same, captured, checked, in_onnxruntime, in_openvino
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.emit.onnx import to_onnx_model
from fxcompress.errors import EmitError

RUNTIMES = (in_onnxruntime, in_openvino)
ROWS = torch.randn(2, 5, 7)

PLACES = torch.tensor([[[0, 2, 1], [3, 0, 4]]])
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "fmax": lambda x: torch.fmax(torch.where(x > 1, torch.nan, x), -x) + torch.fmin(x, x.flip(1)),
    "copysign": lambda x: torch.copysign(x, x.flip(1)) + torch.copysign(x, -2.0),
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
    "masked_select": lambda x: torch.masked_select(x, x > 0.2),
    "nonzero": lambda x: torch.nonzero(x > 0.2),
    "nonzero_of_a_number": lambda x: (x.sum().nonzero(), (x.sum() * 0).nonzero()),
    "isin": lambda x: torch.isin((x * 3).int(), torch.tensor([0, 2, -1], dtype=torch.int32)),
    "searchsorted": lambda x: (torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x), torch.searchsorted(x.sort(-1)[0], x)),
    "searchsorted_right": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x.round(), right=True),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, -2]), 3.0),
    "index_copy_of_a_number": lambda x: x.sum().index_copy(0, torch.tensor([0]), x.amax()),
    "index_copy": lambda x: x.index_copy(2, torch.tensor([4, 0]), x[:, :, 1:3] * 2),
    "kthvalue": lambda x: (*x.kthvalue(3, 1), *x.kthvalue(2, -1, keepdim=True)),
    "median": lambda x: (*x.median(1), *x[:, :4].median(1, keepdim=True)),
    "nansum": lambda x: torch.where(x > 1, torch.nan, x).nansum(1) + torch.where(x > 1, torch.nan, x).nanmean((1, 2))[:, None],
    "diag_embed": lambda x: (torch.diag_embed(x), torch.diag_embed(x[:, 0], 2), torch.diag_embed(x[:, 0], -1, 0, 2)),
    "cumprod": lambda x: x.cumprod(1) + x.cumprod(-1),
    "cummax": lambda x: (*x.round().cummax(1), *x.cummin(-1)),
    "searchsorted_in_any_order": lambda x: torch.searchsorted(x, x.flip(1), sorter=x.argsort(-1)),
    "take": lambda x: x.take(torch.tensor([[0, 3], [-1, 8]])) + x[0].sum(),
    "scatter_with": lambda x: (
        x.scatter(1, PLACES, x * 2, reduce="add"),
        x.scatter(-1, PLACES, 3.0, reduce="multiply"),
        x.scatter(1, PLACES, x * 2),
    ),
    "diag": lambda x: (x[0, 0].diag(), x[:, 0, 0].diag(1), x[0, :, 1].diag(-2), x[0, 0].diagflat(), x[0].diag()),
    "vecdot": lambda x: torch.linalg.vecdot(x, x.flip(1), dim=1) + torch.vdot(x[0, 0], x[0, 1]),
    "linspace": lambda x: (torch.linspace(x[0, 0, 0], 2.0, 4), torch.logspace(x[0, 0, 0], x[0, 0, 1], 5, base=2.0)),
    "masked_index": lambda x: torch.ops.aten._unsafe_masked_index(
        x[0], torch.tensor([[True], [False]]), [torch.tensor([1, 9])], 7.0
    ),
    "replicate_and_crop": lambda x: F.pad(x, (-7, 5), mode="replicate").sum() + F.pad(x, (3, -2), mode="replicate"),
    "nothing_joined": lambda x: torch.cat([x, x[..., :0], torch.linspace(0, 1, 0).expand(x.shape[0], 5, 0)], 2),
    "as_strided": lambda x: x.as_strided((x.shape[0], 4, 3), (x.stride(0), 7, 2), 1) + x[:1, 3].as_strided((2, 3), (1, 0))[1],
    "shrink": lambda x: F.hardshrink(x, -0.5) + F.hardshrink(x, 0.5),
    "norms": lambda x: x.norm(dim=1) + (x != 0).float().mul(x).norm(p=0, dim=1) + torch.dist(x, x.flip(1)),
}


SAMPLES: dict[str, Callable[..., Any]] = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average_of_some": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive": lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, (2, 3))),
    "conv": lambda x: F.conv2d(x.expand(3, -1, -1), torch.ones(2, 3, 3, 3)),
    "transposed": lambda x: F.conv_transpose2d(x.expand(3, -1, -1), torch.ones(3, 2, 3, 3), stride=2),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_images_without_a_batch(name: str) -> None:
    serialized = checked(to_onnx_model(captured(Call(SAMPLES[name]), x := torch.randn(1, 8, 7))))
    for runtime in RUNTIMES:
        for found, wanted in zip(runtime(serialized, [x]), pytree.tree_leaves(SAMPLES[name](x))):
            torch.testing.assert_close(torch.from_numpy(found), wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_selection(name: str) -> None:
    elsewhere = {"diag": {"diag.default"}, "index_copy_of_a_number": {"index_copy.default"}}.get(name, ())
    assert_same(FUNCTIONS[name], ROWS, tolerance=1e-4, runtimes=RUNTIMES, elsewhere=elsewhere)


NUMBERS: dict[str, Callable[..., Any]] = {
    "cumsum": lambda x: x.sum().cumsum(0),
    "index_select": lambda x: x.sum().index_select(0, torch.tensor([0])),
    "one_hot": lambda x: F.one_hot(x.argmax(), 120),
    "repeat": lambda x: (x.sum().repeat([]), x.sum().repeat(2, 3)),
    "median": lambda x: x.sum().median(),
    "prelu": lambda x: F.prelu(x, x[0, 0, 0]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_count_as_rows_of_one(name: str) -> None:
    assert_same(NUMBERS[name], ROWS, tolerance=1e-4, runtimes=RUNTIMES)


def test_a_decomposition_that_cannot_be_made_functional_does_not_end_the_process() -> None:
    """Within another one, torch's decomposition of linspace hands on what only functions may read."""
    from fxcompress.emit import calls

    found = dict(calls.TRANSLATIONS)
    inner = torch.ops.aten.linspace.Tensor_Tensor, torch.ops.aten.logspace.Tensor_Tensor
    for one in inner:
        del calls.TRANSLATIONS[one]
    try:
        with pytest.raises(EmitError, match="logspace"):
            to_onnx_model(captured(Call(lambda x: torch.logspace(x[0, 0], x[0, 1], 5)), torch.randn(2, 3)))
    finally:
        calls.TRANSLATIONS.clear()
        calls.TRANSLATIONS.update(found)


def test_channels_of_rows_are_shuffled() -> None:
    assert_same(lambda x: F.channel_shuffle(x, 2), torch.randn(2, 6, 5), runtimes=RUNTIMES)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("dim", [1, -1])
def test_means_are_scattered(dim: int, include: bool) -> None:
    def function(x: Tensor, source: Tensor, index: Tensor) -> Tensor:
        return x.scatter_reduce(dim, index, source, "mean", include_self=include)

    index = torch.randint(3, (2, 4, 6))  # smaller than both, and most places are met several times
    assert_same(function, ROWS, torch.randn(2, 6, 7), index, runtimes=RUNTIMES)


@pytest.mark.parametrize(("name", "absolute"), [("erfcx", 0), ("erfc", 1e-37), ("ndtr", 2e-7), ("log_ndtr", 2e-7)])
def test_tails_of_the_normal_distribution(name: str, absolute: float) -> None:
    x = torch.linspace(-8, 13, 160).reshape(2, 80) * (-1 if "ndtr" in name else 1)
    function = getattr(torch.special, name)
    serialized = checked(to_onnx_model(captured(Call(function), x)))
    for run in RUNTIMES:
        found = torch.from_numpy(run(serialized, [x])[0]).double()
        torch.testing.assert_close(found, function(x.double()), rtol=1e-4, atol=absolute)
