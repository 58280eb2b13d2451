"""Losses in a model's forward, of targets that it is given."""

import pytest
import torch
import torch.nn.functional as F
from emission import assert_same, in_onnxruntime, in_openvino

GIVEN = {
    "rows": (torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])),
    "images": (torch.randn(2, 3, 4, 5), torch.arange(40).reshape(2, 4, 5) % 3),
}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy(kind, reduction, weight, smoothing):
    def loss(x, y):
        return F.cross_entropy(x, y, weight, ignore_index=1, reduction=reduction, label_smoothing=smoothing)

    assert_same(loss, *GIVEN[kind], runtimes=(in_onnxruntime, in_openvino))
