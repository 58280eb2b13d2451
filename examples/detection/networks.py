"""Two detectors of torchvision on MobileNetV2, which starts from the weights trained on ImageNet: SSDLite and RetinaNet."""

from functools import partial

import torch
from torch import nn

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIDES = [0.25, 0.4, 0.6, 0.85, 1.0]
"""Of SSDLite's boxes, in shares of the image, one for each map and one more."""


class Pyramid(nn.Module):
    """MobileNetV2 (arXiv 1801.04381): its expanded features of stride 8 and 16, its last ones, and one map more."""

    CUTS, CHANNELS = (7, 14), (192, 576, 1280, 512)
    """The blocks whose first convolution is read, and the channels of what is returned."""

    def __init__(self, weights=None):
        super().__init__()
        from torchvision.models import mobilenet_v2
        from torchvision.ops import Conv2dNormActivation

        network = mobilenet_v2()
        if weights is not None:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        layers, pieces, begun = network.features, [], []
        for position, layer in enumerate(layers):
            if position in self.CUTS:
                pieces.append(nn.Sequential(*begun, layer.conv[0]))
                begun = [layer.conv[1:]]
            else:
                begun.append(layer)
        self.features = nn.ModuleList([*pieces, nn.Sequential(*begun)])
        last, extra = self.CHANNELS[-2:]
        convolution = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
        self.extra = nn.Sequential(
            convolution(last, extra // 2, kernel_size=1),
            convolution(extra // 2, extra // 2, kernel_size=3, stride=2, groups=extra // 2),
            convolution(extra // 2, extra, kernel_size=1),
        )

    def forward(self, x):
        maps = {}
        for position, piece in enumerate(self.features):
            maps[str(position)] = x = piece(x)
        return {**maps, "extra": self.extra(x)}


def ssdlite(classes, size, weights=None):
    """Sandler et al., arXiv 1801.04381, section 6.2, with a finer first map, since its images are small."""
    from torchvision.models.detection import _utils
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.detection.ssdlite import SSDLiteHead

    backbone = Pyramid(weights)
    boxes = DefaultBoxGenerator([[2, 3] for _ in backbone.CHANNELS], scales=SIDES)
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    head = SSDLiteHead(list(backbone.CHANNELS), boxes.num_anchors_per_location(), classes + 1, norm)
    assert _utils.retrieve_out_channels(backbone, (size, size)) == list(backbone.CHANNELS)
    options = {"image_mean": MEAN, "image_std": DEVIATION, "score_thresh": 0.01, "nms_thresh": 0.5, "detections_per_img": 100}
    return SSD(backbone, boxes, (size, size), classes + 1, head=head, **options)


def retinanet(classes, size, weights=None, channels=96):
    """Lin et al., arXiv 1708.02002: a feature pyramid, and heads that all of its levels share."""
    from torchvision.models import mobilenet_v2
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.retinanet import RetinaNet

    network = mobilenet_v2()
    if weights is not None:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    levels = {"6": "0", "13": "1", "18": "2"}  # of stride 8, 16 and 32
    backbone = BackboneWithFPN(network.features, levels, [32, 96, 1280], channels)
    scales = tuple(tuple(int(side * 2 ** (i / 3)) for i in range(3)) for side in (20, 32, 52, 80))
    anchors = AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * len(scales))
    sizes = {"min_size": size, "max_size": size, "image_mean": MEAN, "image_std": DEVIATION}
    return RetinaNet(backbone, classes + 1, anchor_generator=anchors, score_thresh=0.01, detections_per_img=100, **sizes)


def build(name, classes, size, weights=None):
    """The detector `name`, "ssdlite" or "retinanet", of square images; class 0 is nothing, `weights` MobileNetV2's file."""
    return {"ssdlite": ssdlite, "retinanet": retinanet}[name](classes, size, weights)
