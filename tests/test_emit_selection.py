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

RUNTIMES = (in_onnxruntime, in_openvino)
ROWS = torch.randn(2, 5, 7)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "fmax": lambda x: torch.fmax(torch.where(x > 1, torch.nan, x), -x) + torch.fmin(x, x.flip(1)),
    "copysign": lambda x: torch.copysign(x, x.flip(1)) + torch.copysign(x, -2.0),
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
    "masked_select": lambda x: torch.masked_select(x, x > 0.2),
    "isin": lambda x: torch.isin((x * 3).int(), torch.tensor([0, 2, -1], dtype=torch.int32)),
    "searchsorted": lambda x: (torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x), torch.searchsorted(x.sort(-1)[0], x)),
    "searchsorted_right": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x.round(), right=True),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, -2]), 3.0),
    "index_copy": lambda x: x.index_copy(2, torch.tensor([4, 0]), x[:, :, 1:3] * 2),
    "kthvalue": lambda x: (*x.kthvalue(3, 1), *x.kthvalue(2, -1, keepdim=True)),
    "median": lambda x: (*x.median(1), *x[:, :4].median(1, keepdim=True)),
    "nansum": lambda x: torch.where(x > 1, torch.nan, x).nansum(1) + torch.where(x > 1, torch.nan, x).nanmean((1, 2))[:, None],
    "diag_embed": lambda x: (torch.diag_embed(x), torch.diag_embed(x[:, 0], 2), torch.diag_embed(x[:, 0], -1, 0, 2)),
    "cumprod": lambda x: x.cumprod(1) + x.cumprod(-1),
    "cummax": lambda x: (*x.round().cummax(1), *x.cummin(-1)),
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
    assert_same(FUNCTIONS[name], ROWS, tolerance=1e-4, runtimes=RUNTIMES)


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
