"""A Llama of 100 M parameters that generates, weights in 4 bits, beside NNCF's `compress_weights` on the same graph.

    pip install nncf transformers
    python -m benchmarks.generation [--rounds 5] [--prompt 128] [--steps 24]

Weights are random: sizes, times, memory and the distance to FP32 are those of the form, not of a language. Every file reads
one prompt and goes on for some tokens that are given, one thread each, all in turns; times are of the CPU, so that other
programs do not count. NNCF compresses the file that FP32 is measured on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fxcompress
from benchmarks.machine import describe_machine, one_line
from benchmarks.medians import orders
from benchmarks.models import import_torchvision
from benchmarks.peers import quiet
from benchmarks.requirements import need
from benchmarks.resident import Resident
from fxcompress import defaults

RESULTS = Path(__file__).parent / "results"
CONFIG = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}
GROUP = 128

Step = Callable[[np.ndarray, int], np.ndarray]
"""Logits of some tokens, ``[1, tokens]``, behind so many others; none before means a new text."""


def llama() -> nn.Module:
    """The model, in inference mode."""
    transformers = need("transformers")
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()


def files(folder: Path) -> dict[str, Path]:
    """Every file by its name in the table."""
    model = llama()
    example = fxcompress.decoding_inputs(model, {"input_ids": torch.randint(3, 1000, (2, 12))}, past=5)
    found = {}
    for name, stages in (("FP32", []), ("fxcompress", defaults.weights_only())):
        compiled = fxcompress.compile(model, stages, example_inputs=example)
        found[f"OpenVINO, {name}"] = compiled.to_openvino(folder / f"{name}.xml", stateful=True, verify=False)
        # NNCF needs opset 21 for groups; below it writes an operator of onnxruntime's, in a form that 1.32 does not load.
        found[f"onnxruntime, {name}"] = compiled.to_onnx(folder / f"{name}.onnx", opset=21, verify=False)
    nncf, openvino, onnx = need("nncf"), need("openvino"), need("onnx")
    how = {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": GROUP, "ratio": 1.0}
    with quiet():
        graph = openvino.Core().read_model(found["OpenVINO, FP32"])
        found["OpenVINO, NNCF"] = folder / "nncf.xml"
        openvino.save_model(nncf.compress_weights(graph, **how), found["OpenVINO, NNCF"], compress_to_fp16=False)
        found["onnxruntime, NNCF"] = folder / "nncf.onnx"
        onnx.save(nncf.compress_weights(onnx.load(found["onnxruntime, FP32"]), **how), found["onnxruntime, NNCF"])
    return found


def size(path: Path) -> int:
    """Bytes of a file and of its weights."""
    beside = path.with_suffix(".bin").name if path.suffix == ".xml" else f"{path.name}."
    return sum(file.stat().st_size for file in path.parent.iterdir() if file == path or file.name.startswith(beside))


def loaded(path: Path) -> Step:
    """The file at `path` in its runtime, on one thread."""
    return _in_openvino(path) if path.suffix == ".xml" else _in_onnxruntime(path)


def _in_openvino(path: Path) -> Step:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "KV_CACHE_PRECISION": "f32"}
    request = need("openvino").Core().compile_model(path, "CPU", options).create_infer_request()

    def step(tokens: np.ndarray, past: int) -> np.ndarray:
        if not past:
            request.reset_state()
        mask = np.ones((1, past + tokens.shape[1]), np.int64)
        request.infer({"input_ids": tokens, "attention_mask": mask, "beam_idx": np.zeros(1, np.int32)})
        return request.get_output_tensor(0).data

    return step


def _in_onnxruntime(path: Path) -> Step:
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()][2:]
    empty = np.zeros((1, CONFIG["num_key_value_heads"], 0, CONFIG["hidden_size"] // CONFIG["num_attention_heads"]), np.float32)
    cache: list[np.ndarray] = []

    def step(tokens: np.ndarray, past: int) -> np.ndarray:
        nonlocal cache
        mask = np.ones((1, past + tokens.shape[1]), np.int64)
        held = cache if past else [empty] * len(names)
        logits, *cache = session.run(None, {"input_ids": tokens, "attention_mask": mask, **dict(zip(names, held))})
        return logits

    return step


def generated(step: Step, prompt: np.ndarray, after: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds of CPU until the first token, and for each further one; the logits of all of those, ``[tokens, words]``."""
    started = time.process_time()
    logits = [step(prompt, 0)[0, -1].copy()]
    first = time.process_time() - started
    started = time.process_time()
    logits += [step(after[:, [i]], prompt.shape[1] + i)[0, -1].copy() for i in range(after.shape[1])]
    return first, (time.process_time() - started) / after.shape[1], np.stack(logits)


