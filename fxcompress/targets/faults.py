"""What runtimes get wrong, by name: files for a target are written around its faults."""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """A fault of a runtime, met in OpenVINO 2026.4 or onnxruntime 1.32, that another way to write the same function avoids.

    `fxcompress.emit.faults` has the way around each.
    """

    BARE_SUMS = "moves the scales of an integer sum without a bias behind what reads it, or into one of several readers"
    SHARED_BIASES = "adds the bias of a convolution in a step of its own, in float, where another convolution reads it as well"
    MIDDLES = "takes time for a zero point, also where unsigned bytes have their middle as it, and are signed ones"
    SIGNED_MOVED = (
        "takes signed bytes for unsigned ones that are moved before a convolution reads them, where anything is joined"
    )
    SIGNED_TRANSPOSED = "computes with what happens to be in memory where a transposed convolution of signed bytes strides"
    ZERO_POINTS = "takes time for the zero point of what an integer convolution reads, also where nothing is padded"
    POOLED_OUTPUTS = "moves the scales of a linear layer's outputs behind what pools or repeats them, or does not load that"
    PADDED_AVERAGES = (
        "moves numbers added in front of an average of padding behind it, or counts what a rounded-up window reads beyond that"
    )
    MOVED_NUMBERS = "moves numbers of channels behind what reshapes or picks values, where these are other channels"
    CLIPPED_NUMBERS = (
        "clips before it adds or multiplies several numbers, not behind, where that is quantized and the batch is free"
    )
    CONVERSIONS = (
        "takes floats made of bytes or booleans for quantized ones, and computes in bytes what is none, or does not run"
    )
    CUT_NUMBERS = "takes one of several numbers for all, where they belong to what is cut from a free length and quantized"
    QUANTIZED_MAXIMA = "takes a maximum or minimum of bytes, where one is quantized right behind it"
    MEANS_OF_BYTES = "takes the sum or mean of bytes of three dimensions rightly in the first samples alone"
    REDUCED_INTEGERS = "reduces integers of three dimensions rightly in the first sample alone, where numbers run behind that"
    RESHAPED_REDUCTIONS = "leaves out a reshape behind a reduction where it has 1 for each dimension that was dropped"
    ROUNDED_AVERAGES = "rounds averages of bytes to bytes, where they are computed with before they are quantized again"
    JOINED_ROWS = (
        "moves a quantizer from behind a join along rows to in front of it, and does not compile the product behind it"
    )
    NUMBERS_FIRST = (
        "takes the wrong ones of several numbers that a value is added to, or that multiply it, as the first operand"
    )
    SIGNED_FACTORS = "moves several factors into the quantizer behind them, and gets those wrong that are negative"
    SCALED_PRODUCTS = (
        "takes several numbers for the first sample only, where an integer product of two activations is computed with them"
    )
    SCALED_ROWS = (
        "takes numbers of the outputs of a layer in float for those of its rows, where it scales and quantizes them in one step"
    )
    PERMUTED_CHANNELS = "takes a permutation of channels before a convolution for its inverse"
    CHANNELS_OF_ROWS = "takes numbers along another axis for those of the outputs of a linear layer of three dimensions or more"
    REDUCTIONS = "takes the wrong one of several numbers that it computes with in the kernel of a sum, mean or maximum"
    MISH_OF_ATTENTION = "does not load a Mish in the kernel of an attention"
    SHAPES_OF_CONVOLUTIONS = "reads a shape off an integer convolution, which then has two readers"
    STRIDED_PADDING = "loses the stride of a convolution of one place that pads"
    PADDED_OUTPUTS = "reads beyond its input where an integer convolution puts out what is of padding alone"
    FEW_BITS_MULTIPLIED = "does not load a product of two activations of few bits that come from rows of a table"
    DEPTHS_OF_JOINS = "does not load a join whose zero points it moves behind what turns its channels into places"
    EXPANSIONS = "moves a quantizer from behind an expansion to in front of it, and does not run a single sample"
    REPEATED_JOINS = "kills the process where what is joined with itself is quantized twice"
    JOINED_BITS = "kills the process where what is joined is binarized, and other layers are of 8 bits"
    WIDE_GROUPS = "computes the first group alone of an integer convolution of odd groups of more than 16 filters"
    SHALLOW_VOLUMES = "takes the wrong weights where an integer convolution is deeper than the volume that it reads"
    WIDE_CROPS = "computes the wrong sums of signed integers where a transposed convolution crops as much as its kernel spans"
    SINGLE_COLUMNS = "computes the wrong values where an integer convolution of several columns strides to one"
    LONG_ROWS = "takes the wrong values where the rows of an integer kernel, over a few channels, fill several registers"
    ODD_GROUPS = "adds up the wrong groups of weights where these are of odd sizes, or no multiple of 32 above that"
    ODD_ROWS = "multiplies by other numbers where a matrix of 4 bits has an odd number of rows"
    TINY_AVERAGES = "does not run an average of bytes whose steps are next to nothing beside theirs"
    FLOAT_WEIGHTS = "quantizes float weights on its own where what they are multiplied with is quantized"
    LARGE_BIASES = "keeps the bias of an integer layer in 32 bits, whatever its size"
    SIGNED_ZERO_POINTS = "from opset 21 on, does not load signed activations that have a zero point"
    LONG_CHAINS = "does not load more than 32 operations on elements in the kernel of the one that they follow"
    SUPPRESSED_TIES = "suppresses boxes that overlap a better one by as much as is allowed, as if it were more"
