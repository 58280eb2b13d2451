"""Decoders of Hugging Face with their cache, each as one file: what either runtime makes of prompts and steps.

    pip install transformers
    python -m benchmarks.decoders [--families Llama GPT2] [--weights]

The networks are small and have random weights: they prove names, shapes and values, not quality. A row is the lowest SQNR of
the logits and of the new cache against the model itself, over an empty cache, one token at a time, and several samples.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.models import import_torchvision
from benchmarks.requirements import need

RESULTS = Path(__file__).parent / "results"
WORDS, LAYERS = 99, 2
COMMON = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
GPT = {"vocab_size": WORDS, "n_embd": 64, "n_layer": LAYERS, "n_head": 4}
EIGHTHS = {**GPT, "rotary_dim": 8}
HEADS = {**COMMON, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bloom": {"vocab_size": WORDS, "hidden_size": 64, "n_layer": LAYERS, "n_head": 4},
    "CodeGen": EIGHTHS,
    "Cohere": COMMON,
    "Falcon": COMMON,
    "Gemma": HEADS,
    "Gemma2": HEADS,
    "Gemma3": HEADS,
    "Glm": HEADS,
    "GPT2": GPT,
    "GPTBigCode": GPT,
    "GPTJ": EIGHTHS,
    "GPTNeo": {
        "vocab_size": WORDS,
        "hidden_size": 64,
        "num_layers": LAYERS,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
    },
    "GPTNeoX": COMMON,
    "Granite": COMMON,
    "Llama": COMMON,
    "Mistral": COMMON,
    "Mixtral": {**COMMON, "num_local_experts": 2, "num_experts_per_tok": 1},
    "Olmo2": COMMON,
    "OPT": {**COMMON, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "Phi": COMMON,
    "Phi3": COMMON,
    "Qwen2": COMMON,
    "Qwen3": HEADS,
    "SmolLM3": COMMON,
    "StableLm": COMMON,
    "Starcoder2": COMMON,
}
STEPS = ((2, 0, 6), (1, 6, 1), (3, 4, 3), (1, 0, 1))
"""Samples, tokens read before, tokens to read."""


def build(family: str) -> nn.Module:
    """A small decoder of `family`, in inference mode."""
    transformers = need("transformers")
    torch.manual_seed(0)
    names = {"GPT2": ("GPT2Config", "GPT2LMHeadModel"), "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM")}
    config, model = names.get(family, (f"{family}Config", f"{family}ForCausalLM"))
    return getattr(transformers, model)(getattr(transformers, config)(**FAMILIES[family])).eval()


def row(family: str, weights: bool) -> dict[str, Any]:
    """What became of one family: its inputs, and the lowest decibels in each runtime; or what was wrong."""
    import fxcompress
    from fxcompress import defaults

    model = build(family)
    stages = defaults.weights_only() if weights else []
    step = fxcompress.decoding_inputs(model, {"input_ids": torch.randint(3, WORDS, (2, 8))}, past=5)
    try:
        compiled = fxcompress.compile(model, stages, example_inputs=step, dynamic_shapes="auto")
        reference = compiled if weights else model
        if not isinstance(compiled, fxcompress.Compiled):
            return {"problem": "compiled in parts"}
        with tempfile.TemporaryDirectory() as folder:
            path = compiled.to_onnx(Path(folder) / "m.onnx", verify=False)
            names, runs = _runtimes(path)
            return {name: round(float(min(_decibels(reference, model, names, run))), 1) for name, run in runs.items()}
    except Exception as problem:
        return {"problem": f"{type(problem).__name__}: {str(problem).splitlines()[0]}"}


def _runtimes(path: Path) -> tuple[list[str], dict[str, Callable[[dict[str, np.ndarray]], list[np.ndarray]]]]:
    onnxruntime, openvino = need("onnxruntime"), need("openvino")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(path, "CPU", exact)
    runs = {"OpenVINO": lambda feed: list(compiled(feed).values()), "onnxruntime": lambda feed: session.run(None, feed)}
    return [one.name for one in session.get_inputs()], runs


def _decibels(reference: nn.Module, model: nn.Module, names: list[str], run: Any) -> Iterator[float]:
    import fxcompress

    for batch, past, new in STEPS:
        ids = torch.randint(3, WORDS, (batch, past + new), generator=torch.Generator().manual_seed(past))
        step = fxcompress.decoding_inputs(model, {"input_ids": ids}, past=past)
        extra = {} if isinstance(reference, fxcompress.Compiled) else {"use_cache": True}
        wanted = _arrays(reference(**copy.deepcopy(step), **extra))
        for got, want in zip(run(dict(zip(names, _arrays(step)))), wanted, strict=True):
            noise = float(np.square(got - want, dtype=np.float64).sum())
            yield 10 * np.log10(float(np.square(want, dtype=np.float64).sum()) / max(noise, 1e-30))


def _arrays(tree: Any) -> list[np.ndarray]:
    return [leaf.detach().numpy() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As a page of the repository."""
    transformers = need("transformers")
    lines = [
        "# Decoders with their cache",
        "",
        f"`python -m benchmarks.decoders`, transformers {transformers.__version__}: small networks with random weights. Lowest",
        "SQNR in dB of logits and new cache against the model, over an empty cache, single tokens and several samples.",
        "",
        "| family | OpenVINO | onnxruntime | problem |",
        "|---|---|---|---|",
    ]
    for family, found in rows.items():
        lines.append(
            f"| {family} | {found.get('OpenVINO', '')} | {found.get('onnxruntime', '')} | {found.get('problem', '')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--weights", action="store_true", help="compress the weights; compared with the simulation")
    arguments = parser.parse_args()
    import_torchvision()
    warnings.simplefilter("ignore")
    rows = {}
    for family in arguments.families:
        rows[family] = row(family, arguments.weights)
        print(family, rows[family], file=sys.stderr, flush=True)
    if len(rows) == len(FAMILIES) and not arguments.weights:
        (RESULTS / "decoders.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "decoders.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
