"""Lightning: its Trainer in mixed precision, with averaged weights, with two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn

import fxcompress
from benchmarks.integrations.rows import Case, two_processes
from fxcompress import passes
from fxcompress.training import Polynomial

try:
    from lightning.pytorch.callbacks import WeightAveraging
except ImportError:
    WeightAveraging = None


class Module(lightning.LightningModule):
    """A small convolutional classifier, as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 5)),
        )

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(fxcompress.parameter_groups(self, lr=1e-3, weight_decay=0.05))


def loader() -> torch.utils.data.DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    rows = [(torch.rand(3, 32, 32, generator=generator), i % 5) for i in range(32)]
    return torch.utils.data.DataLoader(rows, batch_size=4, generator=torch.Generator())


def cases() -> Iterator[Case]:
    """What its Trainer can be told."""
    yield (
        "bf16-mixed, accumulation, resume in an epoch, write",
        2,
        partial(_fit, precision="bf16-mixed", accumulate_grad_batches=2),
    )
    yield "stochastic weight averaging", 2, partial(_fit, more=(StochasticWeightAveraging(1e-3, swa_epoch_start=1),))
    if WeightAveraging is not None:
        yield "averaged weights, without buffers", 2, partial(_fit, more=(WeightAveraging(use_buffers=False),), resume=False)
    yield "two processes (DDP, gloo, torchrun), bf16-mixed", 2, partial(two_processes, "benchmarks.integrations.lightning_rows")


def _compressed() -> tuple[Module, Any]:
    torch.manual_seed(0)
    module = Module()
    ramp = Polynomial(epochs=2, steps_per_epoch=8)
    stack = [passes.Sparsify(level=0.5, schedule=ramp), *fxcompress.defaults.training(), passes.Distill()]
    return module, fxcompress.compress(module.net, stack, data=loader())


def _trainer(folder: str, *callbacks: Any, **settings: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet | {"max_epochs": 3} | settings)


def _fit(more: tuple[Any, ...] = (), resume: bool = True, **settings: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        module, compression = _compressed()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = _trainer(folder, compression.callback("lightning"), saving, *more, **settings)
        trainer.fit(module, loader())
        assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())
        level = compression.controller["Sparsify"].level
        told = f"level {level}; written"
        if resume:
            other, again = _compressed()
            steps = 3
            _trainer(folder, again.callback("lightning"), *more, **settings).fit(
                other, loader(), ckpt_path=f"{folder}/step={steps}.ckpt"
            )
            assert (
                again.controller.scheduler.state_dict()["children"] == compression.controller.scheduler.state_dict()["children"]
            )
            told += "; resumed at step 3 with the same schedule"
        compression.to_onnx(f"{folder}/model.onnx")
    return told


if __name__ == "__main__":
    told = _fit(strategy="ddp", devices=2, resume=False, precision="bf16-mixed")
    if torch.distributed.get_rank() == 0:
        print(f"RESULT {told}")
