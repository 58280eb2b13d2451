"""Draw the README's picture: a small residual network with its quantizers. Usage: draw_readme.py [FILE.svg]"""

import sys

import torch

import fxcompress
from fxcompress.demo.digits import ResidualNet
from fxcompress.views.drawing import draw

torch.manual_seed(0)
compiled = fxcompress.compile(ResidualNet(), data=[torch.rand(8, 1, 8, 8)])
path = draw(compiled, sys.argv[1] if len(sys.argv) > 1 else "quantized.svg", title="A residual network in INT8")
print(f"wrote {path}")
