"""Memory over many compilations and many steps of training: what one leaves behind, a hundred leave a hundred times."""

import subprocess
import sys

import pytest

START = """
import gc
import warnings

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import fxcompress
from fxcompress import defaults, passes

warnings.simplefilter("ignore")
torch.set_num_threads(1)
layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 256), nn.Linear(256, 4))
model = nn.Sequential(*layers)
x = torch.randn(8, 3, 8, 8)


def held():  # the bytes of all tensors that live; torch keeps some without values in a cache of its own
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and not isinstance(one, FakeTensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def resident():  # bytes, those that no tensor holds included
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096


NOISE = 16 * 2**20  # of an allocator, in bytes


def compiled(stack):
    compiled = fxcompress.compile(model, stack, data=[x])
    compiled.to_onnx("m.onnx", verify=False)
    return compiled
"""

COMPILATIONS = """
for stack in (defaults.training(), defaults.post_training(), [passes.PruneFilters(amount=0.5), passes.RemoveFilters()]):
    compiled(stack)
    first, memory = held(), []
    for _ in range(6):
        compiled(stack)
        memory.append(resident())
    assert held() == first, stack
assert memory[-1] - memory[0] < NOISE, memory
"""

STEPS = """
stack = [passes.LearnSparsity(level=0.5), *defaults.training(), passes.Distill()]
trained = compiled(stack).train()
optimizer = torch.optim.SGD([one for one in trained.parameters() if one.requires_grad], lr=1e-4)


def steps(count):
    for _ in range(count):
        trained.controller.scheduler.step()
        loss = trained(x[:2]).square().mean() + trained.controller.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return held(), resident()


steps(100)
bytes_before, memory_before = steps(100)
bytes_after, memory_after = steps(600)
assert bytes_after == bytes_before
assert memory_after - memory_before < NOISE, (memory_before, memory_after)
"""


@pytest.mark.parametrize("what", [COMPILATIONS, STEPS], ids=["compilations", "steps"])
def test_nothing_is_left_behind(what, tmp_path):
    found = subprocess.run([sys.executable, "-c", START + what], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
