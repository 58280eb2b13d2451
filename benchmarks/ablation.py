"""What each pass of post-training quantization adds, alone and together: the emitted files, run in OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import fxcompress
from benchmarks import models, openvino_runner, peers, photographs, sentences
from benchmarks.scoreboard import Bar, Figure, Section
from fxcompress import Pass, QuantizationOptions, QuantizationSpec, passes

NETWORKS = ("efficientnet_lite0", "minilm_l6")

FOLD, CANONICAL = passes.FoldBatchNorm(), passes.CanonicalizeActivations()
SPLIT, SMOOTH, ROUND = passes.SplitChannels(), passes.SmoothActivations(), passes.RoundWeights()
INTEGERS, CALIBRATE = passes.Quantize(), passes.Calibrate()

EIGHT_BITS: dict[str, dict[str, list[Pass]]] = {
    "efficientnet_lite0": {
        "ranges only": [FOLD, CANONICAL, INTEGERS, CALIBRATE],
        "and RoundWeights (the default)": fxcompress.defaults.post_training(),
        "and RoundWeights(columns=None)": [FOLD, CANONICAL, INTEGERS, passes.RoundWeights(columns=None), CALIBRATE],
        "and EqualizeLayers": [FOLD, CANONICAL, passes.EqualizeLayers(), INTEGERS, CALIBRATE],
        "and CorrectBias": [FOLD, CANONICAL, INTEGERS, CALIBRATE, passes.CorrectBias()],
        "and ranges of least squared error": [FOLD, CANONICAL, INTEGERS, passes.Calibrate(estimator="mse")],
        "and LearnRounding": [FOLD, CANONICAL, INTEGERS, CALIBRATE, passes.LearnRounding()],
        "and RoundWeights, CorrectBias": [FOLD, CANONICAL, INTEGERS, ROUND, CALIBRATE, passes.CorrectBias()],
    },
    "minilm_l6": {
        "ranges only": [FOLD, CANONICAL, INTEGERS, CALIBRATE],
        "and SplitChannels": [FOLD, CANONICAL, SPLIT, INTEGERS, CALIBRATE],
        "and SmoothActivations": [FOLD, CANONICAL, SMOOTH, INTEGERS, CALIBRATE],
        "and SplitChannels, SmoothActivations": [FOLD, CANONICAL, SPLIT, SMOOTH, INTEGERS, CALIBRATE],
        "and SplitChannels, SmoothActivations, RoundWeights (the default)": fxcompress.defaults.post_training(),
    },
}
"""Pipelines by network and name; "and" means beside the ranges."""

_FOUR = QuantizationSpec(bits=4, signed=True)
_GROUPS = QuantizationSpec(bits=4, signed=True, group_size=32)
_EIGHT = QuantizationOptions(weights=QuantizationSpec(signed=True, narrow=True), weight_estimator="min_max")

FOUR_BITS: dict[str, dict[str, list[Pass]]] = {
    "efficientnet_lite0": {
        "nearest integers, a scale a channel": [
            FOLD,
            CANONICAL,
            passes.Quantize(weights=_FOUR, weight_estimator="mse"),
            CALIBRATE,
        ],
    },
}


@dataclass(frozen=True)
class Subject:
    """A network with real weights, what it is calibrated on and scored on, and the figures that tell its quality."""

    name: str
    model: nn.Module
    calibration: Sequence[Any]
    scoring: Sequence[np.ndarray]
    figures: Callable[[str, np.ndarray, np.ndarray, Mapping[str, Bar]], list[Figure]]


def subject(name: str, calibration: int, scoring: int) -> Subject:
    """The network `name` of `NETWORKS`, with so many samples."""
    if name == "minilm_l6":
        ids, mask = sentences.tokenize(sentences.calibration_sentences(calibration))
        batches = [(ids[i : i + 1], mask[i : i + 1]) for i in range(len(ids))]
        scored = [array.numpy() for array in sentences.tokenize(sentences.scoring_sentences(scoring))]
        return Subject(name, sentences.embedder(), batches, scored, _embedding_figures)
    images = photographs.calibration_images(calibration)
    return Subject(name, models.build(name), images.split(1), [photographs.scoring_images(scoring).numpy()], _class_figures)


def section(
    title: str,
    pipelines: Mapping[str, Mapping[str, Sequence[Pass]]],
    folder: Path,
    *,
    calibration: int,
    scoring: int,
    report: Callable[[str], None],
    bars: Mapping[str, Mapping[str, Bar]] = {},
) -> Section:
    """Compile each network with each of its `pipelines`, and score the files; `bars` by network and quantity."""
    result = Section(
        title,
        f"Calibrated on {calibration} samples, scored on {scoring} others against the float model, the file run in OpenVINO. "
        "File: bytes, as a share of FP32. Seconds: from the model to the file.",
    )
    for name, by_label in pipelines.items():
        one = subject(name, calibration, scoring)
        plain = _file(one, [FOLD, CANONICAL], folder / f"{name}-float.onnx")
        reference = openvino_runner.outputs(plain, *one.scoring)
        for label, chosen in by_label.items():
            report(f"{name}: {label}")
            started = time.perf_counter()
            path = _file(one, chosen, folder / f"{name}-trial.onnx")
            seconds = time.perf_counter() - started
            row, judged = f"{name}: {label}", bars.get(name, {})
            result.figures += one.figures(row, openvino_runner.outputs(path, *one.scoring), reference, judged)
            share = path.stat().st_size / plain.stat().st_size
            result.figures.append(Figure(row, "file", share, "ratio", bar=judged.get("file")))
            result.figures.append(Figure(row, "seconds", seconds, "s"))
    return result


def _file(one: Subject, chosen: Sequence[Pass], path: Path) -> Path:
    with peers.quiet():
        return fxcompress.compile(one.model, chosen, data=one.calibration).to_onnx(path)


def _class_figures(row: str, answers: np.ndarray, reference: np.ndarray, bars: Mapping[str, Bar]) -> list[Figure]:
    agreed = 100 * openvino_runner.top1_agreement(answers, reference)
    return [Figure(row, "top-1", agreed, "%", bar=bars.get("top-1")), _noise(row, answers, reference)]


def _embedding_figures(row: str, answers: np.ndarray, reference: np.ndarray, bars: Mapping[str, Bar]) -> list[Figure]:
    cosine = sentences.mean_cosine(answers, reference)
    agreed = 100 * sentences.neighbour_agreement(answers, reference)
    return [
        Figure(row, "cosine", cosine, "cosine", bar=bars.get("cosine")),
        Figure(row, "neighbours", agreed, "%", bar=bars.get("neighbours")),
        _noise(row, answers, reference),
    ]


def _noise(row: str, answers: np.ndarray, reference: np.ndarray) -> Figure:
    return Figure(row, "SQNR", openvino_runner.decibels(answers, reference), "dB")
