"""Every family of operators: the emitted file computes what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from emission import assert_same
from torch import Tensor

import fxcompress

X = torch.randn(2, 3, 8, 6)
ROWS = torch.randn(2, 5, 8)
INTEGERS = torch.randint(-9, 9, (2, 3, 4))
WHOLE = torch.randint(1, 5, (2, 3, 4))
MASK = torch.rand(2, 3, 4) > 0.5

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": lambda x: F.hardswish(3 * x),
    "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "mish": F.mish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.6),
    "softplus": F.softplus,
    "softplus_steep": lambda x: F.softplus(x * 10, beta=2, threshold=5),
    "logsigmoid": F.logsigmoid,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "glu": lambda x: F.glu(x, dim=2),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3])),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp_min": lambda x: x.clamp(min=0.2),
    "clamp_max": lambda x: x.clamp(max=0.2),
    "exp_log": lambda x: torch.log(torch.exp(x) + 1),
    "log1p_expm1": lambda x: torch.log1p(x.abs()) + torch.expm1(x),
    "log2_log10": lambda x: torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1),
    "roots": lambda x: torch.sqrt(x.abs()) + torch.rsqrt(x.abs() + 1),
    "trigonometry": lambda x: torch.sin(x) * torch.cos(x) + torch.tan(x / 4) + torch.atan(x),
    "rounding": lambda x: torch.floor(x) + torch.ceil(x * 2) + torch.round(x * 3) + torch.trunc(x * 5),
    "sign_erf": lambda x: torch.sign(x) + torch.erf(x) + torch.reciprocal(x.abs() + 1) - torch.neg(x).abs(),
    "powers": lambda x: x**2 + x**3 + x.abs() ** 0.5 + 2**x + (x.abs() + 1) ** -0.5,
    "arithmetic": lambda x: (2 * x + 1) - 3 / (x.abs() + 1) + (1 - x) / 2,
    "alpha": lambda x: torch.add(x, x * 2, alpha=3) - torch.sub(x, 1.5, alpha=2) + torch.rsub(x, 4, alpha=0.5),
    "division": lambda x: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, 0.3, rounding_mode="trunc"),
    "remainders": lambda x: torch.remainder(x, 0.7) + torch.fmod(x, 0.7) + torch.floor_divide(x, 0.7),
    "extremes": lambda x: torch.maximum(x, x.flip(0)) + torch.minimum(x, -x),
    "fused": lambda x: torch.addcmul(x, x, x, value=0.5) + torch.lerp(x, -x, 0.3),
    "isnan": lambda x: torch.isnan(x) | torch.isinf(x),
    "comparisons": lambda x: (x > 0) & (x <= 1) | (x.abs() >= 2) ^ (x < -1) | (x == 0) & (x != 1),
    "where": lambda x: torch.where(x > 0, x, 0.5) + torch.where(x > 0, 1.0, x).masked_fill(x > 1, 7),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    assert_same(ELEMENTWISE[name], X)


PROMOTION: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "integer_plus_float": (lambda x: x + 0.5, (INTEGERS,)),
    "integer_plus_integer": (lambda x: x + 2, (INTEGERS,)),
    "integer_division": (lambda x: x / 2, (INTEGERS,)),
    "integer_floor_division": (lambda x: x // 4, (INTEGERS,)),
    "integer_truncation": (lambda x: torch.div(x, 4, rounding_mode="trunc"), (INTEGERS,)),
    "integer_remainder": (lambda x: x % 4, (INTEGERS,)),
    "integer_tensors": (lambda x, y: torch.maximum(x // y, x % y), (INTEGERS, WHOLE)),
    "bool_times_float": (lambda m, x: m * x, (MASK, torch.randn(2, 3, 4))),
    "bool_arithmetic": (lambda m, n: m + n, (MASK, ~MASK)),
    "bool_product": (lambda m, n: m * n, (MASK, ~MASK)),
    "bool_minus": (lambda m: 1 - m.to(torch.int64), (MASK,)),
    "int_with_float_tensor": (lambda i, x: i * x, (INTEGERS, torch.randn(2, 3, 4))),
    "narrow_int": (lambda i: i.to(torch.int32) + i, (INTEGERS,)),
    "half": (lambda x: (x.half() * 2).float(), (torch.arange(8.0).view(2, 4),)),
    "zero_dim": (lambda x: x + torch.tensor(2), (torch.randn(2, 4),)),
    "casts": (lambda x: x.to(torch.int32).bool().float() + x.double().float(), (torch.randn(2, 4) * 3,)),
    "sigmoid_of_integer": (lambda x: torch.sigmoid(x), (INTEGERS,)),
    "logic": (lambda x, m: torch.logical_not(x) | torch.logical_and(x, m) | ~m, (INTEGERS, MASK)),
    "integer_bits": (lambda x: (x & 3) | (x ^ 1), (INTEGERS,)),
    "compare_mixed": (lambda x, y: x > y, (INTEGERS, torch.randn(2, 3, 4))),
    "compare_fraction": (lambda x: x > 0.5, (INTEGERS,)),
    "compare_bools": (lambda x: (x > x.flip(0)) | (x == x.flip(1)), (MASK,)),
}


@pytest.mark.parametrize("name", PROMOTION)
def test_type_promotion(name: str) -> None:
    function, inputs = PROMOTION[name]
    assert_same(function, *inputs)


SHAPES: dict[str, Callable[..., Any]] = {
    "view": lambda x: x.view(x.shape[0], 4, 10),
    "view_inferred": lambda x: x.view(-1, 8) + 1,
    "merge_batch": lambda x: x.reshape(x.shape[0] * 5, 8) * 2,
    "split_batch": lambda x: x.reshape(x.shape[0] * 5, 8).reshape(x.shape[0], 5, 2, 4),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 4)),
    "two_symbolic": lambda x: x.reshape(x.shape[0], 1, -1).expand(x.shape[0], x.shape[0], 40).reshape(-1, x.shape[0], 8),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(-1, -2).contiguous(),
    "matrix_t": lambda x: x[:, 0].t(),
    "movedim": lambda x: x.movedim(0, -1),
    "unsqueeze": lambda x: x.unsqueeze(-1).squeeze(-1).unsqueeze(1).squeeze(1),
    "expand": lambda x: x[:, :1].expand(-1, 4, -1) + x[:1, :1].expand(x.shape[0], 1, 8),
    "expand_rows": lambda x: torch.ones(1, 3, 8).expand(x.shape[0], -1, -1) + x[:, :3],
    "slice": lambda x: x[:, 1:4, ::2] + x[:, -3:, 1::2],
    "select": lambda x: x[:, 2] - x[:, -1],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "cat": lambda x: torch.cat([x, x * 2], dim=1),
    "cat_types": lambda x: torch.cat([x, (x > 0)], dim=-1),
    "stack": lambda x: torch.stack([x, -x], dim=-1),
    "split": lambda x: x.split(3, dim=2)[1],
    "split_sizes": lambda x: x.split([1, 4], dim=1)[1] + x.split([1, 4], dim=1)[0],
    "chunk": lambda x: x.chunk(3, dim=2)[0] * 2 - x.chunk(3, dim=2)[1],
    "unbind": lambda x: x.unbind(1)[3],
    "roll": lambda x: x.roll((1, -2), (1, 2)) + x.roll(3, 1),
    "roll_flat": lambda x: x.roll(3),
    "flip": lambda x: x.flip(1, 2),
    "repeat": lambda x: x.repeat(1, 2, 3) + x.repeat(1, 2, 3)[:1],
    "repeat_new_axis": lambda x: x.repeat(2, 1, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "pad_cut": lambda x: F.pad(x, (-1, 2)),
    "pad_reflect": lambda x: F.pad(x, (2, 1), mode="reflect") + F.pad(x, (2, 1), mode="replicate"),
    "pad_circular": lambda x: F.pad(x, (2, 1), mode="circular"),
    "tril": lambda x: torch.tril(x) + torch.triu(x, 1) + torch.tril(x > 0, -1),
    "fill": lambda x: torch.full_like(x, 2.5) + torch.zeros_like(x) + torch.ones(x.shape[0], 5, 1) + x.new_full((8,), 3),
    "arange": lambda x: torch.arange(x.shape[0])[:, None] + torch.arange(5) + torch.arange(1, 16, 3),
    "linspace": lambda x: x + torch.linspace(0, 1, 8) + torch.eye(8)[:5],
    "size_as_value": lambda x: x * x.shape[0] + x.shape[0] // 2,
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 4),
    "select_scatter_last": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, -1) + torch.select_scatter(x, x[..., 0], -1, -2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    assert_same(SHAPES[name], ROWS)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": lambda x: x.mean((2, 3)) + x.mean(-1).mean(-1),
    "mean_all": lambda x: x.mean(),
    "sum": lambda x: x.sum(1, keepdim=True) + x.sum((2, 3), keepdim=True),
    "sum_of_bool": lambda x: (x > 0).sum(1),
    "prod": lambda x: x.prod(2),
    "amax": lambda x: x.amax((1, 2)) - x.amin((1, 2)),
    "max_all": lambda x: x.max() - x.min(),
    "max_dim": lambda x: x.max(1),
    "min_dim": lambda x: x.min(2, keepdim=True),
    "argmax": lambda x: (x.argmax(1), x.argmin(2, keepdim=True), x.argmax()),
    "any_all": lambda x: ((x > 1).any(1), (x > -1).all(2), (x > 9).any()),
    "var": lambda x: x.var((2, 3)) + x.std((2, 3), correction=0),
    "var_mean": lambda x: torch.var_mean(x, (1, 2), keepdim=True),
    "var_over_batch": lambda x: torch.cat([x, x]).var(0),
    "logsumexp": lambda x: x.logsumexp(1),
    "norms": lambda x: F.normalize(x, dim=1) + x.norm(p=1, dim=2, keepdim=True) + torch.linalg.vector_norm(x, 3, (1,), True),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(-1),
    "softmax_type": lambda x: (x * 8).to(torch.int64).softmax(-1, dtype=torch.float32),
    "cumsum": lambda x: x.cumsum(2) + (x > 0).cumsum(-1),
    "diff": lambda x: (x.diff(), x.diff(dim=1, prepend=x[:, :1] * 2, append=x[:, :2])),
    "topk": lambda x: x.topk(3, dim=2),
    "sort": lambda x: x.sort(dim=2, descending=True),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    assert_same(REDUCTIONS[name], X, tolerance=1e-4, elsewhere={"cumsum": {"cumsum.default"}}.get(name, ()))


LOOKUPS: dict[str, Callable[..., Any]] = {
    "embedding": lambda x, i: F.embedding(i, torch.arange(24.0).view(12, 2)),
    "index_select": lambda x, i: x.index_select(1, torch.tensor([3, 0, 0])),
    "gather": lambda x, i: x.gather(2, i),
    "one_index": lambda x, i: x[:, torch.tensor([0, -1])],
    "adjacent_indices": lambda x, i: x[:, torch.tensor([[0], [2]]), torch.tensor([1, -1])],
    "separate_indices": lambda x, i: x[torch.tensor([0, -1]), :, torch.tensor([1, 2])],
    "batched_indices": lambda x, i: x[torch.arange(x.shape[0])[:, None], i[:, 0] % 4],
    "index_by_matrix": lambda x, i: torch.arange(24.0).view(12, 2)[i],
    "last_tokens": lambda x, i: x[torch.arange(x.shape[0]), i[:, 0, 0] % 4],
    "scatter": lambda x, i: torch.zeros_like(x).scatter(2, i, x) + x.scatter_add(2, i * 0 + 1, x),
    "scatter_value": lambda x, i: x.scatter(2, i, 3.0),
    "one_hot": lambda x, i: F.one_hot(i, 12),
    "masked_rows_put": lambda x, i: torch.index_put(x, [x[..., 0] > 0], torch.tensor(2.0)),
    "masked_put": lambda x, i: torch.index_put(x, [x > 0], torch.tensor(2.0)),
    "masked_vectors_put": lambda x, i: torch.index_put(x, [x[..., 0] > 0], x[0, 0]),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups(name: str) -> None:
    indices = torch.argsort(torch.rand(2, 4, 6), dim=2)
    elsewhere = {"masked_vectors_put": {"index_put.default"}}.get(name, ())
    assert_same(LOOKUPS[name], torch.randn(2, 4, 6), indices, elsewhere=elsewhere)


@pytest.mark.parametrize("mask", [lambda x: x > 0, lambda x: x[..., 0] > 0])
def test_a_number_that_is_put_where_a_mask_is_true_is_one_choice(mask, tmp_path) -> None:
    class Put(torch.nn.Module):
        def forward(self, x):
            return torch.index_put(x, [mask(x)], torch.tensor(2.0))

    path = fxcompress.compile(Put(), [], example_inputs=X).to_onnx(tmp_path / "put.onnx")
    operations = [node.op_type for node in onnx.load(path).graph.node]
    assert operations[-1] == "Where" and not any(one.startswith(("Scatter", "NonZero")) for one in operations)


def test_runtimes_agree_on_outputs_without_computation() -> None:
    constant = torch.arange(3.0)
    assert_same(lambda x: {"same": x, "twice": x, "constant": constant, "rows": [x.shape[0] * torch.ones(1)]}, X)
