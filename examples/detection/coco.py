"""Images with COCO's annotations, or VOC's, and COCO's score of the file that finds them."""

import contextlib
import io
import json

import numpy as np
import openvino
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from voc import as_coco


class Annotated(torch.utils.data.Dataset):
    """The images of a folder and what COCO says of them, or those in one of VOC's lists.

    Every other look at one is mirrored where it is to be trained on.
    """

    def __init__(self, data, size, limit=None, mirrored=False):
        listed = data.suffix == ".txt"
        if not (file := data if listed else data / "annotations.json").is_file():
            raise SystemExit(f"{file} is no file: name a folder of images and annotations.json, or one of VOC's lists")
        said = as_coco(data) if listed else json.loads(file.read_text())
        with contextlib.redirect_stdout(io.StringIO()):  # it tells the time
            self.coco = COCO()
            self.coco.dataset = whole(said, file)
            self.coco.createIndex()
        self.folder, self.size, self.mirrored = data.parents[2] if listed else data / "images", size, mirrored
        self.ids, self.categories = sorted(self.coco.getImgIds())[:limit], sorted(self.coco.getCatIds())

    def named(self):
        """The names of the categories, in the order of their labels."""
        return [one["name"] for one in self.coco.loadCats(self.categories)]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, position):
        told = self.coco.loadImgs(self.ids[position])[0]
        image = Image.open(self.folder / told["file_name"]).convert("RGB").resize((self.size, self.size))
        image = torch.from_numpy(np.array(image, np.float32) / 255).permute(2, 0, 1)
        boxes, labels = [], []
        for one in self.coco.loadAnns(self.coco.getAnnIds(told["id"], iscrowd=False)):
            left, top, width, height = one["bbox"]
            boxes.append([left, top, left + width, top + height])
            labels.append(1 + self.categories.index(one["category_id"]))
        scale = torch.tensor([self.size / told["width"], self.size / told["height"]] * 2)
        boxes = torch.tensor(boxes).reshape(-1, 4) * scale
        if self.mirrored and torch.rand(()) < 0.5:
            image, boxes[:, [2, 0]] = image.flip(2), self.size - boxes[:, [0, 2]]
        return image, {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}


def whole(said, file):
    """What COCO's `file` has said, with what it need not say of a box, and without boxes that have no width or height.

    Raises:
        SystemExit: an annotation is of a category or an image that is not listed.
    """
    listed = {kind: {one["id"] for one in said[kind]} for kind in ("categories", "images")}
    boxes = []
    for one in said.get("annotations", ()):
        for kind, key in (("categories", "category_id"), ("images", "image_id")):
            if one[key] not in listed[kind]:
                raise SystemExit(
                    f"{file}: annotation {one['id']} has {key} {one[key]}, which is not in {kind}: add or remove it"
                )
        width, height = one["bbox"][2:]
        if width > 0 and height > 0:
            boxes.append({"iscrowd": 0, "area": width * height} | one)
    return said | {"annotations": boxes}


def mean_precision(file, data):
    """COCO's mean average precision, in percent, of what OpenVINO computes in real single precision."""
    network = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = {name: output for output in network.outputs for name in output.names}
    found = []
    for position, number in enumerate(data.ids):
        told, results = data.coco.loadImgs(number)[0], network([data[position][0].numpy()])
        across, down = told["width"] / data.size, told["height"] / data.size
        kinds = (next(value for name, value in outputs.items() if kind in name) for kind in ("boxes", "scores", "labels"))
        for (left, top, right, bottom), score, label in zip(*(results[value] for value in kinds)):
            box = [left * across, top * down, (right - left) * across, (bottom - top) * down]
            kind = data.categories[int(label) - 1]
            found.append({"image_id": number, "category_id": kind, "bbox": [*map(float, box)], "score": float(score)})
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(data.coco, data.coco.loadRes(found), "bbox")
        scored.params.imgIds = data.ids
        for step in (scored.evaluate, scored.accumulate, scored.summarize):
            step()
    return 100 * float(scored.stats[0])
