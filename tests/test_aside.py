"""Tensors in a file without a name."""

import os
import sys
import tempfile

import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.storage import aside


def mapped():
    """Files without a name that this process has pages of."""
    with open("/proc/self/maps") as lines:
        return sum("(deleted)" in line for line in lines)


def test_values_stay_and_the_file_goes_with_them(monkeypatch, tmp_path):
    monkeypatch.setattr(aside, "WORTH", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = mapped()

    _put_aside_and_change_one(before)

    assert mapped() == before and not os.listdir(tmp_path)


def _put_aside_and_change_one(before):
    kinds = (torch.float32, torch.float16, torch.int8, torch.bfloat16)
    tensors = [torch.arange(1000).reshape(20, 50).to(kind) for kind in kinds] + [torch.zeros(3, 4).T, torch.zeros(9)[:4]]
    tensors += [torch.nn.Parameter(torch.ones(7)), torch.zeros(0), torch.empty(3, device="meta")]
    expected, memory = [one.clone() for one in tensors], [one.untyped_storage()._cdata for one in tensors]

    for _ in range(2):  # the second time, nothing is left to be moved
        aside.put_aside([*tensors, tensors[0]])

    moved = [one.untyped_storage()._cdata != known for one, known in zip(tensors, memory)]
    assert moved == [True, True, True, False, False, False, True, False, False] and mapped() == before + 1
    assert all(torch.equal(one, known) for one, known in zip(tensors[:-1], expected))
    with torch.no_grad():
        tensors[6].add_(1)
    assert torch.equal(tensors[6], torch.full((7,), 2.0)) and torch.equal(tensors[0], expected[0])


def test_without_room_for_a_file_they_stay(monkeypatch):
    monkeypatch.setattr(aside, "WORTH", 1)
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    tensor = torch.ones(5)
    memory = tensor.data_ptr()

    aside.put_aside([tensor])

    assert tensor.data_ptr() == memory and tensor.sum() == 5


def test_what_a_compiled_model_computes_with_lies_in_memory_again(monkeypatch):
    """Also where a pass undid what it had put in the place of weights."""
    monkeypatch.setattr(aside, "WORTH", 1)

    def undone(changes, *_, **__):
        for change in changes:
            change.undo()
        return []

    monkeypatch.setattr(sys.modules[passes.RoundWeights.__module__], "judged", undone)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    before = mapped()
    compiled = fxcompress.compile(model, data=[torch.randn(64, 6, 8)])
    assert mapped() > before
    assert all(one.untyped_storage().resizable() for one in (*compiled.parameters(), *compiled.buffers()))
