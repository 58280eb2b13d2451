"""The translations, one module per family of operators; importing this package registers them."""

from fxcompress.emit.translate import (  # noqa: F401
    attention,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resize,
    shape,
)
