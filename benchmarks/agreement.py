"""How far a quantized file answers like the float model, run in OpenVINO, and whether all runtimes answer alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fxcompress
from benchmarks import models, peers
from benchmarks.openvino_runner import decibels, outputs, top1_agreement
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section

NETWORKS = ("efficientnet_lite0",)
"""Only trained weights tell anything about quality."""

TOP1 = Bar("at least", 92.0)
SQNR = Bar("at least", 20.0)
SAME_ANSWER = Bar("at least", 99.9)


def section(
    files: Mapping[str, Mapping[str, Path]], images: Tensor, scoring: Tensor, *, report: Callable[[str], None]
) -> Section:
    """Score the files of each network, given by network and tool, on `scoring`; `images` were used for calibration."""
    result = Section(
        "Agreement with FP32",
        f"Calibrated on {len(images)} crops of natural photographs, scored on {len(scoring)} crops of other parts of "
        "them; run in OpenVINO. Top-1: the share of crops on which the float model gives the same class. SQNR: of the "
        "logits.",
    )
    for name, by_tool in files.items():
        report(f"{name}: agreement")
        result.figures += figures(name, by_tool, scoring.numpy())
        result.figures += runtimes(name, images, scoring, by_tool[peers.OURS.name].with_suffix(".simulated.onnx"))
    return result


def figures(name: str, files: Mapping[str, Path], images: np.ndarray) -> list[Figure]:
    """Top-1 agreement in percent and SQNR of each quantized file; bars for fxcompress."""
    reference = outputs(files[peers.FLOAT.name], images)
    found = []
    for tool, path in files.items():
        if tool != peers.FLOAT.name:
            answers, subject = outputs(path, images), f"{name}, {tool}"
            judged = tool == peers.OURS.name and name in NETWORKS
            agreed = 100 * top1_agreement(answers, reference)
            found.append(Figure(subject, "top-1", agreed, "%", bar=TOP1 if judged else None))
            found.append(Figure(subject, "SQNR", decibels(answers, reference), "dB", bar=SQNR if judged else None))
    return found


def runtimes(name: str, images: Tensor, scoring: Tensor, path: Path) -> list[Figure]:
    """Whether the torch simulation, OpenVINO and onnxruntime give the same class for what was compiled together."""
    with peers.quiet():
        compiled = fxcompress.compile(models.build(name), example_inputs=(images[:1],), data=images.split(1))
        compiled.to_onnx(path)
    with torch.inference_mode():
        simulated = torch.cat([compiled(part) for part in scoring.split(10)]).numpy()
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    in_onnxruntime = np.concatenate([session.run(None, {feed: part.numpy()})[0] for part in scoring.split(10)])
    found = []
    for runtime, answers in (("OpenVINO", outputs(path, scoring.numpy())), ("onnxruntime", in_onnxruntime)):
        subject = f"{name}, {runtime} against the simulation"
        found.append(Figure(subject, "top-1", 100 * top1_agreement(answers, simulated), "%", bar=SAME_ANSWER))
        found.append(Figure(subject, "SQNR", decibels(answers, simulated), "dB"))
    return found
