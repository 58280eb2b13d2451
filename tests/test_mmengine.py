"""Compression inside the Runner of MMEngine, of a detector in the shape of MMDetection's."""

import pytest
import torch
from detector import Backbone, Head, Neck
from frameworks import framework
from loops import same, state_of
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.training import Polynomial

mmengine = framework("mmengine")
pytest.importorskip("mmengine.runner")
from mmengine.dataset import InfiniteSampler  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import BaseDataPreprocessor, BaseModel, BaseModule  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from fxcompress.compat.mmengine import Compress  # noqa: E402


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


@pytest.fixture(autouse=True)
def its_own_checkpoints(monkeypatch):
    """MMEngine 0.10 puts objects of its own into checkpoints, which torch loads only when told so."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def runner(folder, compression, model, **settings):
    return made(folder, [compression.callback("mmengine")], model, **settings)


def made(folder, hooks, model, **settings):
    loader = torch.utils.data.DataLoader(Batches(), batch_size=1, collate_fn=lambda batches: batches[0])
    return Runner(
        model,
        str(folder),
        train_dataloader=settings.pop("train_dataloader", loader),
        train_cfg=settings.pop("train_cfg", {"by_epoch": True, "max_epochs": 3}),
        optim_wrapper=settings.pop("optim_wrapper", {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}}),
        custom_hooks=hooks,
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


@pytest.mark.filterwarnings("ignore")
def test_one_line_of_a_configuration_compresses(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "int8.yaml").write_text("passes: [defaults.training]")
    hook = {
        "type": "fxcompress.compat.mmengine.Compress",
        "config": str(tmp_path / "int8.yaml"),
        "batches": 3,
        "file": str(tmp_path / "parts"),
    }
    model = Detector()
    first = made(tmp_path / "run", [hook], model)
    first.train()
    (compress,) = (one for one in first.hooks if type(one).__name__ == "Compress")
    trained = {id(parameter) for group in first.optim_wrapper.optimizer.param_groups for parameter in group["params"]}
    inserted = [one for name, one in model.named_parameters() if name not in dict(Detector().named_parameters())]
    assert inserted and {id(one) for one in inserted if one.requires_grad} <= trained
    assert list(compress.compression.compiled.parts) == ["backbone", "neck", "head"]
    assert {path.suffix for path in (tmp_path / "parts").iterdir()} == {".onnx"}

    again = Detector()
    made(tmp_path / "again", [hook], again, load_from=str(tmp_path / "run" / "epoch_2.pth"), resume=True).train()
    assert same(state_of(model), state_of(again))


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_loaded_are_compressed_beside_averages_of_them(tmp_path):
    (tmp_path / "int8.yaml").write_text("passes: [defaults.training]")
    trained = Detector()
    made(tmp_path / "float", [], trained).train()
    hook = {"type": "fxcompress.compat.mmengine.Compress", "config": str(tmp_path / "int8.yaml")}
    still = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.0}}}
    path = str(tmp_path / "float" / "epoch_3.pth")
    run = made(tmp_path / "run", [hook, {"type": "EMAHook"}], Detector(), load_from=path, **still)
    run.train()
    (average,) = (one.ema_model.module for one in run.hooks if type(one).__name__ == "EMAHook")
    for name, value in trained.named_parameters():
        assert torch.equal(dict(run.model.named_parameters())[name], value)
        torch.testing.assert_close(dict(average.named_parameters())[name], value)


@pytest.mark.filterwarnings("ignore")
def test_calibration_leaves_a_sampler_without_an_end_as_it_is(tmp_path):
    (tmp_path / "int8.yaml").write_text("passes: [defaults.training]")
    hook = {"type": "fxcompress.compat.mmengine.Compress", "config": str(tmp_path / "int8.yaml"), "batches": 2}
    data = Batches()
    sampler = InfiniteSampler(data, seed=0)
    loader = torch.utils.data.DataLoader(data, batch_size=1, sampler=sampler, collate_fn=lambda batches: batches[0])
    run = made(tmp_path, [hook], Detector(), train_dataloader=loader, train_cfg={"by_epoch": False, "max_iters": 6})
    run.train()
    assert run.iter == 6
    order = InfiniteSampler(data, seed=0)
    assert next(iter(sampler)) == [place for place, _ in zip(order, range(7))][-1]


class Preprocessor(BaseDataPreprocessor):
    """As segmenters have one: it pads images in training alone, and augments batches by the number of the step."""

    def __init__(self):
        super().__init__()
        self.batch_augments, self.augmented = [self.flip], 0

    def flip(self, images):
        self.augmented += 1
        return images.flip(3) if MessageHub.get_current_instance().get_info("iter") % 2 else images

    def forward(self, data, training=False):
        images = data["inputs"]
        if not training and len({image.shape for image in images}) > 1:
            raise ValueError("images of one size only")
        height, width = (max(image.shape[d] for image in images) for d in (1, 2))
        pads = ((0, width - image.shape[2], 0, height - image.shape[1]) for image in images)
        padded = torch.stack([nn.functional.pad(image, pad) for image, pad in zip(images, pads)])
        for augment in (training and self.batch_augments) or ():
            padded = augment(padded)
        return {**data, "inputs": padded}


class ImagesOfTwoSizes(Batches):
    def __getitem__(self, position):
        batch = super().__getitem__(position)
        first, second = batch["inputs"]
        return {**batch, "inputs": [first, second[:, 2:, 3:]]}


@pytest.mark.filterwarnings("ignore")
def test_images_for_calibration_are_prepared_as_training_prepares_them_without_augments(tmp_path):
    (tmp_path / "int8.yaml").write_text("passes: [defaults.training]")
    hook = {"type": "fxcompress.compat.mmengine.Compress", "config": str(tmp_path / "int8.yaml")}
    model = Detector()
    model.data_preprocessor = Preprocessor()
    loader = torch.utils.data.DataLoader(ImagesOfTwoSizes(), batch_size=1, collate_fn=lambda batches: batches[0])
    made(tmp_path / "run", [hook], model, train_dataloader=loader).train()
    assert model.data_preprocessor.augmented == 12  # of training: three epochs of four steps


def test_the_detector_is_an_ordinary_module():
    assert isinstance(Detector(), nn.Module)


def test_batches_that_are_not_of_openmmlab_are_told(tmp_path):
    file = tmp_path / "int8.yaml"
    fxcompress.Config(passes=[passes.Quantize(), passes.Calibrate()]).dump(file)
    pairs = torch.utils.data.DataLoader([(torch.randn(3, 8, 8), 0)] * 2)
    hook = Compress(config=file, batches=1)
    with pytest.raises(InputError, match=r"dicts with 'inputs'.*gives a .*compression.callback"):
        made(tmp_path, [hook], Detector(), train_dataloader=pairs).train()
