"""The files in configs/: each is read, compiles a small model of its kind with random weights, and writes its file."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from frameworks import framework
from torch import nn

import fxcompress
from fxcompress import Config
from fxcompress.errors import FileWarning, ScheduleWarning

FILES = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))
SIZES = {"inception": 75, "vit": 32}
CHANNELS = {"deeplabv3": 32}


class UNet(nn.Module):
    """Two levels of it, whose maps are joined."""

    def __init__(self):
        super().__init__()
        self.outer, self.inner = self._block(3, 16), self._block(16, 32)
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.joined, self.classes = self._block(32, 16), nn.Conv2d(16, 5, 1)

    @staticmethod
    def _block(before, behind):
        layers = nn.Conv2d(before, behind, 3, padding=1), nn.BatchNorm2d(behind), nn.ReLU()
        return nn.Sequential(*layers, nn.Conv2d(behind, behind, 3, padding=1), nn.BatchNorm2d(behind), nn.ReLU())

    def forward(self, x):
        outer = self.outer(x)
        return self.classes(self.joined(torch.cat([outer, self.up(self.inner(self.pool(outer)))], 1)))


def small(name):
    """A small model for the file `name`, as torchvision or Transformers would build the large one."""
    if name.startswith("unet"):
        return UNet()
    models = framework("torchvision").models
    blocks = models.resnet.BasicBlock, models.resnet.Bottleneck
    detection, segmentation = models.detection, models.segmentation
    builders = {
        "resnet18": lambda: models.resnet.ResNet(blocks[0], [1, 1, 1, 1], num_classes=10),
        "resnet34": lambda: models.resnet.ResNet(blocks[0], [1, 1, 1, 1], num_classes=10),
        "resnet50": lambda: models.resnet.ResNet(blocks[1], [1, 1, 1, 1], num_classes=10),
        "mobilenet_v2": lambda: models.MobileNetV2(10, 0.5, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
        "mobilenet_v3": lambda: models.mobilenet_v3_small(width_mult=0.5).features[:5],
        "squeezenet": lambda: models.squeezenet1_1(num_classes=10),
        "googlenet": lambda: _first(models.googlenet(init_weights=False, aux_logits=False), 6),
        "inception": lambda: _first(models.inception_v3(init_weights=False, aux_logits=False), 8),
        "vit": lambda: models.VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=10),
        "ssd300": lambda: detection.ssd300_vgg16(weights=None, weights_backbone=None).backbone.features[:12],
        "ssdlite": lambda: models.mobilenet_v3_large(width_mult=0.5).features[:5],
        "retinanet": lambda: detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        "deeplabv3": lambda: segmentation.deeplabv3.DeepLabHead(32, 5),
        "lraspp": lambda: models.mobilenet_v3_large(width_mult=0.5).features[:7],
    }
    return next(build for start, build in builders.items() if name.startswith(start))()


def _first(network, count):
    """The stem of a network whose children are called in turn, and its first block of branches."""
    return nn.Sequential(*list(network.children())[:count])


def language(name):
    transformers = framework("transformers")
    kind = name.partition("_")[0]
    named = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "mobilebert": "MobileBert", "gpt2": "GPT2"}[kind]
    config = getattr(transformers, f"{named}Config")(
        **{
            "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50},
            "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50, "use_cache": False},
        }.get(
            kind,
            {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "vocab_size": 50,
                "pad_token_id": 0,
            },
        )
    )
    return getattr(transformers, f"{named}Model")(config)


def inputs_of(config, name):
    """The inputs of the file, as small as they may be."""
    size = next((size for start, size in SIZES.items() if name.startswith(start)), 32)
    channels = next((number for start, number in CHANNELS.items() if name.startswith(start)), 3)
    for one in config.inputs:
        shape = (2, channels, size, size) if len(one.shape) == 4 else (2, 12)
        yield dataclasses.replace(one, shape=shape)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_compiles_a_model_of_its_kind(file, tmp_path):
    torch.manual_seed(0)
    config = Config.load(file)
    assert Config.parse(config.text()) == config and config.inputs
    model = (language if file.parent.name == "language" else small)(file.stem).eval()
    config = dataclasses.replace(config, inputs=tuple(inputs_of(config, file.stem)), submodules=())  # parts are what is built
    example = config.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        warnings.simplefilter("ignore", ScheduleWarning)
        compiled = fxcompress.compile(model, config=config, data=[example.kwargs or example.args], verify=False)
        compiled.to_onnx(tmp_path / "model.onnx", verify=False)
    assert (tmp_path / "model.onnx").stat().st_size > 0
