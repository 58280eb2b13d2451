"""Detection in scenes (`benchmarks.tasks.scenes`): torchvision's SSDLite and RetinaNet on MobileNetV2's ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.requirements import need
from benchmarks.tasks import scenes
from benchmarks.tasks.segmentation import QUICK, mobilenet_weights
from benchmarks.tasks.task import FLOAT, Stack, Task

SHORT = ("--epochs", "4", "--lr", "2e-4")


def _data(folder: Path, quick: bool) -> Sequence[str]:
    need("pycocotools")
    scenes.write(folder, QUICK if quick else scenes.COUNTS)
    size = ["--size", str(scenes.SIZE)]
    return ["--train", str(folder / "train"), "--valid", str(folder / "valid"), "--weights", str(mobilenet_weights()), *size]


TASK = Task(
    name="detection",
    title="Detection of clothes over photographs",
    score="mAP in OpenVINO",
    about=(
        f"Items of Fashion-MNIST in ten classes, up to {scenes.ITEMS[1]} a scene of {scenes.SIZE} x {scenes.SIZE} pixels, over "
        "crops of photographs; scenes to measure on have other items and other pictures. mAP is COCO's, by pycocotools, of the "
        "emitted file in OpenVINO (INFERENCE_PRECISION_HINT=f32), suppression of boxes within it; the drop is against the FP32 "
        "file of the same seed. Compression starts from the trained FP32 model; all is trained by AdamW with a cosine schedule."
    ),
    stacks={
        FLOAT: Stack("FP32", ("--epochs", "12", "--lr", "1e-3")),
        "after": Stack("INT8 after training", ("--epochs", "0")),
        "int8": Stack("INT8, trained", SHORT, 0.3),
        "sparse": Stack("half of the weights zero, INT8", SHORT, 0.7),
        "filters": Stack("30% of the filters pruned, INT8", ("--epochs", "12", "--lr", "1e-3"), 0.5),
        "distilled": Stack("INT8, trained and distilled", SHORT),
        "control": Stack("FP32, trained on", SHORT),
    },
    networks={name: lambda name=name: ["--model", name] for name in ("ssdlite", "retinanet")},  # type: ignore[misc]
    data=_data,
    start=lambda folder: ["--start", str(folder / "model.pt")],
)
