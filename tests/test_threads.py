"""Threads compile and write as one thread does."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import nn

import fxcompress

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


def in_threads(*jobs) -> list:
    results, errors = [None] * len(jobs), []

    def run(position, job):
        try:
            results[position] = job()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return results


def test_compilations_in_threads_give_what_one_gives() -> None:
    models = [network() for _ in range(4)]  # torch's seed is one for all threads
    expected = fxcompress.compile(network(), data=[X])(X)
    found = in_threads(*[lambda model=model: fxcompress.compile(model, data=[X]) for model in models])
    assert all(isinstance(one, fxcompress.Compiled) and torch.equal(one(X), expected) for one in found)


def test_writing_in_threads_leaves_a_model_in_training_as_it_is(tmp_path: Path) -> None:
    model = fxcompress.compile(network(), fxcompress.defaults.training(), data=[X]).train()
    files = in_threads(*[lambda name=name: model.to_onnx(tmp_path / f"{name}.onnx") for name in "ab"])
    assert model.training and all(module.training for module in model.modules())
    assert files[0].read_bytes() == files[1].read_bytes()
