"""The comparison of goldens sees what it is for, and nothing else."""

import pytest
import torch

from tests.corpus_text import differences, number, summary

LINE = "a = Conv(x, float32[8](0.5 @0.25 @0.10), int64[2](0, 16)){axis=1} ~40.0 dB"


@pytest.mark.parametrize(
    "same", [LINE, LINE.replace("0.5 ", "0.5004 "), LINE.replace("0.25", "0.26"), LINE.replace("40.0", "40.9")]
)
def test_last_digits_are_no_difference(same):
    assert differences(same, LINE) == ""


OTHERS = [
    ("0.5 ", "0.52 "),
    ("0.25", "0.3"),
    ("16", "17"),
    ("axis=1", "axis=2"),
    ("Conv", "Gemm"),
    ("40.0", "42.0"),
    ("(0, 16)", "(16, 0)"),
]


@pytest.mark.parametrize(("old", "new"), OTHERS)
def test_everything_else_is(old, new):
    assert differences(LINE.replace(old, new), LINE).splitlines()[-1] == "+" + LINE.replace(old, new)
    assert differences(f"{LINE}\n{LINE}", LINE) and differences("", LINE)


def test_another_order_and_another_value_are_another_summary():
    values = torch.arange(1.0, 9.0)
    kept = [summary(values), summary(values.flip(0)), summary(values + 0.2), summary(values.double()), summary(values[:7])]
    assert len(set(kept)) == 5 and not any(differences(one, one) for one in kept)
    assert all(differences(one, other) for one in kept for other in kept if one is not other)


def test_a_float_is_told_from_an_integer():
    assert [number(one) for one in (1.0, 0.5, 1e-7, float("inf"))] == ["1.0", "0.5", "1e-07", "inf"]
    assert summary(torch.tensor([3])) == "int64[1](3)" and summary(torch.tensor([3.0])) == "float32[1](3.0)"