def texts(prompt: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a prompt, and those that are given after it."""
    random = np.random.default_rng(0)
    return random.integers(3, CONFIG["vocab_size"], (1, prompt)), random.integers(3, CONFIG["vocab_size"], (1, steps))


def measure(folder: Path, rounds: int, prompt: int, steps: int) -> dict[str, dict[str, Any]]:
    """Every file's row."""
    found, given = files(folder), texts(prompt, steps)
    rows: dict[str, dict[str, Any]] = {}
    for name, path in list(found.items()):
        command = [sys.executable, "-m", "benchmarks.generation", "--memory-of", str(path)]
        told = subprocess.run([*command, "--prompt", str(prompt), "--steps", str(steps)], capture_output=True, check=False)
        rows[name] = {"MiB": round(size(path) / 2**20, 1)}
        if told.returncode:
            rows[name]["problem"] = told.stderr.decode().strip().splitlines()[-1][:200]
            del found[name]
        else:
            rows[name]["memory, MiB"] = round(int(told.stdout.split()[-1]) / 2**20)
    steppers = {name: loaded(path) for name, path in found.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    logits = {name: generated(step, *given)[2] for name, step in steppers.items()}
    names = list(found)
    for order in orders(len(names), rounds):
        for position in order:
            taken[names[position]].append(generated(steppers[names[position]], *given)[:2])
    for name in names:
        row, runtime = rows[name], name.partition(",")[0]
        mine, plain = np.array(taken[name]), np.array(taken[f"{runtime}, FP32"])
        theirs = np.array(taken.get(f"{runtime}, NNCF", np.nan))
        row["first token, ms"], row["tokens a second"] = round(np.median(mine[:, 0]) * 1e3), round(1 / np.median(mine[:, 1]), 1)
        for what, other in (("FP32", plain), ("NNCF", theirs)):
            row[f"first token, of {what}'s time"], row[f"next token, of {what}'s time"] = (
                round(float(share), 2) for share in np.median(mine / other, 0)
            )
        row["cosine of the logits"] = round(_cosine(logits[name], logits[f"{runtime}, FP32"]), 4)
    return rows


def _cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    found, wanted = (one.astype(np.float64) / np.linalg.norm(one, axis=-1, keepdims=True) for one in (found, wanted))
    return float((found * wanted).sum(-1).mean())


def memory(path: Path, prompt: int, steps: int) -> int:
    """Bytes that loading the file and generating take of this process, at the most."""
    given, peak = texts(prompt, steps), Resident()
    need("openvino" if path.suffix == ".xml" else "onnxruntime")
    peak.start()
    generated(loaded(path), *given)
    return peak.above()


def table(rows: dict[str, dict[str, Any]], how: Sequence[str]) -> str:
    """As a page of the repository."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["# Generating", "", *how, "", f"| | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    lines += [f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--memory-of", type=Path, help="print what this file takes, and nothing else")
    given = parser.parse_args()
    if given.memory_of:
        print(memory(given.memory_of, given.prompt, given.steps))
        return
    import_torchvision()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.rounds, given.prompt, given.steps)
    how = [
        one_line(describe_machine()) + ".",
        "",
        f"`python -m benchmarks.generation --rounds {given.rounds} --prompt {given.prompt} --steps {given.steps}`: a Llama of "
        "100 M parameters with random weights and a cache; 4 bits, asymmetric, in groups of 128, no data; OpenVINO's files are "
        "stateful. One thread, times of the CPU, medians over rounds in which all files take turns; memory is the most that "
        "loading and generating take.",
    ]
    (RESULTS / "generation.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "generation.md").write_text(table(rows, how), encoding="utf-8")
    print(table(rows, how))


if __name__ == "__main__":
    main()
