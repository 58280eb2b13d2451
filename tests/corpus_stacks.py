"""Small networks and the stacks of passes that are compiled over them, each option somewhere beside its default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxcompress import QuantizationOptions as Options
from fxcompress import QuantizationSpec as Spec
from fxcompress import defaults, passes
from fxcompress.training import Adaptive, Baseline, Exponential, ExponentialWithBias, MultiStep, Polynomial


class Pictures(nn.Module):
    """Convolutions of every kind with batch norms, a residual, a gate, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.grouped = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, groups=2), nn.PReLU(12))
        self.gate = nn.Conv2d(12, 12, 1)
        self.wide = nn.Sequential(nn.Conv2d(12, 10, 1), nn.BatchNorm2d(10), nn.SiLU(), nn.Dropout(0.2))
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.grouped(x + self.depthwise(x))
        x = x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()
        x = self.up(self.wide(F.avg_pool2d(x, 3, 1, 1)))
        return self.head(torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1).mean((2, 3)))


class Tokens(nn.Module):
    """An embedding, attention spelled out, an MLP, and norms between them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.places = nn.Parameter(torch.randn(6, 16))
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 7)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.out(((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.last(x))))
        return self.head(x)


class WideTokens(Tokens):
    """With a channel in each norm that is far wider than others: what to smooth is no matter of rounding."""

    def __init__(self):
        super().__init__()
        self.norm.weight.data[3] = self.last.weight.data[5] = 60.0


class Features(nn.Module):
    """Linear layers whose channels differ in size by orders, sums along them, and a product of activations."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 6)
        with torch.no_grad():
            self.first.weight[::5] *= 20
            self.first.bias[1::5] += 3
        self.again = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x))) + self.again(x.cumsum(1))
        return self.third(F.leaky_relu(y)) * y.mean(-1, keepdim=True)


class Chain(nn.Module):
    """Blocks without a branch, wide enough to be binarized, pruned in pairs or split."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(16) for _ in range(3)])
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.a.weight[::7] *= 9
            for norm in self.norms:
                norm.running_var.uniform_(0.5, 2)
                norm.running_mean.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.a(x)))
        x = F.hardtanh(self.norms[1](self.b(x)))
        x = F.relu(self.norms[2](self.c(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Recurrent(nn.Module):
    """Recurrences of each kind, one behind the other."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.second = nn.GRU(12, 6, batch_first=True)
        self.third = nn.RNN(6, 5, batch_first=True, nonlinearity="relu")
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x)[0])[0])[0])


INPUTS = {Pictures: (3, 8, 8), Tokens: None, WideTokens: None, Features: (5, 8), Recurrent: (5, 8), Chain: (3, 6, 6)}


def example(kind: type[nn.Module], batch: int = 8) -> Tensor:
    """The same input each time, of magnitudes that differ by column."""
    generator = torch.Generator().manual_seed(3)
    if INPUTS[kind] is None:
        return torch.randint(0, 20, (batch, 6), generator=generator)
    x = torch.randn(batch, *INPUTS[kind], generator=generator)
    return x * torch.linspace(0.5, 2, x.shape[-1])


def energy(model: nn.Module, batch: tuple) -> Tensor:
    """A loss that needs no label."""
    return model(*batch).square().mean()


_FOLD = (passes.FoldBatchNorm(), passes.CanonicalizeActivations())
_INT8 = (*_FOLD, passes.Quantize(), passes.Calibrate())
_FOUR = Spec(bits=4, signed=True, narrow=True)


def _quantized(estimator: str | None = None, **options: object) -> tuple:
    return (*_FOLD, passes.Quantize(**options), passes.Calibrate(**({"estimator": estimator} if estimator else {})))


