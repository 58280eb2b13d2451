"""Latency in OpenVINO of the emitted file, against the peers' files and FP32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks import openvino_runner, peers
from benchmarks.medians import median, paired_ratio
from benchmarks.scoreboard import Bar, Figure, Section

NETWORKS = ("resnet18", "mobilenet_v2", "resnet50", "efficientnet_lite0")

AGAINST_PEER = Bar("at most", 1.0)
SPEED_UP = {"resnet18": Bar("at least", 3.4), "resnet50": Bar("at least", 3.4)}

CONTROL = "fxcompress again"
"""The emitted file under a second name: what its ratio strays from 1, the measurement cannot tell."""


def section(
    files: Mapping[str, Mapping[str, Path]],
    sample: np.ndarray,
    *,
    loads: int,
    rounds: int,
    repeats: int,
    report: Callable[[str], None],
) -> Section:
    """Measure the files of each network, given by network and tool, on `sample` (1, 3, 224, 224)."""
    result = Section(
        "Latency in OpenVINO",
        f"Batch 1, INFERENCE_PRECISION_HINT=f32, latency hint, {openvino_runner.THREADS} threads. All files of a "
        f"network side by side: {loads} x {rounds} rounds in turning order, compiled anew every {rounds}; ratios are "
        "medians over rounds, below 1 where fxcompress is faster; 95% bootstrap intervals in brackets.",
        notes=[f'"{CONTROL}" is the same file once more: what its ratio strays from 1 is noise.'],
    )
    for name, by_tool in files.items():
        report(f"{name}: latency")
        named = {**by_tool, CONTROL: by_tool[peers.OURS.name]}
        taken = openvino_runner.latencies(named, sample, loads=loads, rounds=rounds, repeats=repeats)
        result.figures += figures(name, taken)
    return result


def figures(name: str, seconds: Mapping[str, np.ndarray]) -> list[Figure]:
    """Milliseconds of each file, the ratios to the peers, and the speed-up over FP32."""
    ours, plain = seconds[peers.OURS.name], seconds[peers.FLOAT.name]
    shown = [tool for tool in seconds if tool != CONTROL]
    found = [Figure.of(name, tool, median(seconds[tool]).scaled(1e3), "ms") for tool in shown]
    for tool, taken in seconds.items():
        if tool not in (peers.OURS.name, peers.FLOAT.name):
            bar = None if tool == CONTROL else AGAINST_PEER
            found.append(Figure.of(name, f"fxcompress / {tool}", paired_ratio(ours, taken), "ratio", bar))
    found.append(Figure.of(name, "FP32 / fxcompress", paired_ratio(plain, ours), "times", SPEED_UP.get(name)))
    return found
