"""Quantize torchvision's ResNet-18 on a folder of images. Usage: quantize_resnet.py [FOLDER]

Without a folder it calibrates on noise: good to measure speed, not accuracy.
"""

import sys

try:
    from torchvision.models import ResNet18_Weights, resnet18
except ImportError:
    sys.exit("this example needs torchvision: pip install torchvision")

import torch

import fxcompress
from fxcompress.data.images import ImageFolder

if len(sys.argv) > 1:
    model = resnet18(weights=ResNet18_Weights.DEFAULT)
    data = ImageFolder(sys.argv[1], samples=300, batch_size=10)
    print(f"calibrating on {data}")
else:
    model, data = resnet18(), torch.randn(10, 3, 224, 224).split(5)

compiled = fxcompress.compile(model, data=data)
print(compiled.report)
print(f"wrote {compiled.to_onnx('resnet18.onnx')}")
