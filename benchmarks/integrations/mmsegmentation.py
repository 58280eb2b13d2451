"""MMSegmentation: segmenters with a second head, in a loop of steps, one that looks at images whole and one in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.integrations.openmmlab import life
from benchmarks.integrations.openmmlab_data import cityscapes, drive
from benchmarks.integrations.rows import Case


def cases() -> Iterator[Case]:
    """Each from its own configuration."""
    for name, config, sizes, draw in (
        ("U-Net-S5-D16 with FCN", "unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py", {(584, 565): (128, 128)}, drive),
        (
            "PSPNet-R18-D8",
            "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
            {(512, 1024): (64, 128), (2048, 1024): (128, 64)},
            cityscapes,
        ),
    ):
        run = partial(life, "mmseg", config, sizes, draw)
        yield f"{name} from its config, Runner.train: validate, resume, write", 1, run
