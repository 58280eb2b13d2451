"""A warning names the line of the user's own code that called, whatever stands between it and the place that warns."""

import warnings

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import errors, passes
from fxcompress.training import Polynomial


def forgotten_schedule(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    prune = passes.PruneFilters(amount=0.5, schedule=Polynomial(epochs=3))
    compiled = fxcompress.compile(model, [prune], example_inputs=torch.randn(2, 3, 8, 8))
    compiled.to_onnx(tmp_path / "m.onnx", verify=False)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x):
        x = self.body(x)
        return x if float(x.sum()) > 1e9 else -x


def partly_captured(tmp_path):
    fxcompress.compile(Untraceable(), [], data=[torch.randn(2, 4)])


@pytest.mark.parametrize(
    ("call", "category"),
    [(forgotten_schedule, errors.ScheduleWarning), (partly_captured, errors.PartialCaptureWarning)],
)
def test_warnings_name_the_callers_file(call, category, tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call(tmp_path)
    assert [warning.filename for warning in seen if warning.category is category] == [__file__]
