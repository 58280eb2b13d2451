"""Operands of several types, and types that a runtime has no kernel for: files compute what torch does, in its types."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from emission import Call, assert_same, captured, checked, in_onnxruntime, in_openvino
from torch import Tensor

from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.widths import TAKES

RUNTIMES = (in_onnxruntime, in_openvino)
FLOATS = torch.tensor([[-2.5, -1.0, -0.25], [0.0, 0.75, 3.5]])
TYPES = {"float": lambda x: x, "int64": lambda x: (x * 2).long(), "int32": lambda x: (x * 2).int(), "bool": lambda x: x > 0}
TYPES |= {"uint8": lambda x: (x.abs() * 3).to(torch.uint8), "int8": lambda x: (x * 3).to(torch.int8)}
MIXED = {
    "addcdiv": lambda a, b: torch.addcdiv(a, b, b.abs() + 1.5, value=3),
    "addcdiv of others": lambda a, b: torch.addcdiv(b, a, a.abs() + 1, value=2),
    "addcmul": lambda a, b: torch.addcmul(a, b, a, value=2),
    "greatest": lambda a, b: torch.maximum(a, b),
    "least but NaN": lambda a, b: torch.fmin(a, b),
    "clamp": lambda a, b: torch.clamp(a, b, b + 1),
    "joined": lambda a, b: torch.cat([a, b], 1),
    "masked": lambda a, b: a.masked_fill(b > 0, 1),
    "chosen": lambda a, b: torch.where(b > 0, a, b),
    "written into": lambda a, b: torch.slice_scatter(a, b.abs()[:, :1], 1, 0, 1),
    "one written": lambda a, b: torch.select_scatter(a, b.abs()[:, 0], 1, 2),
    "step": lambda a, b: torch.heaviside(a, b),
    "power": lambda a, b: a ** b.abs(),
    "angle": lambda a, b: torch.atan2(a, b),
    "difference": lambda a, b: a - b,
    "product": lambda a, b: torch.mul(a, b),
    "remainder": lambda a, b: torch.remainder(a, b.abs() + 2),
}


@pytest.mark.parametrize("function", MIXED.values(), ids=MIXED)
def test_operands_of_several_types(function) -> None:
    """All pairs of types that torch takes, in one file."""
    pairs = [pair for pair in itertools.product(TYPES.values(), repeat=2) if _takes(function, pair)]
    assert len(pairs) >= 6
    assert_same(lambda x: tuple(function(one(x), other(x.flip(1))) for one, other in pairs), FLOATS, runtimes=RUNTIMES)


def _takes(function, pair) -> bool:
    one, other = pair
    try:
        function(one(FLOATS), other(FLOATS))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", ["uint8", "int8"])
def test_bytes_wrap_around(name: str) -> None:
    x = torch.tensor([[3.0, 100.0, 120.0, 5.0]])
    kind = getattr(torch, name)

    def arithmetic(x: Tensor) -> tuple[Tensor, ...]:
        a, b = x.to(kind), x.flip(1).to(kind)
        return a + b, a - b, a * b, -b, a + 100, a.sum(1, dtype=kind)

    assert_same(arithmetic, x, runtimes=RUNTIMES)


def test_whole_numbers_to_negative_powers() -> None:
    base, power = torch.tensor([[0, 0, 2, -1, -1, 1, -3, 5]]), torch.tensor([[-1, 0, -2, -3, -2, -5, -1, 3]])
    base[0, 0] = 1  # torch gives 0 for what is infinite
    assert_same(lambda x, y: (x**y, 2 ** y.abs(), x.int() ** 3), base, power, runtimes=RUNTIMES)


def test_every_type_that_an_operator_is_left_has_a_kernel() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    found: dict[str, dict[str, set[str]]] = {}
    for kernel in get_all_opkernel_def():
        if (
            kernel.provider == "CPUExecutionProvider"
            and not kernel.domain
            and kernel.version_range[0] <= 20 <= kernel.version_range[1]
        ):
            for variable, types in kernel.type_constraints.items():
                found.setdefault(kernel.op_name, {}).setdefault(variable, set()).update(types)
    for name, takes in TAKES.items():
        schema = onnx.defs.get_schema(name, 20)
        kinds = [one.type_str for one in schema.inputs]
        kind = schema.outputs[0].type_str if schema.outputs[0].type_str in kinds else kinds[0]
        assert {f"tensor({one.name.lower()})" for one in takes} <= found[name][kind], name


def test_what_is_small_is_no_nothing() -> None:
    """Constants of torchlib's up to 1e-8 stay."""
    x, y = torch.tensor([[0.0, 1e-9, 5e-9, 2e-8]]), torch.zeros(1, 4)
    model = to_onnx_model(captured(Call(lambda x, y: torch.isclose(x, y)), x, y))
    for run in RUNTIMES:
        assert np.array_equal(run(checked(model), (x, y))[0], torch.isclose(x, y).numpy())


@pytest.mark.parametrize("function", [torch.atan2, torch.logaddexp, torch.hypot], ids=["angle", "log of a sum", "length"])
def test_quadrants_and_large_numbers(function) -> None:
    x = torch.tensor([[0.0, -1.0, 1.0, -90.0, 90.0]]).expand(5, 5)
    assert_same(lambda x, y: function(x, y), x.clone(), x.T.clone(), runtimes=RUNTIMES)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("by", ["1", "7", "each its own"])
def test_bits_of_numbers_below_zero_are_shifted_to_the_right(kind, by):
    def shifted(x):
        numbers = TYPES[kind](x * 9)
        return numbers >> (TYPES[kind](x).abs() if by == "each its own" else int(by)), torch.bitwise_right_shift(numbers, 1)

    assert_same(shifted, FLOATS, runtimes=RUNTIMES)
