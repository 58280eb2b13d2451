"""Sentence embeddings of a quantized MiniLM-L6: how near they are to the float model's in OpenVINO, how long they take, and
how long it takes to the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fxcompress
from benchmarks import openvino_runner, peers, sentences
from benchmarks.compile_time import AGAINST_NNCF, take_turns, timed
from benchmarks.latency import AGAINST_PEER, CONTROL
from benchmarks.medians import median, paired_ratio
from benchmarks.requirements import need
from benchmarks.scoreboard import Bar, Figure, Section
from benchmarks.subjects import embedding_figures

NETWORKS = ("minilm_l6",)

BARS = {"cosine": Bar("at least", 0.998), "neighbours": Bar("at least", 93.0)}
SPEED_UP = Bar("at least", 2.6)
NEVER_SLOWER = Bar("at least", 1.0)

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]

NNCF_TRANSFORMER, NNCF = "NNCF OpenVINO, transformer mode", "NNCF OpenVINO"


def section(
    folder: Path, *, calibration: int, scoring: int, loads: int, rounds: int, repeats: int, report: Callable[[str], None]
) -> Section:
    """Build every tool's file, and measure them side by side."""
    texts = sentences.calibration_sentences(calibration)
    files = build_files(folder, texts, report)
    tokens = [array.numpy() for array in sentences.tokenize(sentences.scoring_sentences(scoring))]
    report("minilm_l6: embeddings")
    result = Section(
        "Sentence embeddings",
        f"all-MiniLM-L6-v2, {sentences.TOKENS} tokens, calibrated on {calibration} film reviews and scored on {scoring} "
        "others; run in OpenVINO. Cosine: the mean over sentences, to the float model's embedding. Neighbours: the share of "
        "sentences whose nearest other one is the float model's. Latency: batch 1, INFERENCE_PRECISION_HINT=f32, "
        f"{loads} x {rounds} rounds in turning order. Model to file: seconds from the torch model, with the calibration "
        f"sentences one by one; {repeats} rounds in turning order, what a first use imports or compiles not counted. NNCF "
        "takes the model as OpenVINO converts it.",
        notes=[f'"{CONTROL}" is the same file once more: what its ratio strays from 1 is noise.'],
    )
    result.figures = quality(files, tokens)
    report("minilm_l6: latency")
    named = {**files, CONTROL: files[peers.OURS.name]}
    taken = openvino_runner.latencies(named, *(array[:1] for array in tokens), loads=loads, rounds=rounds)
    result.figures += latency(taken)
    report("minilm_l6: model to file")
    result.figures += compile_figures(compile_times(folder, sentences.batches(texts), repeats))
    return result


def quality(files: Mapping[str, Path], tokens: Sequence[np.ndarray]) -> list[Figure]:
    """How near each file's embeddings are to the float model's; bars for fxcompress."""
    reference = openvino_runner.outputs(files[peers.FLOAT.name], *tokens)
    found = []
    for tool, path in files.items():
        if tool == peers.FLOAT.name:
            continue
        bars = BARS if tool == peers.OURS.name else {}
        found += embedding_figures(tool, openvino_runner.outputs(path, *tokens), reference, bars)
        size = sum(part.stat().st_size for part in {path, path.with_suffix(".bin")} if part.exists())
        found.append(Figure(tool, "file", size / files[peers.FLOAT.name].stat().st_size, "ratio"))
    return found


def latency(seconds: Mapping[str, np.ndarray]) -> list[Figure]:
    """Milliseconds of each file, its speed-up over FP32, and the ratio of ours to it."""
    ours, plain = seconds[peers.OURS.name], seconds[peers.FLOAT.name]
    found = []
    for tool, taken in seconds.items():
        found.append(Figure.of(tool, "latency", median(taken).scaled(1e3), "ms"))
        if tool != peers.FLOAT.name:
            bar = SPEED_UP if tool == peers.OURS.name else None
            found.append(Figure.of(tool, "FP32 / it", paired_ratio(plain, taken), "times", bar))
        if tool not in (peers.FLOAT.name, peers.OURS.name):
            judged = None if tool == CONTROL else AGAINST_PEER
            found.append(Figure.of(tool, "fxcompress / it", paired_ratio(ours, taken), "ratio", judged))
    return found


