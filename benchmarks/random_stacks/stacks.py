"""Random stacks of passes with random options, each pass as the text that makes it."""

from __future__ import annotations

import random
from collections.abc import Sequence

_SPECS = [
    "QuantizationSpec(bits=8, signed=True, symmetric=True, narrow=True)",
    "QuantizationSpec(bits=8, symmetric=False)",
    "QuantizationSpec(bits=8, signed=False)",
    "QuantizationSpec(bits=6, signed=True)",
    "QuantizationSpec(bits=4, signed=True)",
    "QuantizationSpec(bits=4, signed=True, narrow=True)",
    "QuantizationSpec(bits=4, symmetric=False)",
    "QuantizationSpec(bits=3, signed=True)",
    "QuantizationSpec(bits=2, signed=True)",
    "QuantizationSpec(bits=4, signed=True, group_size=2)",
    "QuantizationSpec(bits=4, signed=True, group_size=5)",
    "QuantizationSpec(bits=8, signed=True, group_size=3)",
]
_ACTIVATIONS = [
    "QuantizationSpec(bits=8, symmetric=False)",
    "QuantizationSpec(bits=8, symmetric=True)",
    "QuantizationSpec(bits=8, symmetric=True, signed=True)",
    "QuantizationSpec(bits=8, symmetric=False, signed=True)",
    "QuantizationSpec(bits=6, symmetric=False)",
    "QuantizationSpec(bits=4, symmetric=False)",
    "QuantizationSpec(bits=4, symmetric=True)",
]
_ESTIMATORS = ["min_max", "mean_min_max", "percentile", "three_sigma", "mse", "entropy"]
_SCHEDULES = ["Polynomial(epochs=1)", "Polynomial(epochs=2)"]

# Each option with the texts that it may have; one that is not drawn keeps its default.
_OPTIONS: dict[str, dict[str, Sequence[str]]] = {
    "FoldBatchNorm": {},
    "CanonicalizeActivations": {},
    "EqualizeLayers": {"bias_share": ["0.0", "0.5"], "iterations": ["3"]},
    "SplitChannels": {"channels": ["1", "3", "16"], "gain": ["1.01"], "samples": ["4"]},
    "SmoothActivations": {"samples": ["4"], "tokens": ["16"]},
    "OrderChannels": {},
    "PruneFilters": {
        "amount": ["0.3", "0.5", "0.7"],
        "multiple": ["1", "1", "2"],
        "criterion": ["'l1'", "'geometric_median'"],
        "ranking": ["'global'"],
        "schedule": _SCHEDULES,
    },
    "RemoveFilters": {},
    "Binarize": {"weights": ["'dorefa'"], "samples": ["5"]},
    "Sparsify": {
        "level": ["0.5", "0.7", "0.9", "0.0"],
        "criterion": ["'magnitude'"],
        "ranking": ["'local'"],
        "schedule": _SCHEDULES,
    },
    "LearnSparsity": {"level": ["0.3", "0.7"], "schedule": ["None", *_SCHEDULES]},
    "Quantize": {
        "weights": _SPECS,
        "activations": _ACTIVATIONS,
        "weight_estimator": [f"'{name}'" for name in _ESTIMATORS],
        "activation_estimator": [f"'{name}'" for name in _ESTIMATORS],
        "reduce_range": ["True"],
        "embeddings": ["False"],
        "exact_sums": ["True"],
    },
    "RoundWeights": {"samples": ["4"], "columns": ["None"], "sweeps": ["1"], "damping": ["0.1"]},
    "Calibrate": {
        "estimator": [f"'{name}'" for name in _ESTIMATORS],
        "samples": ["7"],
        "chunk": ["1"],
        "precision": ["'float32'"],
    },
    "LearnRounding": {"iterations": ["0", "5"], "samples": ["10"]},
    "CorrectBias": {"samples": ["7"]},
    "ChooseBits": {"ratio": ["1.3"], "bits": ["(2, 4, 8)"]},
    "RestorePrecision": {"bits": ["8"]},
    "TrainQuantizers": {"inputs": ["True"], "weights_start_epoch": ["1"], "activations_start_epoch": ["1"]},
    "RemoveDropout": {},
    "Distill": {"loss": ["'softmax'"], "scale": ["0.5"]},
}
_LOSS = "loss=lambda model, batch: sum(o.square().mean() for o in torch.utils._pytree.tree_leaves(model(*batch)))"


def random_stack(draw: random.Random, binary: bool = False) -> tuple[str, ...] | None:
    """Passes in an order that makes sense; None, a third of the time, for the default ones. `binary` ones binarize, mostly."""
    if draw.random() < 0.33 and not binary:
        return None
    chance = lambda share: draw.random() < share  # noqa: E731
    names = []
    for name, share in [("FoldBatchNorm", 0.5), ("CanonicalizeActivations", 0.5), ("EqualizeLayers", 0.2)]:
        names += [name] * chance(share)
    names += [name for name in ("SplitChannels", "SmoothActivations", "OrderChannels") if chance(0.3)]
    names += [
        name
        for name, share in [
            ("PruneFilters", 0.3),
            ("Binarize", 0.9 if binary else 0.1),
            ("Sparsify", 0.2),
            ("LearnSparsity", 0.1),
        ]
        if chance(share)
    ]
    if "PruneFilters" in names and chance(0.3):
        names.append("RemoveFilters")
    if chance(0.9):
        names.append("Quantize")
        names += [name for name, share in [("ChooseBits", 0.1), ("RoundWeights", 0.4)] if chance(share)]
        names.append("Calibrate")
        names += [
            name
            for name, share in [
                ("LearnRounding", 0.15),
                ("CorrectBias", 0.15),
                ("RestorePrecision", 0.15),
                ("TrainQuantizers", 0.25),
            ]
            if chance(share)
        ]
    names += [name for name, share in [("RemoveDropout", 0.1), ("Distill", 0.1)] if chance(share)]
    return tuple(_text(draw, name) for name in names)


def _text(draw: random.Random, name: str) -> str:
    chosen = {option: draw.choice(texts) for option, texts in _OPTIONS[name].items() if draw.random() < 0.35}
    if name == "Quantize" and "group_size" not in chosen.get("weights", "") and draw.random() < 0.15:
        chosen["per_channel"] = "False"
    if name == "Sparsify" and draw.random() < 0.2:
        chosen = {"pattern": "'2:4'"}
    arguments = [f"{option}={text}" for option, text in chosen.items()]
    if name == "ChooseBits":
        arguments.insert(0, _LOSS)
    if name == "RestorePrecision":
        arguments.insert(0, draw.choice(["min_decibels=20.0", "min_decibels=35.0", "max_size=0.4", "max_size=0.3"]))
    if name == "PruneFilters" and "amount" not in chosen:
        arguments.insert(0, draw.choice(["amount=0.5", "flops=0.4"]))
    return f"passes.{name}({', '.join(arguments)})"
