"""Ways of writing a call that not every runtime takes, or takes well: a file has those that it is asked for."""

from __future__ import annotations

from enum import Enum, auto


class Form(Enum):
    """What a file may have.

    Attributes:
        FUSED_ATTENTION: attention is one node of our own domain, which `fxcompress.emit.openvino` converts.
        TIED_ONCE: a table of integers that is also the matrix of a product is there once, and transposed where it is multiplied
            by. OpenVINO multiplies by it as quickly; onnxruntime would turn it to floats.
    """

    FUSED_ATTENTION = auto()
    TIED_ONCE = auto()
