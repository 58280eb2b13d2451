from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import os, time
import torch
from torch import Tensor, fx

from fxcompress.effect import Effect
from fxcompress.errors import InputError, source_line
from fxcompress.execution import Execution
from fxcompress.inputs import batch_is_free
from fxcompress.pipeline import Context, Pass
from fxcompress.quantization.blocks import Block, blocks
from fxcompress.quantization.layers import quantized_layers
from fxcompress.quantization.patches import CONVOLUTIONS, LINEAR
from fxcompress.quantization.relaxation import RelaxedWeight
from fxcompress.rewrite import Replacement
from fxcompress.samples import one_batch


@dataclass(frozen=True, kw_only=True)
class LearnRounding(Pass):
    iterations: int = 100
    samples: int = 32
    batch: int = 4
    learning_rate: float = 0.02
    regularization: float = 0.01
    warm_up: float = 0.2
    block: int = 1
    seed: int = 0

    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "calibrated"})

    def run(self, graph_module: fx.GraphModule, context: Context) -> list[Replacement]:
        assert context.reference is not None
        layers = quantized_layers(graph_module, context.reference, context.target, (*CONVOLUTIONS, LINEAR), self.name)
        parts = blocks(graph_module.graph, context.reference.graph, layers, self.block)
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim()==4 else x for x in one_batch(graph_module.graph, context, self.samples)]
        reference, quantized = Execution(context.reference, inputs), Execution(graph_module, inputs)
        generator = torch.Generator().manual_seed(self.seed)
        rewritten = []
        for done, block in enumerate(parts):
            context.progress("learning to round", done, len(parts))
            t = time.time()
            with torch.no_grad():
                reference.advance(block.twin)
                reference.run(block.twin)
                while quantized.left[-1] is not block.nodes[0]:
                    quantized.run(quantized.left[-1])
            held = {source: quantized.value(source) for source in block.sources if source in quantized.values}
            wanted = reference.value(block.twin)
            before, after = self.learn(graph_module, block, held, wanted, generator)
            with torch.no_grad():
                quantized.advance(block.output)
                quantized.run(block.output)
            if os.environ.get('V'): print(f"{block.output.name:20} {len(block.layers)} {before:.5g} -> {after:.5g} ({after/before:.3f}) {time.time()-t:.1f}s", flush=True)
        return rewritten

    def learn(self, gm, block, held, wanted, generator):
        relaxed = {l.node.args[1]: RelaxedWeight(l.weight, l.weight_now, l.quantizer) for l in block.layers}
        n = len(wanted)
        def objective(weights):
            with torch.no_grad():
                total = 0.0
                for idx in torch.arange(n).split(self.batch):
                    total += (self.output(gm, block, held, weights, idx) - wanted[idx]).square().sum().item()
                return total
        start = objective({})
        power = start / n
        count = sum(r.logits.numel() for r in relaxed.values())
        opt = torch.optim.Adam([r.logits for r in relaxed.values()], lr=self.learning_rate)
        warm = int(self.warm_up * self.iterations)
        order = []
        for it in range(self.iterations):
            if len(order) < self.batch:
                order = torch.randperm(n, generator=generator).tolist()
            idx = torch.tensor(order[: self.batch]); order = order[self.batch:]
            weights = {k: r.value() for k, r in relaxed.items()}
            out = self.output(gm, block, held, weights, idx)
            loss = (out - wanted[idx]).square().sum() / (len(idx) * power)
            if it >= warm:
                beta = 2 + 0.5 * 18 * (1 + __import__('math').cos((it - warm) / max(1, self.iterations - warm) * 3.14159))
                loss = loss + self.regularization * sum(r.penalty(beta) for r in relaxed.values())
            opt.zero_grad()
            loss.backward()
            opt.step()
        settled = {k: r.settled() for k, r in relaxed.items()}
        after = objective(settled)
        if os.environ.get('V'):
            moved = sum((r.settled() != (r.start - r.zero_point) * r.scale).sum().item() for r in relaxed.values()) / count
            und = sum(((r.share() > 0.1) & (r.share() < 0.9)).sum().item() for r in relaxed.values()) / count
            print(f"   moved {moved:.3f} undecided {und:.3f}", end=' ')
        if after < start:
            for l in block.layers:
                l.set_weight(settled[l.node.args[1]])
        return start, after

    def output(self, gm, block, held, weights, idx):
        known = {k: v[idx] for k, v in held.items()} | weights
        e = Execution.of_part(gm, block.nodes, known)
        e.advance(block.output); e.run(block.output)
        return e.value(block.output)
