"""The benchmark of training steps runs what it says; it measures nothing here."""

import copy

import pytest
import torch
from torch import nn

from benchmarks import qat_step
from fxcompress.quantizers import native
from fxcompress.quantizers.spec import QuantizationSpec


def test_training_steps_take_turns_and_train(monkeypatch):
    monkeypatch.setattr(qat_step, "BATCH", (2, 3, 8, 8))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 1000))
    trained = {"FP32": model, "fxcompress": qat_step.TOOLS["fxcompress"](model.eval())}
    before = {name: copy.deepcopy(one.state_dict()) for name, one in trained.items()}
    taken = qat_step.measure(
        {name: qat_step.step_of(one, qat_step.BATCH) for name, one in trained.items()}, rounds=3, warm_up=1
    )
    assert [len(seconds) for seconds in taken.values()] == [3, 3]
    for name, one in trained.items():
        assert one.training
        assert not any(torch.equal(before[name][key], one.state_dict()[key]) for key in before[name] if key.endswith("weight"))


@pytest.mark.parametrize("kernel", ["compiled", "torch"])
def test_a_quantizer_is_measured_as_asked_and_the_kernel_is_put_back(kernel):
    loaded = native.load()
    jobs = qat_step._quantizer_and_copy(torch.randn(4, 5), QuantizationSpec(channel_axis=0), kernel)
    for job in jobs.values():
        job()
    assert native.loaded is loaded