STACKS: dict[str, tuple[type[nn.Module], tuple, str]] = {
    # name: network, passes, target; a name that ends in "trained" is trained for some steps
    "pictures default": (Pictures, tuple(defaults.post_training()), "openvino"),
    "pictures onnxruntime": (Pictures, tuple(defaults.post_training()), "onnxruntime"),
    "tokens default": (Tokens, tuple(defaults.post_training()), "openvino"),
    "tokens onnxruntime": (Tokens, _INT8, "onnxruntime"),
    "features default": (Features, tuple(defaults.post_training()), "openvino"),
    "recurrent": (Recurrent, (passes.PruneFilters(amount=0.5, multiple=1), *_INT8), "openvino"),
    "chain high": (
        Chain,
        (*_INT8, passes.ReconstructOutputs(samples=6, judging=2, epochs=2, batch_size=3, learning_rate=1e-3)),
        "openvino",
    ),
    "tokens weights": (
        Tokens,
        (passes.CompressWeights(bits=4, group_size=8, embeddings=8, head=6), passes.StoreIntegers()),
        "openvino",
    ),
    "tokens weights smaller": (Tokens, (passes.CompressWeights(bits=3, symmetric=True, max_size=0.34, head=None),), "openvino"),
    "equalized": (Chain, (*_FOLD, passes.EqualizeLayers(iterations=7, tolerance=0.01, samples=5, judging=2)), "openvino"),
    "equalized biases": (Features, (passes.EqualizeLayers(bias_share=0.6, samples=5, judging=2),), "openvino"),
    "split": (Chain, (*_FOLD, passes.SplitChannels(channels=5, gain=1.01, samples=6, judging=3)), "openvino"),
    "split features": (
        Features,
        (passes.SplitChannels(channels=3, gain=1.0), passes.Quantize(), passes.Calibrate()),
        "openvino",
    ),
    "smoothed": (WideTokens, (passes.SmoothActivations(samples=6, tokens=9, token_samples=4, judging=2),), "openvino"),
    "smoothed features": (Features, (passes.SmoothActivations(), passes.Quantize(), passes.Calibrate()), "openvino"),
    "ordered": (Chain, (*_FOLD, passes.OrderChannels(), passes.Quantize(reduce_range="pairs"), passes.Calibrate()), "openvino"),
    "reduced": (Chain, _quantized(reduce_range=True), "openvino"),
    "full range": (Chain, _quantized(reduce_range=False, per_channel=False), "onnxruntime"),
    "mean of ranges": (Pictures, _quantized("mean_min_max", weight_estimator="mse"), "openvino"),
    "percentiles": (Features, _quantized("percentile", weight_estimator="three_sigma"), "openvino"),
    "three sigma": (Chain, _quantized("three_sigma", weight_estimator="percentile"), "onnxruntime"),
    "least squares": (Features, _quantized("mse", weight_estimator="entropy"), "openvino"),
    "entropy": (Chain, _quantized("entropy", weight_estimator="mean_min_max"), "openvino"),
    "output error": (Tokens, (passes.Quantize(), passes.Calibrate(estimator="output_error", gradient_samples=5)), "openvino"),
    "few samples": (Chain, (*_FOLD, passes.Quantize(), passes.Calibrate(samples=5, chunk=2, precision="float32")), "openvino"),
    "four bits": (Chain, _quantized(weights=_FOUR, activations=Spec(bits=6, symmetric=False)), "openvino"),
    "groups": (Features, _quantized(weights=Spec(bits=4, signed=True, group_size=3)), "openvino"),
    "zero points": (Features, _quantized(weights=Spec(bits=5, symmetric=False)), "onnxruntime"),
    "signed": (Chain, _quantized(activations=Spec(bits=8, symmetric=True, signed=True), exact_sums=True), "onnxruntime"),
    "signs of data": (Features, _quantized(activations=Spec(bits=8, symmetric=True)), "openvino"),
    "weights alone": (Tokens, _quantized(activations=None, embeddings=False), "openvino"),
    "scopes": (
        Pictures,
        _quantized(scopes=["stem", "wide", "head"], ignored=["head"], overrides={"wide": Options(weights=_FOUR)}),
        "openvino",
    ),
    "rounded": (
        Chain,
        (
            *_FOLD,
            passes.Quantize(weights=_FOUR),
            passes.RoundWeights(samples=5, patches=9, damping=0.5, sweeps=1, judging=3),
            passes.Calibrate(),
        ),
        "openvino",
    ),
    "rounded tokens": (
        Tokens,
        (passes.Quantize(), passes.RoundWeights(tokens=12, token_samples=5, columns=7, token_columns=9), passes.Calibrate()),
        "openvino",
    ),
    "learned rounding": (
        Chain,
        (*_quantized(weights=_FOUR), passes.LearnRounding(samples=6, judging=2, patches=8, iterations=6, regularization=1.0)),
        "openvino",
    ),
    "corrected biases": (Chain, (*_quantized(weights=_FOUR), passes.CorrectBias(samples=6, judging=2)), "openvino"),
    "chosen bits": (
        Chain,
        (
            *_FOLD,
            passes.Quantize(),
            passes.ChooseBits(loss=energy, ratio=1.4, bits=(2, 4, 8), samples=6, draws=3),
            passes.Calibrate(),
        ),
        "openvino",
    ),
    "restored decibels": (
        Chain,
        (*_quantized(weights=_FOUR), passes.RestorePrecision(min_decibels=24.0, samples=6)),
        "openvino",
    ),
    "restored bits": (
        Features,
        (*_quantized(weights=_FOUR), passes.RestorePrecision(max_size=0.6, bits=8, samples=6)),
        "openvino",
    ),
    "restored layers": (Pictures, (*_INT8, passes.RestorePrecision(min_decibels=60.0, max_layers=2)), "openvino"),
    "adapted norms": (Chain, (passes.AdaptBatchNorm(samples=6), passes.RemoveDropout()), "openvino"),
    "pruned": (Pictures, (passes.PruneFilters(amount=0.5, multiple=1), *_INT8), "openvino"),
    "pruned flops": (Chain, (passes.PruneFilters(flops=0.4, multiple=2, criterion="l1", ranking="global"),), "openvino"),
    "pruned sums": (
        Pictures,
        (
            passes.PruneFilters(
                amount=0.4, multiple=1, criterion="geometric_median", first=False, summed=True, downsampling=False
            ),
        ),
        "openvino",
    ),
    "pruned tokens": (
        Tokens,
        (passes.PruneFilters(amount=0.5, multiple=4, ignored=["head"]), passes.RemoveFilters()),
        "openvino",
    ),
    "pruned features": (Features, (passes.PruneFilters(amount=0.3, multiple=1, scopes=["first", "second"]),), "openvino"),
    "pruned trained": (
        Pictures,
        (passes.PruneFilters(amount=0.5, multiple=1, schedule=Exponential(epochs=2)), *defaults.training(), passes.Distill()),
        "openvino",
    ),
    "pruned budget trained": (
        Chain,
        (passes.PruneFilters(flops=0.4, multiple=1, schedule=MultiStep(levels=(0.1, 0.2), epochs=(1, 2))),),
        "openvino",
    ),
    "sparse": (Chain, (passes.Sparsify(level=0.6), *_INT8), "openvino"),
    "sparse local": (
        Features,
        (passes.Sparsify(level=0.4, criterion="magnitude", ranking="local", ignored=["third"]),),
        "openvino",
    ),
    "sparse pattern": (Tokens, (passes.Sparsify(pattern="2:4"), passes.Quantize(), passes.Calibrate()), "openvino"),
    "sparse trained": (
        Chain,
        (passes.Sparsify(level=0.6, schedule=Polynomial(epochs=2, steps_per_epoch=2, concave=False)), *defaults.training()),
        "openvino",
    ),
    "sparse bias trained": (
        Features,
        (passes.Sparsify(level=0.6, schedule=ExponentialWithBias(epochs=3, initial=0.1)),),
        "openvino",
    ),
    "learned sparsity trained": (
        Chain,
        (passes.LearnSparsity(level=0.4, schedule=Adaptive(step=0.1), freeze_epoch=1, ignored=["head"]), *defaults.training()),
        "openvino",
    ),
    "learned sparsity steps trained": (Features, (passes.LearnSparsity(level=0.3, schedule=Baseline(warmup=1)),), "openvino"),
    "binarized": (Chain, (passes.Binarize(ignored=["a"], samples=5), *_INT8), "openvino"),
    "binarized trained": (
        Chain,
        (passes.Binarize(weights="dorefa", scopes=["b", "c"], activations_start_epoch=1, weights_start_epoch=2),),
        "openvino",
    ),
    "ranges trained": (
        Pictures,
        (
            *_INT8,
            passes.TrainQuantizers(inputs=True, weights_start_epoch=1, learning_rate_multiplier=0.5),
            passes.Distill(loss="softmax", temperature=2.0),
        ),
        "openvino",
    ),
    "ranges of tokens trained": (
        Tokens,
        (*defaults.training(), passes.Distill(loss="softmax", axis=-1, scale=0.5)),
        "onnxruntime",
    ),
    "signed ranges trained": (
        Features,
        (
            passes.Quantize(activations=Spec(bits=8, symmetric=True), weights=_FOUR),
            passes.Calibrate(),
            passes.TrainQuantizers(activations_start_epoch=1),
        ),
        "openvino",
    ),
}
