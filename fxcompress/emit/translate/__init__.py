"""The translations, one module per family of operators; importing this package registers them."""

from fxcompress.emit.translate import (  # noqa: F401
    activation,
    arithmetic,
    attention,
    binarization,
    convolution,
    creation,
    elementwise,
    embedding,
    indexing,
    linear,
    logic,
    normalization,
    pooling,
    quantization,
    rearrange,
    recurrent,
    reduction,
    resize,
    shape,
)
