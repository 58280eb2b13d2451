"""Compression inside the Runner of MMEngine, of a detector in the shape of MMDetection's."""

import pytest
import torch
from detector import Backbone, Head, Neck
from frameworks import framework
from loops import same, state_of
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial

mmengine = framework("mmengine")
pytest.importorskip("mmengine.runner")
from mmengine.model import BaseModel, BaseModule  # noqa: E402
from mmengine.runner import Runner  # noqa: E402


class Initialised(BaseModule):
    """A part that draws its weights anew when the Runner says so."""

    def __init__(self, part):
        super().__init__(init_cfg={"type": "Constant", "layer": "Conv2d", "val": 0.01})
        self.part = part

    def forward(self, x):
        return self.part.forward(x)


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = Initialised(Backbone()), Neck(), Head()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        levels = self.neck.forward(self.backbone(inputs))
        if mode == "loss":
            return self.head.loss(levels, data_samples)
        return self.head.forward(levels)

    def train(self, mode=True):
        super().train(mode)


def batches():
    generator = torch.Generator().manual_seed(5)
    sizes = [(24, 32), (20, 20), (33, 18), (24, 24)]
    return [{"inputs": torch.randn(2, 3, *size, generator=generator), "data_samples": TARGETS} for size in sizes]


TARGETS = [{"boxes": torch.zeros(n, 4)} for n in (1, 2)]


class Batches(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, position):
        return batches()[position]


def runner(folder, compression, model, **settings):
    loader = torch.utils.data.DataLoader(Batches(), batch_size=None)
    return Runner(
        model,
        str(folder),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": 3},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        custom_hooks=[compression.callback("mmengine")],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}, "logger": None},
        experiment_name="compression",
        **settings,
    )


def compressed():
    torch.manual_seed(0)
    model = Detector()
    model.eval()
    stack = [passes.Sparsify(level=0.5, schedule=Polynomial(epochs=3)), *fxcompress.defaults.training(), passes.Distill()]
    return model, fxcompress.compress(model, stack, data=[{"inputs": one["inputs"]} for one in batches()])


@pytest.mark.filterwarnings("ignore")
def test_a_runner_trains_a_detector_and_goes_on_with_the_same_bits(tmp_path):
    model, compression = compressed()
    assert list(compression.compiled.parts) == ["backbone", "neck", "head"]
    kept = model.backbone.part.stem[0].weight.detach().clone()
    seen = []
    model.register_forward_hook(lambda module, args, outputs: seen.append(set(outputs)))
    runner(tmp_path, compression, model).train()
    assert seen[0] == {"loss_score", "loss_box"} and kept.std() > 0
    assert not torch.equal(model.backbone.part.stem[0].weight, torch.full_like(kept, 0.01))  # not initialised over its ranges
    expected = state_of(model)
    schedule = compression.controller.scheduler.state_dict()
    assert (schedule["current_epoch"], schedule["current_step"]) == (2, 11)

    model, compression = compressed()
    runner(tmp_path / "again", compression, model, load_from=str(tmp_path / "epoch_2.pth"), resume=True).train()
    assert compression.controller.scheduler.state_dict() == schedule
    assert same(state_of(model), expected)


def test_the_detector_is_an_ordinary_module():
    assert isinstance(Detector(), nn.Module)
