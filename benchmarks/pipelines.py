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
_EIGHT = QuantizationOptions(weights=QuantizationSpec(signed=True, narrow=True), weight_estimator="min_max")


def _groups(size: int) -> QuantizationSpec:
    return QuantizationSpec(bits=4, signed=True, group_size=size)


_EARLY = dict.fromkeys(("_conv_stem", "_blocks.*._depthwise_conv", *(f"_blocks.{i}" for i in range(10))), _EIGHT)
"""EfficientNet-Lite0's first ten blocks and its depthwise convolutions: one weight of seven."""

_ATTENTION = {
    "op:embedding": QuantizationOptions(weights=_groups(64)),
    "encoder.encoder.layer.*.attention.output.dense": _EIGHT,
    "encoder.encoder.layer.0.attention.self.*": _EIGHT,
}
"""MiniLM's output projections, and its first queries, keys and values: one weight of nine without the embeddings."""

FOUR_BITS: dict[str, dict[str, list[Pass]]] = {
    "efficientnet_lite0": {
        "nearest, a scale a channel": [*FLOAT, passes.Quantize(weights=_FOUR, weight_estimator="mse"), _CALIBRATE],
        "learned, a scale a channel": [
            *FLOAT,
            passes.Quantize(weights=_FOUR, weight_estimator="mse"),
            _CALIBRATE,
            passes.LearnRounding(),
        ],
        "learned, early blocks in 8 bits": [
            *FLOAT,
            passes.Quantize(weights=_FOUR, weight_estimator="mse", overrides=_EARLY),
            _CALIBRATE,
            passes.LearnRounding(),
        ],
    },
    "minilm_l6": {
        "nearest, in groups of 32": [
            *FLOAT,
            _SPLIT,
            _SMOOTH,
            passes.Quantize(weights=_groups(32), weight_estimator="mse"),
            _CALIBRATE,
        ],
        "learned, embeddings in groups of 64, attention's ends in 8 bits": [
            *FLOAT,
            _SPLIT,
            _SMOOTH,
            passes.Quantize(weights=_groups(32), weight_estimator="mse", overrides=_ATTENTION),
            _CALIBRATE,
            passes.LearnRounding(samples=128, iterations=0),
        ],
    },
}
"""4-bit weights, 8-bit activations."""
