"""What the compiler makes of a corpus of small networks is what it was: graphs, choices, numbers, gradients and files.

`REGENERATE=1 python -m pytest tests/test_corpus.py` writes the goldens anew: read what `git diff` shows of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fxcompress
from fxcompress import passes
from tests import corpus, corpus_stacks
from tests.corpus_text import OnnxText, differences, plain, report_lines, summary, tensors

GOLDENS = Path(__file__).parent / "goldens" / "corpus"
BETWEEN = (passes.PruneFilters(amount=0.5, multiple=1), passes.FoldBatchNorm(), passes.Quantize(), passes.Calibrate())


@pytest.fixture(autouse=True)
def on_any_cpu(monkeypatch):
    """CPUs that multiply bfloat16 would look at values in it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def compare(name: str, lines: Iterator[str]) -> None:
    told, golden = "\n".join(lines) + "\n", GOLDENS / f"{name.replace(' ', '_')}.txt"
    if os.environ.get("REGENERATE"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(told)
    different = differences(told, golden.read_text())
    assert not different, f"another than {golden.name} has; if it is meant, REGENERATE=1\n{different}"


def file_lines(compiled: fxcompress.Compiled, **how: bool) -> Iterator[str]:
    yield f"file {how or ''}"
    yield from OnnxText(compiled._emitted(compiled._lowered(**how))).lines()


@pytest.mark.parametrize("name", corpus.networks())
def test_every_operation_between_two_layers(name):
    family, rank = corpus.networks()[name]
    network = corpus.network(family, rank)
    if network is None:
        pytest.skip("the family has nothing of so many dimensions")
    data = corpus.example(rank, family == "integers", 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = fxcompress.compile(network, list(BETWEEN), data=[data])
    compare(f"operations_{name}", (*report_lines(compiled.report), *file_lines(compiled)))


def lines_of(name: str) -> Iterator[str]:
    kind, stack, target = corpus_stacks.STACKS[name]
    torch.manual_seed(1)
    model, x = kind().eval(), corpus_stacks.example(kind)
    batches = [(one,) for one in x.split(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = fxcompress.compile(model, list(stack), data=batches, target=target)
    yield from report_lines(compiled.report)
    if name.endswith("trained"):
        yield from trained_lines(compiled, batches)
        yield from tensors(sorted(compiled.state_dict().items()))
    yield compiled.text()
    yield f"out {summary(compiled(x))}"
    yield from file_lines(compiled)
    if name.startswith("binarized"):
        yield from file_lines(compiled, binary_convolutions=True)


def trained_lines(compiled: fxcompress.Compiled, batches: list) -> Iterator[str]:
    controller = compiled.controller
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.01)
    yield f"stage {controller.compression_stage()}"
    for epoch in range(4):
        controller.scheduler.epoch_step()
        compiled.train()
        for batch in batches:
            controller.scheduler.step()
            optimizer.zero_grad()
            out, added = compiled(*batch), controller.loss()
            (out.square().mean() + added).backward()
            optimizer.step()
        yield f"epoch {epoch}: {summary(out)} {plain(added)} {controller.compression_stage()} "
        yield from str(controller.statistics()).splitlines() if epoch in (0, 3) else ()
        yield from tensors((n, p.grad) for n, p in compiled.named_parameters() if p.grad is not None) if epoch == 2 else ()
    compiled.eval()
    yield f"schedules {plain(controller.scheduler.state_dict())}"


@pytest.mark.parametrize("name", corpus_stacks.STACKS)
def test_every_stack(name):
    compare(name, lines_of(name))
