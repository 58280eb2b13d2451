"""Files run in OpenVINO's CPU plugin: how long they take, side by side, and what they answer.

Float parts are computed in float32 (``INFERENCE_PRECISION_HINT=f32``). Left to itself the plugin takes bfloat16 where
the CPU has it, and a "float" model is then not the reference that it is taken for.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.medians import orders
from benchmarks.requirements import need

THREADS = 2


def compile_file(path: Path, *shapes: tuple[int, ...], threads: int = THREADS):
    """The .onnx or .xml file at `path`, compiled for inputs of `shapes`, batch included, and for low latency."""
    core = need("openvino").Core()
    model = core.read_model(path)
    model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes, strict=True)})
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    return core.compile_model(model, "CPU", options)


def latencies(
    files: Mapping[str, Path],
    *inputs: np.ndarray,
    loads: int = 6,
    rounds: int = 40,
    repeats: int = 3,
    threads: int = THREADS,
) -> dict[str, np.ndarray]:
    """Seconds an inference of each of `files`, all measured side by side.

    A round gives every file one short turn, in a new order (`medians.orders`): one inference that only brings the
    weights back into the cache, then `repeats` timed ones, whose median is the round's figure. Rounds of equal number
    are therefore comparable across files, however the machine's speed drifts. After every `rounds` rounds all files are
    compiled anew, since where their memory lies moves a file's latency by more than the noise of one load.

    Args:
        files: paths by name; one path may stand under two names, which shows what the measurement cannot tell apart.
        inputs: a sample of each input, batch included, in the order that the files have them.

    Returns:
        By name, (loads, rounds) seconds.
    """
    seconds = {name: np.empty((loads, rounds)) for name in files}
    names = list(files)
    for load in range(loads):
        requests = {name: _request(files[name], inputs, threads) for name in names}
        gc.collect()
        gc.disable()
        try:
            for number, order in enumerate(orders(len(names), rounds, seed=load)):
                for position in order:
                    seconds[names[position]][load, number] = _turn(requests[names[position]], repeats)
        finally:
            gc.enable()
    return seconds


def _request(path: Path, inputs: Sequence[np.ndarray], threads: int):
    """An inference request with its inputs set, warm."""
    request = compile_file(path, *(array.shape for array in inputs), threads=threads).create_infer_request()
    for position, array in enumerate(inputs):
        request.set_input_tensor(position, need("openvino").Tensor(np.ascontiguousarray(array)))
    for _ in range(3):
        request.infer()
    return request


def _turn(request, repeats: int) -> float:
    """The median seconds of `repeats` inferences after one that is not timed."""
    request.infer()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        request.infer()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def outputs(path: Path, *inputs: np.ndarray, batch: int = 10) -> np.ndarray:
    """The file's first output for all samples of `inputs`, `batch` at a time; a shorter last batch is filled up and cut."""
    return all_outputs(path, *inputs, batch=batch)[0]


def all_outputs(path: Path, *inputs: np.ndarray, batch: int = 10) -> list[np.ndarray]:
    """`outputs`, all of them, in the file's order."""
    batch = min(batch, len(inputs[0]))
    compiled = compile_file(path, *((batch, *array.shape[1:]) for array in inputs))
    answers = []
    for start in range(0, len(inputs[0]), batch):
        parts = [array[start : start + batch] for array in inputs]
        filled = [np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)]) for part in parts]
        made = compiled(filled)
        answers.append([made[port][: len(parts[0])].copy() for port in compiled.outputs])
    return [np.concatenate(parts) for parts in zip(*answers)]


def top1_agreement(answers: np.ndarray, reference: np.ndarray) -> float:
    """The share of rows, 0 to 1, whose largest logit is in the same place. Both (samples, classes)."""
    return float((answers.argmax(1) == reference.argmax(1)).mean())


def decibels(answers: np.ndarray, reference: np.ndarray) -> float:
    """Signal to quantization noise of `answers`: 10 log10 of the energy of `reference` over that of the difference."""
    noise = np.square(answers.astype(np.float64) - reference).sum()
    return float("inf") if noise == 0 else float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise))
