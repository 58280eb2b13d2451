"""A small detector in the shape of those that other people train: parts called through `forward`, images of mixed sizes,
losses and predictions that are methods, `train` that returns nothing."""

import torch
from torch import nn


class Backbone(nn.Module):
    """Features at two strides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x):
        first = self.stem(x)
        return first, self.deep(first)


class Neck(nn.Module):
    """A top-down path, as in feature pyramids."""

    def __init__(self):
        super().__init__()
        self.lateral, self.top = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1)

    def forward(self, features):
        first, second = features
        top = self.top(second)
        return self.lateral(first) + nn.functional.interpolate(top, size=first.shape[-2:], mode="nearest"), top


class Head(nn.Module):
    """Scores and boxes at every place of every level; has a loss of its own, as many heads have."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, levels):
        towers = [self.tower(level) for level in levels]
        return [self.scores(one) for one in towers], [self.boxes(one) for one in towers]

    def loss(self, levels, targets):
        scores, boxes = self.forward(levels)
        wanted = torch.tensor([len(target["boxes"]) for target in targets], dtype=torch.float32)
        found = torch.stack([one.sigmoid().mean((1, 2, 3)) for one in scores]).sum(0)
        return {"loss_score": (found - wanted).square().mean(), "loss_box": sum(one.abs().mean() for one in boxes)}


class Detector(nn.Module):
    """Takes a list of images of any sizes, which it pads together; in training with targets, and returns losses."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = Backbone(), Neck(), Head()

    def forward(self, images, targets=None):
        levels = self.neck.forward(self.backbone(self.padded(images)))
        if self.training:
            return self.head.loss(levels, targets)
        return self.predict(*self.head.forward(levels))

    def padded(self, images):
        height, width = (max(image.shape[d] for image in images) for d in (1, 2))
        pads = ((0, width - image.shape[2], 0, height - image.shape[1]) for image in images)
        return torch.stack([nn.functional.pad(image, pad) for image, pad in zip(images, pads)])

    def predict(self, scores, boxes):
        best = [one.flatten(1).max(1) for one in scores]
        kept = [index for value, index in best if value.max() > -1e9]  # by their values, as in any post-processing
        return {"scores": [value for value, _ in best], "places": kept}

    def train(self, mode=True):
        super().train(mode)


def scenes(*sizes, seed=5):
    """Batches of two images each, of the sizes given for each batch, with targets."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        images = [torch.randn(3, *size, generator=generator), torch.randn(3, size[0] - 3, size[1] - 1, generator=generator)]
        batches.append((images, [{"boxes": torch.zeros(n, 4)} for n in (1, 2)]))
    return batches
