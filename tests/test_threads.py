"""Threads compile and write as one thread does."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import Effect, Pass
from fxcompress.errors import VerificationError

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


def test_what_is_written_is_the_model_of_one_moment() -> None:
    model = fxcompress.compile(network(), fxcompress.defaults.training(), data=[X]).train()
    lowered = model.lower()
    before = lowered(X)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(tensor == 0)  # as the step of an optimizer does in another thread, while the file is made
    assert torch.equal(lowered(X), before)


def test_writing_beside_a_thread_that_trains(tmp_path: Path) -> None:
    model = fxcompress.compile(network(), fxcompress.defaults.training(), data=[X])
    stop = threading.Event()

    def train() -> None:
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        while not stop.is_set():
            model.train()(X).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def write() -> None:
        try:
            for _ in range(2):
                model.to_onnx(tmp_path / "model.onnx")
        finally:
            stop.set()

    in_threads(train, write)
    assert model.training


def test_a_model_that_trains_elsewhere_stays_in_training_while_it_is_compiled() -> None:
    seen: list[bool] = []

    class Watched(nn.Sequential):
        training = property(lambda self: self.__dict__["mode"], lambda self, mode: self.note(mode))

        def note(self, mode: bool) -> None:
            self.__dict__["mode"] = mode
            if self is model:
                seen.append(mode)

    model = None
    model = Watched(*network()).train()
    seen.clear()
    compiled = fxcompress.compile(model, data=[X])
    assert isinstance(compiled, fxcompress.Compiled) and model.training and not seen


def test_weights_that_change_while_a_model_is_compiled_are_blamed_for_what_differs() -> None:
    model = network()

    @dataclass(frozen=True, kw_only=True)
    class Triple(Pass):
        own: bool
        effect = Effect.EXACT

        def run(self, graph_module, context):
            for _, layer in graph_module.named_children():
                if self.own and hasattr(layer, "weight"):
                    layer.weight = nn.Parameter(3 * layer.weight)
            for weight in () if self.own else model.parameters():
                weight.detach().mul_(3)
            return []

    with pytest.raises(VerificationError, match="Triple promised"):
        fxcompress.compile(model, [Triple(own=True)], data=[X])
    with pytest.raises(VerificationError, match="were changed while it was compiled.*copy.deepcopy"):
        fxcompress.compile(model, [Triple(own=False)], data=[X])
