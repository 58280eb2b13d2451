"""MMDetection and MMSegmentation: their own configurations and `Runner.train`, with one line for compression.

What they need, in an environment with fxcompress and torch: ``pip install "setuptools<81" mmengine==0.10.7 pycocotools``,
``pip install --no-deps mmdet==3.3.0 mmsegmentation==1.2.2`` with what these import (shapely, terminaltables, prettytable, ftfy,
scipy), and mmcv without its operators: unpack the source distribution of mmcv 2.1.0, run ``MMCV_WITH_OPS=0 pip wheel
--no-build-isolation .`` in it, and install that.

Data are drawn and written where the configurations look for them. Changed are sizes, so that a step takes
seconds, the numbers of epochs, images a step and workers, the threshold of scores, and weights that would be fetched.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from benchmarks.integrations.mmcv_operators import declare
from benchmarks.requirements import need

_BATCH, _ROUNDS, _STEPS = 2, 2, 4
_HOOK = {"type": "fxcompress.compat.mmengine.Compress", "config": "int8.yaml", "batches": 4, "file": "model.onnx"}
_PASSES = "passes:\n  - Sparsify: {level: 0.5}\n  - defaults.training\n"

Sizes = Mapping[Any, Any]
"""Tuples of a configuration, and what stands in their places."""


def life(package: str, config: str, sizes: Sizes, draw: Callable[[], None]) -> str:
    """Train and validate as the configuration says, write, go on from the first checkpoint, and compare."""
    declare()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # checkpoints of MMEngine 0.10 hold objects of its own
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        draw()
        Path("int8.yaml").write_text(_PASSES)
        floats = _runner(package, config, sizes, "float")
        floats.train()  # what is compressed has been trained: ranges are of activations that training sees
        whole = _runner(package, config, sizes, "whole", _HOOK, load_from=_settled(floats))
        whole.train()
        (compress,) = (hook for hook in whole.hooks if type(hook).__name__ == "Compress")
        scores = [name for name in whole.message_hub.log_scalars if name.endswith(("bbox_mAP", "mIoU", "mDice"))]
        if not scores:
            raise AssertionError(f"no score among {', '.join(whole.message_hub.log_scalars)}")
        resumed = _runner(package, config, sizes, "resumed", _HOOK, load_from=str(_first("whole")), resume=True)
        resumed.train()
        expected = whole.model.state_dict()
        apart = [key for key, value in resumed.model.state_dict().items() if not torch.equal(value, expected[key])]
        if apart:
            raise AssertionError(f"{len(apart)} of {len(expected)} apart after resuming, {apart[0]} first")
        outputs = [one.name for one in need("onnx").load("model.onnx").graph.output]
    parts = ", ".join(compress.compression.compiled.parts)
    return f"parts {parts}; {scores[0]} read; resumed with the same bits; one file of {len(outputs)} outputs"


def _settled(runner: Any) -> str:
    """A checkpoint of its model whose batch norms have the statistics of the training data, in so few steps not yet theirs.

    Small deviations multiply from norm to norm: after eight steps YOLOX computes in inference a hundred million times what it
    computes in training, and ranges would be chosen by that.
    """
    batches = islice(runner.train_dataloader, _STEPS)
    update_bn([runner.model.data_preprocessor(batch, True)["inputs"] for batch in batches], runner.model)
    need("mmengine.runner").save_checkpoint({"state_dict": runner.model.state_dict()}, "settled.pth")
    return os.path.abspath("settled.pth")


def _first(folder: str) -> Path:
    return min(Path(folder).glob("*_*.pth"), key=lambda path: int(path.stem.rpartition("_")[2])).absolute()


def _runner(package: str, config: str, sizes: Sizes, folder: str, *hooks: dict[str, Any], **more: Any) -> Any:
    """Its Runner, from its configuration with `hooks` more."""
    need(package)
    engine = need("mmengine")
    settings = engine.Config.fromfile(Path(need(package).__file__).parent / ".mim" / "configs" / config)
    settings = engine.Config(_resized(settings.to_dict(), sizes))
    settings.custom_hooks = [*settings.get("custom_hooks", []), *hooks]
    _shorten(settings)
    _seed_images(settings.train_dataloader.dataset)
    settings.merge_from_dict({"work_dir": folder, "randomness": {"seed": 0}, "log_level": "ERROR", **more})
    torch.manual_seed(0)
    runner = need("mmengine.runner").Runner.from_cfg(settings)
    runner.register_hook(_seeded(), "LOWEST")
    return runner


def _resized(settings: Any, sizes: Sizes) -> Any:
    """`settings` with other sizes, wherever they stand, and no weights that would be fetched."""
    if isinstance(settings, dict):
        fetched = {"pretrained"} & settings.keys() | ({"init_cfg"} if _is_fetched(settings.get("init_cfg")) else set())
        return {name: None if name in fetched else _resized(value, sizes) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_resized(value, sizes) for value in settings]
    return sizes.get(settings, settings) if isinstance(settings, tuple) else settings


def _is_fetched(initialisation: Any) -> bool:
    return isinstance(initialisation, dict) and initialisation.get("type") == "Pretrained"


def _shorten(settings: Any) -> None:
    """A few steps of few images, read by the process itself, with a checkpoint and a validation after each round."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        settings[name].update({"num_workers": 0, "persistent_workers": False})
    settings.train_dataloader.batch_size = _BATCH
    loop = settings.train_cfg
    by_epoch = loop.type == "EpochBasedTrainLoop"
    every = 1 if by_epoch else _STEPS
    loop.update({"max_epochs" if by_epoch else "max_iters": every * _ROUNDS, "val_interval": every})
    settings.default_hooks.checkpoint.interval = every
    if "score_thr" in settings.model.test_cfg:
        settings.model.test_cfg.update({"score_thr": 0.0, "nms_pre": 100})  # after a few steps nothing is sure


def _seed_images(dataset: Any) -> None:
    """Vary an image alike whenever it is read: a resumed loop of steps reads again what it has trained on before."""
    transforms = need("mmcv.transforms")

    class SeedByImage(transforms.BaseTransform):
        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            np.random.seed(zlib.crc32(Path(results["img_path"]).name.encode()))
            return results

    transforms.TRANSFORMS.register_module(module=SeedByImage, force=True)
    while "dataset" in dataset:
        dataset = dataset.dataset
    dataset.pipeline.insert(0, {"type": "SeedByImage"})


def _seeded() -> Any:
    """A hook that draws anew what is random, from the number of the step: checkpoints of MMEngine do not hold its state."""
    engine = need("mmengine")

    class Seeded(engine.hooks.Hook):
        def before_train_epoch(self, runner: Any) -> None:
            engine.runner.set_random_seed(runner.iter)

        def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            engine.runner.set_random_seed(runner.iter)

    return Seeded()
