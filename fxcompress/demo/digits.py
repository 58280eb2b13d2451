"""The demonstration: a small residual network on the handwritten digits that scikit-learn carries, from training to INT8.

Every step is a function, so that the steps can be read, timed and tried alone.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxcompress.errors import InputError

BATCH = 64
Progress = Callable[[str, int, int | None], None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and the input added to them (He et al., arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            convolution = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResidualNet(nn.Module):
    """Ten classes from grey images ``[batch, 1, height, width]``; `widths` are the channels of the three blocks."""

    def __init__(self, widths: tuple[int, int, int] = (48, 96, 192)):
        super().__init__()
        first, second, third = widths
        self.conv = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(first, first)
        self.block2 = ResidualBlock(first, second, stride=2)
        self.block3 = ResidualBlock(second, third, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.classifier(self.pool(x).flatten(1))


@dataclass(frozen=True)
class Digits:
    """Images ``[count, 1, 8, 8]`` in 0..1 and their labels; training never sees the test images, nor does calibration."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The 1,797 digits of scikit-learn, 70% to train and calibrate on and 30% held out, equal shares of each digit."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.3, stratify=digits.target, random_state=0)
    return Digits(images[train], labels[train], images[test], labels[test])


def train(digits: Digits, epochs: int = 6, progress: Progress = lambda *_: None) -> ResidualNet:
    """A network trained on the training images: AdamW, one cycle of the learning rate, the same seed each time."""
    torch.manual_seed(0)
    model = ResidualNet().train()
    steps = epochs * -(-len(digits.train_images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step, chosen in enumerate(_batches(len(digits.train_images), epochs), 1):
        loss = F.cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("training", step, steps)
    return model.eval()


def _batches(count: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count).split(BATCH)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: layers this small gain nothing from a second one, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Measurement:
    """One file in the runtime: top-1 `answers` on the test images, `seconds` by batch size (medians), bytes."""

    answers: np.ndarray
    seconds: dict[int, float]
    bytes: int


def measure(files: list[Path], images: Tensor, runs: int = 100, progress: Progress = lambda *_: None) -> list[Measurement]:
    """Run each of `files` in OpenVINO on the CPU.

    Both precision and turn are fair: all files run with ``INFERENCE_PRECISION_HINT=f32``, so that float layers are float32
    everywhere, and their runs alternate, so that a busy moment of the machine hits all of them.
    """
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    array = images.numpy()
    free = [core.compile_model(file, "CPU", options) for file in files]
    answers = [model(array)[0].argmax(1) for model in free]
    seconds: list[dict[int, float]] = [{} for _ in files]
    for batch in (1, BATCH):
        requests = [_request(core, file, (batch, *array.shape[1:]), options) for file in files]
        times: list[list[float]] = [[] for _ in files]
        for run in range(-10, runs):  # the first ten warm up
            for request, record in zip(requests, times):
                started = time.perf_counter()
                request.infer([array[:batch]])
                record.append(time.perf_counter() - started)
            progress(f"measuring, {batch} at a time", max(run + 1, 0), runs)
        for one, record in zip(seconds, times):
            one[batch] = statistics.median(record[10:])
    return [Measurement(a, s, file.stat().st_size) for a, s, file in zip(answers, seconds, files)]


def _request(core: Any, file: Path, shape: tuple[int, ...], options: dict[str, str]) -> Any:
    model = core.read_model(file)
    model.reshape(list(shape))
    return core.compile_model(model, "CPU", options).create_infer_request()


def processor() -> str:
    """The name of the CPU, as OpenVINO reports it."""
    import openvino

    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))


def require_extras() -> None:
    """Raise `InputError`, with the command that helps, where the demonstration's libraries are not installed."""
    missing = [name for name, module in (("scikit-learn", "sklearn"), ("openvino", "openvino")) if not _installed(module)]
    if missing:
        raise InputError(f"the demo needs {' and '.join(missing)}: pip install 'fxcompress[demo]'")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
