"""timm: what its train script does, which the package does not carry: optimizer, schedule, averaged weights, autocast."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import fxcompress
from benchmarks.integrations.rows import Case
from fxcompress import passes

_EPOCHS, _SIZE = 2, 64


def cases() -> Iterator[Case]:
    """A convolutional network and a transformer, with everything that the script can switch on; and its resume."""
    for name in ("mobilenetv2_050", "resnet10t", "vit_tiny_patch16_224"):
        yield f"{name}: averaged weights, bf16, channels last, resume, write", 3, partial(_recipe, name)
    yield "resnet10t with torch.compile", 3, partial(_recipe, "resnet10t", compiled=True)


def _batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(4, 3, _SIZE, _SIZE, generator=generator), torch.arange(4)) for _ in range(3)]


def _model(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    options = {"img_size": _SIZE} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **options).to(memory_format=torch.channels_last)
    stack = [passes.Sparsify(level=0.5), *fxcompress.defaults.training(), passes.Distill()]
    compression = fxcompress.compress(model, stack, data=[x for x, _ in _batches()])
    return model, compression


def _train(name: str, epochs: range, state: dict[str, Any] | None = None, compiled: bool = False) -> tuple[Any, ...]:
    model, compression = _model(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=_EPOCHS)
    averaged = ModelEmaV3(model, decay=0.9)
    if state is not None:
        compression.load_checkpoint(state["compression"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.load_state_dict(state["averaged"])
        torch.set_rng_state(state["random"])
    run = torch.compile(model) if compiled else model
    for epoch in epochs:
        compression.controller.scheduler.epoch_step()
        model.train()
        for x, y in _batches():
            compression.controller.scheduler.step()
            with torch.autocast("cpu", torch.bfloat16):
                outputs = run(x.to(memory_format=torch.channels_last))
                loss = nn.functional.cross_entropy(outputs, y) + compression.controller.loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            averaged.update(model)
        scheduler.step(epoch + 1)
    saved = {
        "compression": compression.checkpoint(),
        "optimizer": optimizer.state_dict(),
        "averaged": averaged.state_dict(),
        "random": torch.get_rng_state(),
    }
    return model, compression, averaged, saved, float(loss.detach())


def _recipe(name: str, compiled: bool = False) -> str:
    model, compression, averaged, _, loss = _train(name, range(_EPOCHS), compiled=compiled)
    _, _, _, saved, _ = _train(name, range(1), compiled=compiled)
    resumed, _, other, _, _ = _train(name, range(1, _EPOCHS), saved, compiled=compiled)
    expected = model.state_dict()
    bits = all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())
    together = all(torch.equal(a, b) for a, b in zip(averaged.module.state_dict().values(), other.module.state_dict().values()))
    x = _batches()[0][0]
    with torch.no_grad():
        distance = float((averaged.module.eval()(x) - model.eval()(x)).abs().mean())
    model.load_state_dict(averaged.module.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        compression.to_onnx(f"{folder}/averaged.onnx")
    assert bits and together and distance > 0, f"same bits: {bits}, averaged too: {together}, apart: {distance}"
    return f"loss {loss:.3f}; resumed with the same bits, averaged weights too; the averaged model written"
