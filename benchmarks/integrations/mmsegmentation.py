"""MMSegmentation: segmenters with a second head, in a loop of steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.integrations.openmmlab import Sizes, life
from benchmarks.integrations.openmmlab_data import cityscapes
from benchmarks.integrations.rows import Case

_SIZES: Sizes = {(512, 1024): (64, 128), (2048, 1024): (128, 64)}


def cases() -> Iterator[Case]:
    """Each from its own configuration."""
    for name, config in (
        ("U-Net-S5-D16 with FCN", "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py"),
        ("PSPNet-R18-D8", "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"),
    ):
        run = partial(life, "mmseg", config, _SIZES, cityscapes)
        yield f"{name} from its config, Runner.train: validate, resume, write", 1, run
