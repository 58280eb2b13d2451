"""Train a detector, compressed while it trains, and write it for OpenVINO.

    python examples/detection/train.py --train data/train --valid data/valid --stack int8 --output out/int8

A folder of data has `images`, and `annotations.json` in COCO's format; or give lists of PASCAL VOC, ``--train
VOC2012/ImageSets/Main/train.txt``. Images become squares of ``--size``. Train in float first (``--stack float``), and give the
file that it leaves as ``--start`` of the others: ``out/float/model.pt``. Run the command again after an interruption: it goes
on from the last epoch. Needs torchvision and pycocotools.
"""

import argparse
import json
import math
import os
from pathlib import Path

import torch
from coco import Annotated, mean_precision
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
        "distilled": [canonical, *int8, passes.Distill()],
    }


def train(compression, loader, options):
    """As many epochs as are to go, with a checkpoint after each."""
    model, controller = compression.model, compression.controller
    optimizer = torch.optim.AdamW(fxcompress.parameter_groups(model, lr=options.lr, weight_decay=1e-3))
    checkpoint, begun, steps = options.output / "checkpoint.pt", 0, options.epochs * len(loader)
    if checkpoint.exists():
        begun = (saved := torch.load(checkpoint, weights_only=True))["epoch"]
        compression.load_checkpoint(saved["compression"])
        optimizer.load_state_dict(saved["optimizer"])
    for epoch in range(begun, options.epochs):
        torch.manual_seed(options.seed * 1000 + epoch)
        controller.scheduler.epoch_step()
        model.train()
        for step, (images, targets) in enumerate(loader, epoch * len(loader)):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min((step + 1) / (0.1 * steps), (1 + math.cos(math.pi * step / steps)) / 2)
            controller.scheduler.step()
            loss = sum(model(images, targets).values()) + controller.loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
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
    data = Annotated(options.train, options.size, options.limit, mirrored=True)
    valid = Annotated(options.valid, options.size, options.valid_limit)
    if valid.named() != data.named():
        raise SystemExit(
            f"categories of --valid are {valid.named()}, and of --train {data.named()}: list the same in both, by id"
        )
    model = build(options.model, len(data.categories), options.size, options.weights)
    if options.start:
        model.load_state_dict(torch.load(options.start, weights_only=True))
    feed = {"batch_size": options.batch, "collate_fn": lambda pairs: tuple(map(list, zip(*pairs)))}
    loader = torch.utils.data.DataLoader(data, shuffle=True, drop_last=len(data) > options.batch, **feed)
    calibration = torch.utils.data.Subset(Annotated(options.train, options.size), range(min(len(data), 300)))

    stack = stacks(len(loader), options.epochs)[options.stack]
    pictures = [([image],) for image, _ in calibration]
    compression = fxcompress.compress(model.eval(), stack, data=pictures)
    train(compression, loader, options)
    if options.stack == "float":
        torch.save(model.state_dict(), options.output / "model.pt")
    file = compression.to_onnx(options.output / "model.onnx")
    score = mean_precision(file, valid)
    print(compression.report)
    print(f"{options.stack}: mAP {score:.2f}% of {len(valid)} images in OpenVINO, {file.stat().st_size / 1e6:.2f} MB: {file}")
    found = {"stack": options.stack, "score": score, "bytes": file.stat().st_size}
    found |= {"trained_on": len(data), "epochs": options.epochs}
    (options.output / "result.json").write_text(json.dumps(found))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=["ssdlite", "retinanet"], default="ssdlite")
    parser.add_argument("--weights", help="MobileNetV2's file of torchvision")
    parser.add_argument("--start", help="the trained float model that compression starts from")
    parser.add_argument("--stack", choices=stacks(1, 1), default="int8")
    for name, value in {"size": 96, "epochs": 4, "batch": 16, "seed": 0, "limit": None, "valid-limit": None}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