def compile_times(folder: Path, batches: Batches, repeats: int) -> dict[str, np.ndarray]:
    """Seconds from the torch model to the file, (repeats,) by tool."""

    def ours(batches: Batches, model: nn.Module) -> None:
        _fxcompress(folder / "timed.onnx", model, batches)

    def theirs(batches: Batches, model: nn.Module) -> None:
        _nncf(folder / "timed.xml", need("openvino").convert_model(model, example_input=batches[0]), batches, True)

    def jobs(batches: Batches) -> list[Callable[[nn.Module], dict[str, float]]]:
        named = {peers.OURS.name: ours, NNCF_TRANSFORMER: theirs}
        return [partial(timed, name, partial(tool, batches)) for name, tool in named.items()]

    model = sentences.embedder()
    take_turns(model, jobs(batches[:2]), 1)
    return take_turns(model, jobs(batches), repeats)


def compile_figures(seconds: Mapping[str, np.ndarray]) -> list[Figure]:
    """What `compile_times` found, with both bars: that of every pipeline, and that of the default one."""
    found = [Figure.of(tool, "model to file", median(taken), "s") for tool, taken in seconds.items()]
    faster = paired_ratio(seconds[NNCF_TRANSFORMER], seconds[peers.OURS.name])
    for what, bar in (("to file, it / fxcompress", NEVER_SLOWER), ("to file, it / the default pipeline", AGAINST_NNCF)):
        found.append(Figure.of(NNCF_TRANSFORMER, what, faster, "times", bar))
    return found


def build_files(folder: Path, texts: Sequence[str], report: Callable[[str], None]) -> dict[str, Path]:
    """The file of every tool, calibrated on `texts`; those that stand in `folder` already are kept."""
    batches = sentences.batches(list(texts))
    plain = folder / "minilm_l6-fp32.onnx"

    def converted() -> Any:
        return need("openvino").convert_model(plain)

    made: dict[str, tuple[Path, Callable[[Path], None]]] = {
        peers.FLOAT.name: (plain, lambda path: _export_float(path, *sentences.tokenize(list(texts[:2])))),
        peers.OURS.name: (folder / "minilm_l6-fxcompress.onnx", lambda path: _fxcompress(path, sentences.embedder(), batches)),
        NNCF_TRANSFORMER: (folder / "minilm_l6-nncf-transformer.xml", lambda path: _nncf(path, converted(), batches, True)),
        NNCF: (folder / "minilm_l6-nncf.xml", lambda path: _nncf(path, converted(), batches, False)),
    }
    for tool, (path, build) in made.items():
        if not path.exists():
            report(f"minilm_l6: {tool} file")
            with peers.quiet():
                build(path)
    return {tool: path for tool, (path, _) in made.items()}


def _export_float(path: Path, ids: torch.Tensor, mask: torch.Tensor) -> None:
    shapes = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    model = sentences.embedder()
    torch.onnx.export(model, (ids, mask), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)


def _fxcompress(path: Path, model: nn.Module, batches: Batches) -> None:
    fxcompress.compile(model, data=batches).to_onnx(path)


def _nncf(path: Path, model: Any, batches: Batches, transformer: bool) -> None:
    """Quantize an OpenVINO model, and write it."""
    nncf, openvino = need("nncf"), need("openvino")
    names = [port.get_any_name() for port in model.inputs]
    dataset = nncf.Dataset([dict(zip(names, (array.numpy() for array in batch))) for batch in batches])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    quantized = nncf.quantize(model, dataset, model_type=kind, subset_size=len(batches))
    openvino.save_model(quantized, path, compress_to_fp16=False)
