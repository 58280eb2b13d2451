"""The pipelines that are compared with one another, by network and by a name for the table."""

from __future__ import annotations

from fxcompress import Pass, QuantizationOptions, QuantizationSpec, defaults, passes

FLOAT: list[Pass] = [passes.FoldBatchNorm(), passes.CanonicalizeActivations()]

_SPLIT, _SMOOTH, _ROUND = passes.SplitChannels(), passes.SmoothActivations(), passes.RoundWeights()
_QUANTIZE, _CALIBRATE = passes.Quantize(), passes.Calibrate()

EIGHT_BITS: dict[str, dict[str, list[Pass]]] = {
    "efficientnet_lite0": {
        "ranges": [*FLOAT, _QUANTIZE, _CALIBRATE],
        "+ RoundWeights (the default)": defaults.post_training(),
        "+ RoundWeights(columns=None)": [*FLOAT, _QUANTIZE, passes.RoundWeights(columns=None), _CALIBRATE],
        "+ RoundWeights + CorrectBias": [*FLOAT, _QUANTIZE, _ROUND, _CALIBRATE, passes.CorrectBias()],
        "+ CorrectBias": [*FLOAT, _QUANTIZE, _CALIBRATE, passes.CorrectBias()],
        "+ EqualizeLayers": [*FLOAT, passes.EqualizeLayers(), _QUANTIZE, _CALIBRATE],
        "+ LearnRounding": [*FLOAT, _QUANTIZE, _CALIBRATE, passes.LearnRounding()],
        "of least squared error": [*FLOAT, _QUANTIZE, passes.Calibrate(estimator="mse")],
    },
    "minilm_l6": {
        "ranges": [*FLOAT, _QUANTIZE, _CALIBRATE],
        "+ SplitChannels": [*FLOAT, _SPLIT, _QUANTIZE, _CALIBRATE],
        "+ SmoothActivations": [*FLOAT, _SMOOTH, _QUANTIZE, _CALIBRATE],
        "+ SplitChannels + SmoothActivations": [*FLOAT, _SPLIT, _SMOOTH, _QUANTIZE, _CALIBRATE],
        "+ SplitChannels + SmoothActivations + RoundWeights (the default)": defaults.post_training(),
        "the default, embeddings in float": [
            *FLOAT,
            _SPLIT,
            _SMOOTH,
            passes.Quantize(embeddings=False),
            _ROUND,
            _CALIBRATE,
        ],
    },
}
"""What each pass adds to ranges alone."""

_FOUR = QuantizationSpec(bits=4, signed=True)
_CHANNELS = passes.Quantize(weights=_FOUR, weight_estimator="mse")


def _groups(size: int) -> QuantizationSpec:
    return QuantizationSpec(bits=4, signed=True, group_size=size)


_GROUPS = passes.Quantize(weights=_groups(32), weight_estimator="mse")
_GROUPS_AND_ROWS = passes.Quantize(
    weights=_groups(32), weight_estimator="mse", overrides={"op:embedding": QuantizationOptions(weights=_groups(64))}
)
"""Embeddings are half of MiniLM, and their scales a ninth of them in groups of 64, a fifth in groups of 32."""


def _worst_in_eight(size: float) -> passes.RestorePrecision:
    """8 bits where they help most. With the graph, which is not counted, the file is at most 0.16 of the FP32 file."""
    return passes.RestorePrecision(bits=8, max_size=size)


FOUR_BITS: dict[str, dict[str, list[Pass]]] = {
    "efficientnet_lite0": {
        "nearest, a scale a channel": [*FLOAT, _CHANNELS, _CALIBRATE],
        "learned, a scale a channel": [*FLOAT, _CHANNELS, _CALIBRATE, passes.LearnRounding()],
        "learned, the worst in 8 bits": [*FLOAT, _CHANNELS, _CALIBRATE, _worst_in_eight(0.152), passes.LearnRounding()],
    },
    "minilm_l6": {
        "nearest, in groups of 32": [*FLOAT, _SPLIT, _SMOOTH, _GROUPS, _CALIBRATE],
        "learned, embeddings in groups of 64, the worst in 8 bits": [
            *FLOAT,
            _SPLIT,
            _SMOOTH,
            _GROUPS_AND_ROWS,
            _CALIBRATE,
            _worst_in_eight(0.158),
            passes.LearnRounding(samples=128, iterations=0),
        ],
    },
}
"""4-bit weights, 8-bit activations."""
