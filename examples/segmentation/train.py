"""Train a segmenter, compressed while it trains, and write it for OpenVINO.

    python examples/segmentation/train.py --train data/train --valid data/valid --classes 11 --stack int8 --output out/int8

A folder of data has `images` and `masks`, images of one size with the same names but for the ending; a pixel of a mask is a
class from 0, 255 where there is none. Train in float first (``--stack float``), and give the file that it leaves as ``--start``
of the others: ``out/float/model.pt``. Run the command again after an interruption: it goes on from the last epoch.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import openvino
import torch
from masked import NOTHING, Masked
from networks import build

import fxcompress
from fxcompress import passes
from fxcompress.training import Polynomial


def stacks(steps_per_epoch, epochs):
    """The passes of each stack; what grows does so over the first half of the epochs."""
    ramp = Polynomial(epochs=max(1, epochs // 2), steps_per_epoch=steps_per_epoch)
    canonical, *int8 = fxcompress.defaults.training()
    return {
        "float": [],
        "control": [],
        "after": fxcompress.defaults.post_training(),
        "int8": [canonical, *int8],
        "sparse": [canonical, passes.Sparsify(level=0.5, schedule=ramp), *int8],
        "filters": [canonical, passes.PruneFilters(amount=0.3, schedule=ramp), *int8],
        "binary": [canonical, passes.Binarize(), *int8],
        "distilled": [canonical, *int8, passes.Distill()],
    }


def mean_iou(file, loader, classes):
    """The mean of the classes' intersections over unions, in percent, of what OpenVINO computes in real single precision."""
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    counts = np.zeros((classes, classes), np.int64)
    for images, masks in loader:  # one by one: where convolutions run on bits, the file takes single images
        found = np.concatenate([network(image[None].numpy())[0].argmax(1) for image in images])
        masks = masks.numpy()
        counts += np.bincount((masks * classes + found)[masks != NOTHING], minlength=classes**2).reshape(classes, classes)
    both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    return 100 * float((both[either > 0] / either[either > 0]).mean())


def train(compression, loader, options):
    """As many epochs as are to go, with a checkpoint after each."""
    model, controller = compression.model, compression.controller
    optimizer = torch.optim.AdamW(fxcompress.parameter_groups(model, lr=options.lr, weight_decay=0.01))
    checkpoint, begun, steps = options.output / "checkpoint.pt", 0, options.epochs * len(loader)
    if checkpoint.exists():
        begun = (saved := torch.load(checkpoint, weights_only=True))["epoch"]
        compression.load_checkpoint(saved["compression"])
        optimizer.load_state_dict(saved["optimizer"])
    for epoch in range(begun, options.epochs):
        torch.manual_seed(options.seed * 1000 + epoch)
        controller.scheduler.epoch_step()
        model.train()
        for step, (images, masks) in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min((step + 1) / (0.1 * steps), (1 + math.cos(math.pi * step / steps)) / 2)
            controller.scheduler.step()
            loss = torch.nn.functional.cross_entropy(model(images), masks, ignore_index=NOTHING) + controller.loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1} of {options.epochs}: loss of the last step {loss.item():.3f}", flush=True)
        saved = {"epoch": epoch + 1, "compression": compression.checkpoint(), "optimizer": optimizer.state_dict()}
        torch.save(saved, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    model.eval()


def main():
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = build(options.model, options.classes, options.weights)
    if options.start:
        model.load_state_dict(torch.load(options.start, weights_only=True))
    data = Masked(options.train, options.classes, options.limit, mirrored=True)
    loader = torch.utils.data.DataLoader(data, options.batch, shuffle=True, drop_last=len(data) > options.batch)
    valid = torch.utils.data.DataLoader(Masked(options.valid, options.classes, options.valid_limit), options.batch)
    if unfit := [side for side in valid.dataset[0][0].shape[1:] if side % model.DIVISOR]:
        raise SystemExit(f"sides of {unfit[0]} pixels: {options.model} takes multiples of {model.DIVISOR}; resize the images")
    calibration = torch.utils.data.DataLoader(Masked(options.train, options.classes, min(len(data), 300)), options.batch)

    stack = stacks(len(loader), options.epochs)[options.stack]
    compression = fxcompress.compress(model.eval(), stack, data=calibration)
    train(compression, loader, options)
    if options.stack == "float":
        torch.save(model.state_dict(), options.output / "model.pt")
    write = compression.to_openvino if options.stack == "binary" else compression.to_onnx  # ONNX has no binary convolutions
    file = write(options.output / ("model.xml" if options.stack == "binary" else "model.onnx"))
    size = sum(path.stat().st_size for path in {file, file.with_suffix(".bin")} if path.exists())
    score = mean_iou(file, valid, options.classes)
    print(compression.report)
    print(f"{options.stack}: mean IoU {score:.2f}% of {len(valid.dataset)} images in OpenVINO, {size / 1e6:.2f} MB: {file}")
    found = {"stack": options.stack, "score": score, "bytes": size, "trained_on": len(data), "epochs": options.epochs}
    (options.output / "result.json").write_text(json.dumps(found))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=["unet", "lraspp"], default="unet")
    parser.add_argument("--classes", type=int, required=True, help="how many, with the background")
    parser.add_argument("--weights", help="MobileNetV2's file of torchvision, for lraspp")
    parser.add_argument("--start", help="the trained float model that compression starts from")
    parser.add_argument("--stack", choices=stacks(1, 1), default="int8")
    for name, value in {"epochs": 4, "batch": 16, "seed": 0, "limit": None, "valid-limit": None}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
