"""Two segmenters: a U-Net, and LR-ASPP on MobileNetV2, which starts from the weights that torchvision trained on ImageNet."""

import torch
from torch import nn
from torch.nn.functional import interpolate


def convolutions(channels_in, channels):
    layers = []
    for before in (channels_in, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger et al., arXiv 1505.04597, figure 1, with padding, batch norms and a quarter of the channels."""

    DIVISOR = 16
    """Of the sides of its images, which it halves four times."""

    def __init__(self, classes, widths=(16, 32, 64, 128, 256)):
        super().__init__()
        self.down = nn.ModuleList(convolutions(a, b) for a, b in zip((3, *widths), widths))
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(convolutions(2 * b, b) for _, b in pairs)
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        skipped = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1]):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.classify(x)


class LRASPP(nn.Module):
    """Howard et al., arXiv 1905.02244, figure 10, on the features of MobileNetV2 (arXiv 1801.04381)."""

    DIVISOR = 1
    LOW, LOW_CHANNELS, CHANNELS = 6, 32, 1280
    """The last layer with a stride of 8, and the channels that it and the last of all have."""

    def __init__(self, classes, weights=None, inner=128):
        super().__init__()
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2()
        if weights is not None:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.features = network.features
        self.body = nn.Sequential(nn.Conv2d(self.CHANNELS, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(self.CHANNELS, inner, 1, bias=False), nn.Sigmoid())
        self.low, self.high = nn.Conv2d(self.LOW_CHANNELS, classes, 1), nn.Conv2d(inner, classes, 1)

    def forward(self, x):
        size = x.shape[-2:]
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position == self.LOW:
                low = x
        x = self.body(x) * self.gate(x)
        x = interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return interpolate(self.low(low) + self.high(x), size=size, mode="bilinear", align_corners=False)


def build(name, classes, weights=None):
    """The network `name`, "unet" or "lraspp"; `weights` is the file of MobileNetV2's."""
    return UNet(classes) if name == "unet" else LRASPP(classes, weights)
