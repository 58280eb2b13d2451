"""Train a classifier, compressed while it trains, and write it for OpenVINO.

    python examples/classification/train.py --train data/train --valid data/valid --stack int8 --output out/int8

A folder of data has a folder of images for each class. Train in float first (``--stack float``), or take a model that is
trained, and give its file as ``--start`` of the others: ``out/float/model.pt``. Run the command again after an interruption: it
goes on from the last epoch. torchvision's models need torchvision; ``--model residual`` needs nothing else.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import openvino
import torch
from folders import Folders
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


def accuracy(file, loader):
    """The share of images whose class is the likeliest, in percent, of what OpenVINO computes in real single precision."""
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # One by one: where convolutions run on bits, the file takes single images.
    singly = ((image[None].numpy(), int(label)) for batch in loader for image, label in zip(*batch))
    return 100 * float(np.mean([network(image)[0].argmax() == label for image, label in singly]))


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
        for step, (images, labels) in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min((step + 1) / (0.1 * steps), (1 + math.cos(math.pi * step / steps)) / 2)
            controller.scheduler.step()
            loss = torch.nn.functional.cross_entropy(model(images), labels) + controller.loss()
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
    data, valid = Folders(options.train, options.size, options.limit, varied=True), Folders(options.valid, options.size)
    if valid.classes != data.classes:
        raise SystemExit(f"{options.valid} has other classes than {options.train}: {set(valid.classes) ^ set(data.classes)}")
    model = build(options.model, len(data.classes), options.start)
    loader = torch.utils.data.DataLoader(data, options.batch, shuffle=True, drop_last=len(data) > options.batch)
    scored = torch.utils.data.DataLoader(valid, options.batch)
    calibration = torch.utils.data.DataLoader(Folders(options.train, options.size, 300), options.batch)

    stack = stacks(len(loader), options.epochs)[options.stack]
    compression = fxcompress.compress(model.eval(), stack, data=calibration)
    train(compression, loader, options)
    if options.stack == "float":
        torch.save(model.state_dict(), options.output / "model.pt")
    write = compression.to_openvino if options.stack == "binary" else compression.to_onnx  # ONNX has no binary convolutions
    file = write(options.output / ("model.xml" if options.stack == "binary" else "model.onnx"))
    size = sum(path.stat().st_size for path in {file, file.with_suffix(".bin")} if path.exists())
    score = accuracy(file, scored)
    print(compression.report)
    print(f"{options.stack}: {score:.2f}% of {len(valid)} images in OpenVINO, {size / 1e6:.2f} MB: {file}")
    found = {"stack": options.stack, "score": score, "bytes": size, "trained_on": len(data), "epochs": options.epochs}
    (options.output / "result.json").write_text(json.dumps(found))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="mobilenet_v2", help="a network of torchvision's, or residual")
    parser.add_argument("--start", help="the trained float model that compression starts from")
    parser.add_argument("--stack", choices=stacks(1, 1), default="int8")
    for name, value in {"size": 224, "epochs": 4, "batch": 32, "seed": 0, "limit": None}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
