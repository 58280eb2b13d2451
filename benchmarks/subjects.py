"""Networks with real weights, what they are calibrated and scored on, and the figures that tell how near a file comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmarks import models, photographs, sentences
from benchmarks.openvino_runner import decibels, top1_agreement
from benchmarks.scoreboard import Bar, Figure


@dataclass(frozen=True)
class Subject:
    """A network with real weights, what it is calibrated on and scored on, and the figures that tell its quality."""

    name: str
    model: nn.Module
    calibration: Sequence[Any]
    scoring: Sequence[np.ndarray]
    figures: Callable[[str, np.ndarray, np.ndarray, Mapping[str, Bar]], list[Figure]]


def subject(name: str, calibration: int, scoring: int) -> Subject:
    """``"minilm_l6"``, or a network of `models.MODELS`, with so many samples."""
    if name == "minilm_l6":
        batches = sentences.batches(sentences.calibration_sentences(calibration))
        scored = [array.numpy() for array in sentences.tokenize(sentences.scoring_sentences(scoring))]
        return Subject(name, sentences.embedder(), batches, scored, embedding_figures)
    images = photographs.calibration_images(calibration)
    return Subject(name, models.build(name), images.split(1), [photographs.scoring_images(scoring).numpy()], class_figures)


def class_figures(row: str, answers: np.ndarray, reference: np.ndarray, bars: Mapping[str, Bar]) -> list[Figure]:
    """Of logits, (samples, classes): the share with the same largest one, and the noise."""
    agreed = 100 * top1_agreement(answers, reference)
    return [Figure(row, "top-1", agreed, "%", bar=bars.get("top-1")), _noise(row, answers, reference)]


def embedding_figures(row: str, answers: np.ndarray, reference: np.ndarray, bars: Mapping[str, Bar]) -> list[Figure]:
    """Of embeddings, (samples, width): their mean cosine, the share with the same nearest neighbour, and the noise."""
    cosine = sentences.mean_cosine(answers, reference)
    agreed = 100 * sentences.neighbour_agreement(answers, reference)
    return [
        Figure(row, "cosine", cosine, "cosine", bar=bars.get("cosine")),
        Figure(row, "neighbours", agreed, "%", bar=bars.get("neighbours")),
        _noise(row, answers, reference),
    ]


def _noise(row: str, answers: np.ndarray, reference: np.ndarray) -> Figure:
    return Figure(row, "SQNR", decibels(answers, reference), "dB")
